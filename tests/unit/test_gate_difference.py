"""Two folders that differ in one subject: what was not charged beforehand is the same from both, whatever is asked."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.enrolment import open_ledger
from client.gate import answer
from client.policy import read_policy
from client.site import Site
from common.data.folder import keyed_split
from common.large_messages import (
    ChooseRequest,
    LargeCheckRequest,
    LargeMaskRequest,
    LargeRevealRequest,
    LargeShareRequest,
)
from common.messages import (
    Advert,
    CheckRequest,
    Enrol,
    Enrolled,
    MaskRequest,
    Plain,
    Refusal,
    Reply,
    Request,
    RevealRequest,
    Settle,
    Settled,
    ShareRequest,
    Task,
    pack,
)
from common.receipts import Receipt
from common.releases import tables_of
from common.secagg.transcript import read_advert
from tests.federation_run import REPEATABLE
from tests.policy_cases import WIDE, Run, Stand, set_policy

RUN = "run"
ALL = Run((REPEATABLE, "data.normalisation=federated", "audit.attributes=[sex,age]"))
OWN = Run((REPEATABLE, "data.normalisation=site", "audit.attributes=[sex,age]"))
PLACES = [(ALL, purpose) for purpose in ("normalisation", "training", "evaluation", "audit")]
PLACES += [(OWN, purpose) for purpose in ("training", "evaluation", "audit")]
PURPOSES = ("normalisation", "training", "evaluation", "audit")


def one_fewer(manifest: Path, cohort: str = "train") -> None:
    header, *rows = manifest.read_text().splitlines()
    gone = next(name for name in (row.split(",")[0] for row in rows) if keyed_split(0, name) == cohort)
    manifest.write_text("\n".join([header, *(row for row in rows if not row.startswith(f"{gone},"))]) + "\n")


def one_more_than_delta_bears(manifest: Path) -> None:
    header, first = manifest.read_text().splitlines()[:2]
    manifest.write_text("\n".join([header, *(first.replace("site-0-0000", f"p{n}") for n in range(600))]) + "\n")


def nobody(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().splitlines()[0] + "\n")


def broken_cell(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("female", "f", 1))


def _as_json_lines(manifest: Path, person: str) -> None:
    rows = list(csv.DictReader(io.StringIO(manifest.read_text())))
    lines = [json.dumps(row) for row in rows] + [json.dumps({**rows[0], "person": person})]
    manifest.with_suffix(".jsonl").write_text("\n".join(lines) + "\n")
    manifest.unlink()


def a_name_that_breaks_its_reader(manifest: Path) -> None:
    _as_json_lines(manifest, "\ud800")


def a_name_too_deep(manifest: Path) -> None:
    _as_json_lines(manifest, "p")
    path = manifest.with_suffix(".jsonl")
    path.write_text(path.read_text() + "[" * 100_000 + "\n")


OTHERS = (one_fewer, one_more_than_delta_bears, nobody, broken_cell, a_name_that_breaks_its_reader, a_name_too_deep)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return Stand.build(tmp_path_factory.mktemp("difference"))


def site_of(stand: Stand, name: str, run: Run, change: Callable[[Path], None] | None = None) -> Site:
    site = stand.site(name, {**WIDE, "lifetime_epsilon": 1000.0}, run)
    if change is not None:
        change(site.folder / "manifest.csv")
    return site


def task(stand: Stand, run: Run, purpose: str, number: int | None = None) -> Task:
    config = stand.resolved(run)
    weights = {} if purpose == "normalisation" else stand.task(replace(run, overrides=()), RUN).weights
    federated = config.data.normalisation == "federated" and purpose != "normalisation"
    length = tables_of(config)["normalisation"].length if federated else 0
    sums = {"sums": np.full(length, 1024, np.int64)} if federated else {}
    return Task(RUN, (purpose == "training") * 1 if number is None else number, purpose, weights, sums)


def later_stages(purpose: str) -> Iterator[Request]:
    where = (RUN, int(purpose == "training"), purpose)
    yield ShareRequest(*where, 3, [b"a", b"b", b"c"])
    yield MaskRequest(*where, [], [], [], [])
    yield CheckRequest(*where, [], [])
    yield RevealRequest(*where, [], [])
    yield ChooseRequest(*where, b"\1", 1, 1)
    yield LargeShareRequest(*where, [])
    yield LargeMaskRequest(*where, b"\1", [], [], [])
    yield LargeCheckRequest(*where, b"\1", [], [])
    yield LargeRevealRequest(*where, [], [])


@pytest.fixture(scope="module")
def free(stand: Stand) -> tuple[Request, ...]:
    return tuple(uncharged(stand, ALL))


def uncharged(stand: Stand, run: Run) -> Iterator[Request]:
    """All that a hostile server may ask without anything being charged for it."""
    enrol = stand.enrol(run, RUN)
    yield from (Enrol("other", "{}", "null"), replace(enrol, plan="null"), enrol, enrol)
    yield replace(enrol, config=stand.enrol(replace(run, overrides=(*run.overrides, "rounds=9")), RUN).config)
    for purpose in PURPOSES:
        yield from later_stages(purpose)
        asked = task(stand, run, purpose)
        yield from (replace(asked, round=99), replace(asked, run="other"), replace(asked, purpose="gossip"))
        yield replace(asked, weights={name: vector * 1e9 for name, vector in asked.weights.items()} | {"x": np.ones(1)})
        yield replace(asked, normalisation={"sums": np.zeros(1, np.int64)})
    yield Settle(RUN)
    yield from (enrol, task(stand, run, "training"), Settle(RUN))
    for number in range(3):  # more than the budget of whoever is in the folder
        yield stand.enrol(run, f"more-{number}")


def visible(reply: Reply) -> object:
    """What a server reads in a reply; keys, signatures and salted hashes are random, whatever the records are."""
    if isinstance(reply, Settled):
        return "settled", Receipt.from_bytes(reply.receipt).entries
    if isinstance(reply, Advert):
        advert = read_advert(reply.advert)
        return advert.institution, advert.k_min, [(block.name, block.length) for block in advert.blocks]
    return (
        {name: vector.tobytes() for name, vector in reply.vectors.items()} if isinstance(reply, Plain) else pack(reply)
    )


def released(site: Site) -> set[tuple[object, object, object]]:
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        facts = [entry.facts() for entry in ledger.entries() if entry.kind == "release"]
    return {(fact["stage"], fact["round"], fact["purpose"]) for fact in facts}


@pytest.mark.parametrize("spent", ["refuse", "leave-out"])
@pytest.mark.parametrize("change", OTHERS, ids=lambda change: change.__name__)
def test_what_was_not_charged_says_the_same_of_every_folder(
    stand: Stand, free: tuple[Request, ...], tmp_path: Path, change: Callable[[Path], None], spent: str
) -> None:
    sites = [site_of(stand, f"{tmp_path.name}-{number}", ALL, (None, change)[number]) for number in range(2)]
    for site in sites:
        set_policy(site, {**WIDE, "lifetime_epsilon": 12.0, "spent_subjects": spent})
    for request in free:
        one, other = (visible(answer(site, lambda request=request: request)) for site in sites)  # type: ignore[misc]
        assert one == other, type(request).__name__
    assert released(sites[0]) == released(sites[1]) == set()


@pytest.mark.parametrize(("run", "purpose"), PLACES)
def test_a_reply_that_tells_two_folders_apart_was_charged_first(
    stand: Stand, tmp_path: Path, purpose: str, run: Run
) -> None:
    bare = replace(run, overrides=(*run.overrides, "secagg=none"))  # in clear, so that the difference shows
    cohort = "train" if purpose in ("normalisation", "training") else "test"
    fewer: Callable[[Path], None] = lambda manifest: one_fewer(manifest, cohort)  # noqa: E731
    sites = [site_of(stand, f"{tmp_path.name}-{number}", bare, (None, fewer)[number]) for number in range(2)]
    seen = []
    for site in sites:
        assert isinstance(answer(site, lambda: stand.enrol(bare, RUN)), Enrolled)
        reply = answer(site, lambda: task(stand, bare, purpose))
        assert isinstance(reply, Plain), site.logged("failed")
        seen.append(visible(reply))
        assert ("task", int(purpose == "training"), purpose) in released(site)
        assert (("own", 0, "normalisation") in released(site)) == (run is OWN)
    assert seen[0] != seen[1]


@pytest.mark.parametrize(("run", "purpose"), PLACES)
def test_the_charge_stands_before_a_record_is_read(stand: Stand, tmp_path: Path, purpose: str, run: Run) -> None:
    site = site_of(stand, tmp_path.name, run)
    assert isinstance(answer(site, lambda: stand.enrol(run, RUN)), Enrolled)
    shutil.rmtree(site.folder)
    site.folder.mkdir()
    shutil.copy(stand.federation.sites[0].folder / "dataset.yaml", site.folder)
    assert answer(site, lambda: task(stand, run, purpose)) == Refusal("failed")
    assert ("task", int(purpose == "training"), purpose) in released(site)
