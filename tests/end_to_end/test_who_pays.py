"""Cohorts and receipts in whole runs: who takes part is who pays, and no site can be put back unnoticed."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from client.contribute import Work
from client.enrolment import agreement_of, open_ledger
from client.gate import answer
from client.members import load_key_of
from client.policy import read_policy
from client.site import Site
from common.data.folder import read_site
from common.messages import Advert, Enrol, Enrolled, Refusal, Task
from common.models.model import first_weights
from common.receipts import Receipt, read_receipts
from simulations.run import Prepared, run
from tests.federation_run import REPEATABLE, prepare_toy, run_toy, silent

FEW = ("data.normalisation=none", "audit.attributes=[]", "rounds=1", REPEATABLE)


def manifest_of(site: Site) -> tuple[Path, list[dict[str, str]]]:
    path = site.folder / "manifest.csv"
    with path.open(newline="") as file:
        return path, list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def takes_part(site: Site, run: str) -> set[str]:
    task = Task(run, 1, "training")
    return set(Work(site, agreement_of(site, run), task, honest=1).data().subjects)


def test_the_members_are_the_subjects_of_the_folder_each_in_its_own_cohort(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *FEW)
    for site in prepared.sites:
        data, key = read_site(site.folder, split_seed=0), load_key_of(site)
        with open_ledger(site, read_policy(site.policy_path)) as ledger:
            members = ledger.members(prepared.folder.name, partial(lambda own: own, key.check))
        assert members is not None
        for split in ("train", "valid", "test"):
            own = tuple(data.subjects[place] for place in data.subjects_of(split))
            assert members[split] == frozenset(key.of(own))
        assert takes_part(site, prepared.folder.name) == set(data.subjects)


def test_who_comes_in_after_the_reservation_takes_no_part_and_who_is_gone_is_gone(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *FEW)
    site = prepared.sites[0]
    path, rows = manifest_of(site)
    subject = read_site(site.folder, split_seed=0).spec.subject
    before = takes_part(site, prepared.folder.name)
    leaves = rows[0][subject]
    write(path, [row for row in rows if row[subject] != leaves] + [{**rows[0], subject: "someone-new"}])
    assert takes_part(site, prepared.folder.name) == before - {leaves}
    again = replace(prepared.request, run="later")
    assert isinstance(answer(site, lambda: again), Enrolled)
    assert takes_part(site, "later") == before - {leaves} | {"someone-new"}
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        runs = {
            name: ledger.spent_by(load_key_of(site).of((name,))[0]).runs for name in (leaves, "someone-new", "stranger")
        }
    assert runs == {leaves: (prepared.folder.name,), "someone-new": ("later",), "stranger": ()}


def test_a_folder_that_cannot_be_read_is_agreed_to_and_fails_where_its_records_are_needed(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *FEW)
    site = prepared.sites[0]
    (site.folder / "manifest.csv").write_text("broken")
    again = replace(prepared.request, run="later")
    assert isinstance(answer(site, lambda: again), Enrolled)
    assert any("manifest" in str(line["trace"]) for line in site.logged("failed"))


def test_a_lost_pseudonym_key_stops_the_site_instead_of_starting_everybody_at_zero(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *FEW)
    site = prepared.sites[0]
    kept = site.pseudonym_key_path.read_bytes()
    site.pseudonym_key_path.unlink()
    again = replace(prepared.request, run="later")
    assert answer(site, lambda: again) == Refusal("ledger")
    assert "pseudonym key" in str(site.logged("refused")[-1]["reason"])
    site.pseudonym_key_path.write_bytes(kept)
    assert isinstance(answer(site, lambda: again), Enrolled)


@pytest.mark.slow
def test_receipts_go_to_the_server_and_to_the_other_sites_and_come_back(tmp_path: Path) -> None:
    prepared, _, _ = run_toy(tmp_path, *FEW, f"site.state={tmp_path / 'state'}")
    given = read_receipts(prepared.folder.path / "receipts.json")
    assert [receipt.site for receipt in given] == [site.name for site in prepared.sites]
    for site, receipt in zip(prepared.sites, given, strict=True):
        with open_ledger(site, read_policy(site.policy_path)) as ledger:
            entries = ledger.entries()
        assert (receipt.entries, receipt.head) == (len(entries), entries[-1].digest)
    later = prepare_toy(tmp_path, *FEW, f"site.state={tmp_path / 'state'}")
    for site in later.sites:
        assert len(read_receipts(site.peer_receipts_path)) == len(prepared.sites)


@pytest.mark.slow
def test_a_state_folder_that_was_put_back_as_a_whole_is_refused_by_what_others_kept(tmp_path: Path) -> None:
    state = f"site.state={tmp_path / 'state'}"
    first = prepare_toy(tmp_path, *FEW, state)
    site = first.sites[0]
    shutil.copytree(site.state, tmp_path / "older")
    run(first, silent)
    shutil.rmtree(site.state)
    shutil.copytree(tmp_path / "older", site.state)
    request = second(first, tmp_path)
    assert answer(site, lambda: replace(request, receipts=[])) != Refusal("ledger")  # nobody shows it: not noticed
    shutil.rmtree(site.state)
    shutil.copytree(tmp_path / "older", site.state)
    assert answer(site, lambda: request) == Refusal("ledger")
    assert "put back to an older copy" in str(site.logged("refused")[-1]["reason"])


def second(first: Prepared, tmp_path: Path) -> Enrol:
    receipts = [receipt.to_bytes() for receipt in read_receipts(tmp_path / "state" / "receipts.json")]
    assert len(receipts) == len(first.sites)
    return replace(first.request, run="second", receipts=receipts)


def test_a_release_carries_the_receipt_of_its_charge(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *FEW)
    site = prepared.sites[0]
    reply = answer(site, lambda: Task(prepared.folder.name, 1, "training", first_weights(prepared.config)))
    assert isinstance(reply, Advert)
    receipt = Receipt.from_bytes(reply.receipt)
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        entries = ledger.entries()
    assert (receipt.entries, receipt.head) == (len(entries), entries[-1].digest)
    assert entries[-1].kind == "release"
    assert len(str(entries[-1].facts()["request"])) == 64


@pytest.mark.parametrize("members", ["own", "other"])
def test_a_receipt_says_nothing_that_depends_on_a_record(tmp_path: Path, members: str) -> None:
    prepared = prepare_toy(tmp_path, *FEW)
    site = prepared.sites[0]
    if members == "other":
        path, rows = manifest_of(site)
        write(path, rows[: len(rows) // 2])
    assert isinstance(answer(site, lambda: replace(prepared.request, run="later")), Enrolled)
    plain = json.loads(site.receipt_path.read_bytes())
    assert sorted(plain) == ["entries", "head", "public_key", "signature", "site"]
    assert plain["entries"] == 3
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        roots = [entry.facts()["cohorts"] for entry in ledger.entries()[1:]]
    assert len({root for one in roots for root in dict(one).values()}) == 6  # type: ignore[call-overload]
    assert np.all([len(root) == 64 for one in roots for root in dict(one).values()])  # type: ignore[call-overload]


def test_one_runs_agreement_under_anothers_name_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *FEW)
    site, quiet = prepared.sites[0], prepared.folder.name
    loud = replace(prepared.request, run="loud")
    assert isinstance(answer(site, lambda: loud), Enrolled)
    shutil.copy(site.run_folder("loud") / "enrolment.json", site.run_folder(quiet) / "enrolment.json")
    assert answer(site, lambda: Task(quiet, 1, "training", first_weights(prepared.config))) == Refusal("not-enrolled")
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        assert {entry.kind for entry in ledger.entries()} == {"header", "reserve"}


def test_a_ledger_without_its_receipt_is_refused_once_it_knows_who_pays(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *FEW)
    site = prepared.sites[0]
    site.receipt_path.unlink()
    assert answer(site, lambda: replace(prepared.request, run="later")) == Refusal("ledger")
    assert "ledger.receipt is gone" in str(site.logged("refused")[-1]["reason"])


def test_a_run_of_version_2_goes_on_after_the_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.enrolment.terms_of", lambda *_, **__: None)
    monkeypatch.setattr("client.enrolment.charges_of", lambda _, agreement: agreement.plan.charges())
    prepared = prepare_toy(tmp_path, *FEW)
    monkeypatch.undo()
    site = prepared.sites[0]
    site.pseudonym_key_path.unlink(missing_ok=True)
    assert isinstance(answer(site, lambda: prepared.request), Enrolled)
    task = Task(prepared.folder.name, 1, "training", first_weights(prepared.config))
    assert isinstance(answer(site, lambda: task), Advert)
