"""Entries that are chained and signed, and still are no ledger: what the institution's own key cannot make right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.verify_ledgers import ORDERS, TABLE, Row, Scribe, canonical, charge, complaints, example, judged

Write = Callable[[Scribe], object]


def begun(**header: object) -> Scribe:
    scribe = Scribe()
    scribe.append("header", "", scribe.header(**header))
    return scribe


def reserved(scribe: Scribe, run: str = "run-1", **changed: object) -> dict[str, str]:
    roots = {"train": scribe.cohort(["ada", "bob"])}
    scribe.reserve(run, [charge("training", "train")], roots, **changed)
    return roots


def problems(scribe: Scribe, tmp_path: Path) -> dict[int, list[str]]:
    return complaints(judged(scribe.write(tmp_path / "ledger.sqlite")))


HEADERS: dict[str, tuple[dict[str, object], str]] = {
    "an unknown field": ({"motto": "x"}, "its body (header) has a field that nobody knows: motto"),
    "another adjacency": ({"adjacency": "replace one"}, "adjacency is replace one"),
    "another unit": ({"unit": "record"}, "unit is record"),
    "another sampling": ({"sampling": "shuffled"}, "sampling is shuffled"),
    "orders that fall": ({"orders": ORDERS[::-1]}, "orders is no rising list"),
    "no orders": ({"orders": []}, "orders is no rising list"),
    "an order of one": ({"orders": [1, 4]}, "an order is outside (1, 10000]"),
    "an order beyond reach": ({"orders": [4, 10**9]}, "an order is outside (1, 10000]"),
    "an order that is text": ({"orders": ["4"]}, "an order is 4, not a number"),
    "an order that is none": ({"order": 5}, "the filter's order 5 is none of its orders"),
    "delta of one": ({"delta": 1}, "delta is 1, not in (0, 1)"),
    "delta that is true": ({"delta": True}, "delta is True, not a number"),
    "no key": ({"public_key": "k"}, "public_key is no key"),
    "no site": ({"site": ""}, "site is no text"),
    "an unknown version": ({"schema": 4}, "schema is 4, which this reader does not know"),
    "no time": ({"when": "yesterday"}, "when is no time but yesterday"),
    "no zone": ({"when": "2026-03-01T00:00:00"}, "when has no time zone"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_says_something_else_is_named(tmp_path: Path, name: str) -> None:
    changed, complaint = HEADERS[name]
    assert any(complaint in text for text in problems(begun(**changed), tmp_path)[0])


CHARGES: dict[str, tuple[dict[str, object], str]] = {
    "too little noise": ({"noise_multiplier": 1e-4}, "noise_multiplier is 0.0001, below 0.001"),
    "noise without end": ({"noise_multiplier": 10**400}, "not a number within 2^53"),
    "noise that is text": ({"noise_multiplier": "5"}, "noise_multiplier is 5, not a number"),
    "a rate of nothing": ({"sampling_rate": 0}, "sampling_rate is 0, which gaussian does not allow"),
    "a rate above one": ({"sampling_rate": 1.5}, "sampling_rate is 1.5, which gaussian does not allow"),
    "a sampled table": (TABLE | {"sampling_rate": 0.5}, "which discrete_gaussian does not allow"),
    "another mechanism": ({"mechanism": "laplace"}, "mechanism is laplace, which is none of"),
    "a count below nothing": ({"count": -1}, "count is -1, not a whole number from 0"),
    "half a count": ({"count": 1.5}, "count is 1.5, not a whole number"),
    "a count that is true": ({"count": True}, "count is True, not a whole number"),
    "no sampling at a rate": ({"sampling_rate": 0.5, "sampling": "none"}, "sampling is none at sampling_rate 0.5"),
    "shuffled": ({"sampling": "shuffled"}, "sampling is shuffled at sampling_rate 1"),
    "another adjacency": ({"adjacency": "replace one"}, "adjacency is replace one"),
    "modalities that are no list": ({"modalities": "ecg"}, "modalities is no list"),
    "a modality twice": ({"modalities": ["ecg", "ecg"]}, "modalities is no list of names that stand once each"),
    "an unknown field": ({"discount": 1}, "a charge has a field that nobody knows: discount"),
}


@pytest.mark.parametrize("name", CHARGES)
def test_a_charge_out_of_its_range_is_named(tmp_path: Path, name: str) -> None:
    changed, complaint = CHARGES[name]
    scribe = begun()
    scribe.reserve("run-1", [charge("training", "train", **changed)], {"train": scribe.cohort(["ada"])})
    scribe.release("run-1", 1)
    found = problems(scribe, tmp_path)
    assert any(complaint in text for text in found[1]), found
    assert set(found) == {1}  # its releases are in their place; what they may count up to nobody can say


RESERVATIONS: dict[str, tuple[Write, str]] = {
    "a purpose twice": (
        lambda scribe: scribe.reserve(
            "run-1",
            [charge("training", "train"), charge("training", "train", count=1)],
            {"train": scribe.cohort(["ada"])},
        ),
        "it reserves training more than once",
    ),
    "a cohort without root": (
        lambda scribe: scribe.reserve("run-1", [charge("training", "train")], {}),
        "it names no root for cohort train",
    ),
    "a root that is none": (
        lambda scribe: scribe.reserve("run-1", [charge("training", "train")], {"train": "ab"}),
        "cohorts gives no roots",
    ),
    "a root that is nowhere": (
        lambda scribe: scribe.reserve("run-1", [charge("training", "train")], {"train": "ab" * 32}),
        "its cohort abababababababab... is not in the table of cohorts",
    ),
    "no charges": (lambda scribe: scribe.append("reserve", "run-1", {"charges": "none"}), "charges is no list"),
    "no bundle": (lambda scribe: reserved(scribe, bundle=None), "bundle is no text"),
    "an unknown field": (lambda scribe: reserved(scribe, note="x"), "has a field that nobody knows: note"),
    "a body that is no JSON": (lambda scribe: scribe.append_body("reserve", "run-1", "{"), "its body is no JSON"),
    "a body with a space": (lambda scribe: scribe.append_body("reserve", "run-1", "{ }"), "not in the one form"),
    "a field that stands twice": (
        lambda scribe: scribe.append_body("settle", "run-1", '{"when":"a","when":"b"}'),
        "not in the one form",
    ),
    "not a number": (lambda scribe: scribe.append_body("reserve", "run-1", '{"delta":NaN}'), "its body is no JSON"),
    "a deep body": (lambda scribe: scribe.append_body("reserve", "run-1", "[" * 100_000), "its body is no JSON"),
    "a list": (lambda scribe: scribe.append_body("reserve", "run-1", "[]"), "its body (reserve) is no object"),
    "an unknown kind": (lambda scribe: scribe.append("refund", "run-1", {}), "its kind is refund, which is none of"),
    "no run": (lambda scribe: reserved(scribe, run=""), "its kind is reserve, and it names no run"),
    "a second header": (lambda scribe: scribe.append("header", "", scribe.header()), "there is one header, at entry 0"),
    "a release of nothing": (lambda scribe: scribe.release("run-1", 1), "release of run run-1, which was never"),
    "a settlement of nothing": (lambda scribe: scribe.settle("run-1"), "settle of run run-1, which was never reserved"),
    "a migration backwards": (
        lambda scribe: scribe.append("migrate", "", {"from": 3, "to": 2, "when": scribe.when()}),
        "it goes from version 3 to 2, where the ledger was at 3",
    ),
    "a migration from elsewhere": (
        lambda scribe: scribe.append("migrate", "", {"from": 2, "to": 3, "when": scribe.when()}),
        "where the ledger was at 3",
    ),
}


@pytest.mark.parametrize("name", RESERVATIONS)
def test_an_entry_that_makes_no_sense_is_named(tmp_path: Path, name: str) -> None:
    write, complaint = RESERVATIONS[name]
    scribe = begun()
    write(scribe)
    assert any(complaint in text for text in problems(scribe, tmp_path)[1])


AFTERWARDS: dict[str, tuple[Write, str]] = {
    "a second reservation": (reserved, "run run-1 was reserved before, at entry 1"),
    "the same release": (lambda scribe: scribe.release("run-1", 1), "round 1, stage task, was released before"),
    "too many": (lambda scribe: scribe.release("run-1", 2, count=10), "11 of training are released by now, and 10"),
    "another purpose": (lambda scribe: scribe.release("run-1", 2, "audit"), "1 of audit are released by now, and 0"),
    "a release of none": (lambda scribe: scribe.release("run-1", 2, count=0), "count is 0, not a whole number from 1"),
    "no request": (lambda scribe: scribe.release("run-1", 2, request=None), "request is no text"),
}


@pytest.mark.parametrize("name", AFTERWARDS)
def test_an_entry_that_contradicts_those_before_it_is_named(tmp_path: Path, name: str) -> None:
    write, complaint = AFTERWARDS[name]
    scribe = begun()
    reserved(scribe)
    scribe.release("run-1", 1)
    write(scribe)
    found = problems(scribe, tmp_path)
    assert any(complaint in text for text in found[3]), found


def test_what_an_open_run_released_beyond_its_reservation_is_counted(tmp_path: Path) -> None:
    scribe = begun()
    reserved(scribe)
    scribe.release("run-1", 1, count=25)
    totals = judged(scribe.write(tmp_path / "ledger.sqlite")).totals
    assert totals is not None
    assert totals.rho == pytest.approx(25 * 4 / 50)


def test_a_header_that_names_an_entry_before_it_is_found(tmp_path: Path) -> None:
    scribe = Scribe()
    scribe.append("settle", "an older life of this ledger", {"when": scribe.when()})
    scribe.append("header", "", scribe.header())
    reserved(scribe)
    scribe.rows = [renumbered(scribe, row) for row in scribe.rows[1:]]
    found = problems(scribe, tmp_path)
    assert found[0] == ["it does not stand at the beginning: it names an entry before it"]


def renumbered(scribe: Scribe, row: Row) -> Row:
    """The same entry one place further up, signed by the ledger's own key; the one behind it names it as before."""
    seq, kind, run, body, previous, *_ = row
    digest = hashlib.sha256(canonical(["fedmosaic ledger 2", seq - 1, kind, run, body, previous]).encode()).hexdigest()
    return seq - 1, kind, run, body, previous, digest, scribe.key.sign(digest.encode()).hex()


@pytest.mark.parametrize("write", [lambda scribe: scribe.release("run-1", 5), lambda scribe: scribe.settle("run-1")])
def test_nothing_comes_after_a_settlement(tmp_path: Path, write: Write) -> None:
    scribe = example()
    write(scribe)
    assert any("of run run-1, which was settled at entry 4" in text for text in problems(scribe, tmp_path)[8])


def test_a_ledger_that_was_brought_from_version_2_to_3_passes(tmp_path: Path) -> None:
    scribe = Scribe()
    header = scribe.header()
    del header["schema"]
    scribe.append("header", "", header)
    known = ("cohort", "purpose", "mechanism", "noise_multiplier", "sampling_rate", "count")
    old = {name: value for name, value in charge("training", "train").items() if name in known}
    scribe.append("reserve", "old", {"plan": "hash", "charges": [old], "when": scribe.when()})
    scribe.append("migrate", "", {"from": 2, "to": 3, "when": scribe.when()})
    reserved(scribe, "new")
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"))
    assert verdict.problems == ()
    assert verdict.totals is not None
    assert verdict.totals.everyone == pytest.approx(10 * 4 / 50)  # the old run: ten Gaussians of noise 5 at order 4
    assert verdict.totals.classes[0].rho == pytest.approx(20 * 4 / 50)
    assert "reservations without cohorts, which every subject pays for: entries 1" in verdict.notes[0].text


def test_an_entry_of_version_2_after_the_migration_is_named(tmp_path: Path) -> None:
    scribe = begun()
    scribe.append("reserve", "run-1", {"plan": "hash", "charges": [], "when": scribe.when()})
    assert "its body (reserve) has no bundle" in problems(scribe, tmp_path)[1]


def test_everyone_pays_for_a_reservation_that_names_no_cohorts(tmp_path: Path) -> None:
    scribe = begun()
    facts: dict[str, object] = {"plan": "hash", "charges": [charge("training", "train")], "bundle": ""}
    scribe.append("reserve", "run-1", facts | {"when": scribe.when()})
    reserved(scribe, "run-2")
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"))
    assert verdict.problems == ()
    assert verdict.totals is not None
    assert verdict.totals.everyone == pytest.approx(10 * 4 / 50)
    assert verdict.totals.classes[0].rho == pytest.approx(20 * 4 / 50)


def test_a_subject_in_two_cohorts_of_one_run_is_found(tmp_path: Path) -> None:
    scribe = begun()
    roots = {"train": scribe.cohort(["ada", "bob"]), "test": scribe.cohort(["bob", "cyd"])}
    scribe.reserve("run-1", [charge("training", "train"), charge("evaluation", "test", **TABLE)], roots)
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"))
    assert complaints(verdict) == {1: ["1 subject is in more than one cohort of run run-1"]}
    assert verdict.totals is not None
    assert verdict.totals.largest() > verdict.totals.needed


def test_salts_and_roots_that_serve_twice_are_found(tmp_path: Path) -> None:
    scribe = begun()
    roots = {"train": scribe.cohort(["ada"], salt="aa" * 32), "test": scribe.cohort(["bob"], salt="aa" * 32)}
    scribe.reserve("run-1", [charge("training", "train")], roots)
    scribe.reserve("run-2", [charge("training", "train")], {"train": roots["train"]})
    found = problems(scribe, tmp_path)
    assert sum("its salt is another cohort's too" in text for text in found[1]) == 2
    assert any("is that of entry 1" in text for text in found[2])


def test_a_cohort_without_members_has_a_root_too(tmp_path: Path) -> None:
    scribe = begun()
    scribe.reserve("run-1", [charge("training", "train")], {"train": scribe.cohort([])})
    assert problems(scribe, tmp_path) == {}


def test_what_is_worth_knowing_is_no_problem(tmp_path: Path) -> None:
    scribe = example()
    scribe.cohort(["ida"])
    scribe.release("run-2", 3, when="2026-03-01T00:00:30+00:00")
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"))
    assert verdict.problems == ()
    notes = {note.entry: note.text for note in verdict.notes}
    assert notes[8] == "the clock went back by 0:07:30"
    assert notes[5] == "run run-2 is not settled: its whole reservation counts"
    assert "no reservation names it" in notes[-1]


def test_a_name_cannot_move_the_cursor(tmp_path: Path) -> None:
    scribe = begun()
    scribe.release("run\x1b[2J\n", 1)
    assert problems(scribe, tmp_path)[1] == ["release of run 'run\\x1b[2J\\n', which was never reserved"]
