"""Who pays: frozen cohorts of pseudonyms, what each subject has spent, and whom a spent budget leaves out."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from client.cohorts import Cohort, Pseudonyms, load_pseudonyms
from client.ledger_account import BudgetRefused
from client.ledger_schema import LedgerBroken
from client.ledger_subjects import Terms
from client.policy import Refused
from common.privacy.events import Charge, Event
from common.privacy.renyi import renyi, renyi_epsilon
from tests.ledger_bench import LedgerBench, charges_of

KEY = Pseudonyms(b"k" * 32)


@pytest.fixture
def bench(tmp_path: Path) -> LedgerBench:
    return LedgerBench(tmp_path)


def terms(train: str, test: str = "", *, key: Pseudonyms = KEY, leave_out: bool = False) -> Terms:
    return Terms({"train": key.cohort(train), "test": key.cohort(test)}, key.check, "ab" * 32, leave_out)


def spent_alone(*charges: Charge) -> float:
    return renyi_epsilon(renyi(charge.event for charge in charges), 1e-3)


def naive_root(members: tuple[bytes, ...], salt: bytes) -> str:
    """The page's words, again: halves of a level in pairs, a lone last one goes up as it is."""
    from hashlib import sha256  # noqa: PLC0415

    if not members:
        return sha256(b"\x02" + salt).hexdigest()

    def join(level: list[bytes]) -> list[bytes]:
        if len(level) < 2:
            return level
        return [sha256(b"\x01" + level[0] + level[1]).digest(), *join(level[2:])]

    level = [sha256(b"\x00" + salt + member).digest() for member in members]
    while len(level) > 1:
        level = join(level)
    return level[0].hex()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31])
def test_the_root_is_the_one_that_the_page_describes(size: int) -> None:
    cohort = KEY.cohort(str(number) for number in range(size))
    assert cohort.root == naive_root(cohort.members, cohort.salt)
    assert list(cohort.members) == sorted(cohort.members)


def test_the_same_subjects_have_another_root_in_every_run() -> None:
    assert KEY.cohort("abc").root != KEY.cohort("abc").root
    assert KEY.cohort("abc").members == KEY.cohort("cba").members


def test_nobody_without_the_key_can_name_a_subject(tmp_path: Path) -> None:
    first, again = (load_pseudonyms(tmp_path / "key", may_make=True) for _ in range(2))
    other = load_pseudonyms(tmp_path / "other", may_make=True)
    assert first == again
    assert first.of(("p-1",)) == again.of(("p-1",)) != other.of(("p-1",))
    assert first.check != other.check
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert first.key.hex() not in repr(first)


def test_a_subject_pays_for_its_own_cohorts_only(bench: LedgerBench) -> None:
    train, test = charges_of()
    with bench.open() as ledger:
        ledger.reserve("one", "hash", charges_of(), terms("ab", "c"))
        ledger.reserve("two", "hash", charges_of(noise=7.0), terms("bd", "c"))
        own = {name: ledger.spent_by(KEY.of((name,))[0]) for name in "abcde"}
        summary = ledger.spent()
    second = charges_of(noise=7.0)
    assert own["a"].spent == pytest.approx(spent_alone(train))
    assert own["b"].spent == pytest.approx(spent_alone(train, second[0]))
    assert own["c"].spent == pytest.approx(spent_alone(test, second[1]))
    assert own["d"].spent == pytest.approx(spent_alone(second[0]))
    assert (own["e"].spent, own["e"].runs) == (0.0, ())  # new patients start at zero
    assert own["b"].runs == ("one", "two")
    assert sorted(one.subjects for one in summary.subjects.classes) == [1, 1, 1, 1]
    assert summary.subjects.largest == pytest.approx(max(one.spent for one in own.values()))
    assert summary.subjects.largest <= summary.spent  # the institution's figure is for whoever may have been in all


def test_who_left_the_folder_keeps_what_was_spent_and_a_settled_run_costs_what_ran(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("one", "hash", charges_of(steps=60), terms("ab"))
        ledger.release("one", 1, "task", "training", 20, request="cd" * 32)
        ledger.settle("one")
        ledger.reserve("two", "hash", charges_of(steps=60), terms("b"))
        gone, stayed = (ledger.spent_by(KEY.of((name,))[0]) for name in "ab")
    ran = charges_of(steps=20)[0]
    assert gone.spent == pytest.approx(spent_alone(ran))
    assert stayed.spent == pytest.approx(spent_alone(ran, charges_of(steps=60)[0]))


def test_the_ledger_answers_for_one_modality(bench: LedgerBench) -> None:
    audio = Charge("train", "training", Event("gaussian", 9.0, 1.0, 10), ("audio",), ("encoder/audio",))
    both = Charge("train", "normalisation", Event("discrete_gaussian", 5.0, 1.0, 1), ("audio", "image"))
    with bench.open() as ledger:
        ledger.reserve("run", "hash", (audio, both), Terms({"train": KEY.cohort("a")}, KEY.check))
        one = ledger.spent_by(KEY.of(("a",))[0])
    assert one.by_modality == pytest.approx({"audio": spent_alone(audio, both), "image": spent_alone(both)})
    assert one.spent == pytest.approx(one.by_modality["audio"])


def test_a_cohort_stays_frozen_when_the_run_is_asked_for_again(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run", "hash", charges_of(), terms("ab"))
        ledger.reserve("run", "hash", charges_of(), terms("abcdef"))
        members = ledger.members("run", lambda: KEY.check)
    assert members is not None
    assert members["train"] == frozenset(KEY.of(("a", "b")))


def test_another_pseudonym_key_is_refused_since_everybody_would_start_at_zero(bench: LedgerBench) -> None:
    other = Pseudonyms(b"o" * 32)
    with bench.open() as ledger:
        ledger.reserve("run", "hash", charges_of(), terms("ab"))
        with pytest.raises(LedgerBroken, match="restore it"):
            ledger.reserve("next", "hash", charges_of(), terms("ab", key=other))
        with pytest.raises(LedgerBroken, match="restore it"):
            ledger.members("run", lambda: other.check)
        assert [line.run for line in ledger.spent().runs] == ["run"]


def test_leaving_out_takes_every_run_and_nobody_past_the_budget(bench: LedgerBench) -> None:
    bench = replace(bench, lifetime_epsilon=2 * spent_alone(charges_of()[0]))
    with bench.open() as ledger:
        for number in range(6):
            ledger.reserve(
                f"run-{number}", "hash", charges_of(), terms("ab" if number < 5 else "abnew", leave_out=True)
            )
        taken = [ledger.members(f"run-{number}", lambda: KEY.check) for number in range(6)]
        summary = ledger.spent()
        with pytest.raises(BudgetRefused):  # what no empty ledger would hold is refused, whoever is in the folder
            ledger.reserve("greedy", "hash", charges_of(noise=1.0), terms("z", leave_out=True))
        with pytest.raises(BudgetRefused):  # and without leaving out, so is the next run
            ledger.reserve("plain", "hash", charges_of(), terms("z"))
    sizes = [len(members["train"]) for members in taken if members is not None]
    fits = sizes.index(0)
    assert 1 <= fits < 5
    assert sizes == [2] * fits + [0] * (5 - fits) + [3]  # n, e and w are new
    assert all(one.needed <= bench.lifetime_epsilon for one in summary.subjects.classes)


def test_what_leaving_out_answers_does_not_depend_on_who_is_there(bench: LedgerBench, tmp_path: Path) -> None:
    entries = []
    for name, members in (("some", "ab"), ("none", "")):
        (tmp_path / name).mkdir()
        own = replace(bench, folder=tmp_path / name, lifetime_epsilon=1.2 * spent_alone(charges_of()[0]))
        with own.open() as ledger:
            for number in range(3):
                ledger.reserve(f"run-{number}", "hash", charges_of(), terms(members, leave_out=True))
            entries.append([(entry.kind, entry.run) for entry in ledger.entries()])
    assert entries[0] == entries[1]


def test_members_cannot_be_changed_through_the_database(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run", "hash", charges_of(), terms("ab"))
    with sqlite3.connect(bench.path) as connection:
        for statement in ("DELETE FROM members", "UPDATE members SET pseudonym = 'x'", "DELETE FROM cohorts"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    connection.close()


def test_without_leaves_the_salt_and_the_order() -> None:
    cohort = Cohort(tuple(sorted(KEY.of(("a", "b", "c")))), b"s" * 32)
    left = cohort.without(KEY.of(("b",)))
    assert left == Cohort(tuple(sorted(KEY.of(("a", "c")))), b"s" * 32)


def test_a_member_who_is_lost_from_the_table_is_noticed_and_starts_nothing_anew(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run", "hash", charges_of(), terms("ab"))
    connection = sqlite3.connect(bench.path)
    connection.executescript("DROP TRIGGER members_no_delete; DELETE FROM members WHERE rowid = 1")
    connection.close()
    with bench.open() as ledger:
        for ask in (
            lambda: ledger.members("run", lambda: KEY.check),
            ledger.spent,
            lambda: ledger.reserve("next", "hash", charges_of(), terms("ab", leave_out=True)),
        ):
            with pytest.raises(LedgerBroken, match="not those that were written down"):
                ask()


def test_a_release_under_another_plan_is_refused(bench: LedgerBench) -> None:
    with bench.open() as ledger:
        ledger.reserve("run", "hash", charges_of(), terms("ab"))
        with pytest.raises(Refused, match="another plan"):
            ledger.release("run", 1, "task", "training", 1, plan="other")
        assert ledger.release("run", 1, "task", "training", 1, plan="hash")


def test_identifiers_are_the_same_however_their_accents_are_written() -> None:
    assert KEY.of(("Jos\N{LATIN SMALL LETTER E WITH ACUTE}",)) == KEY.of(("Jose\N{COMBINING ACUTE ACCENT}",))
