"""What `verify` adds up, against sums made by hand."""

from __future__ import annotations

import hashlib
import io
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from common.verify.cohorts import Cohort, climb
from common.verify.explain import explain_run, show_subject
from common.verify.machine import as_json
from common.verify.read import LedgerUnreadable, read_ledger
from common.verify.show import MOST_ROWS, show
from common.verify.subject import subject_spend
from common.verify.totals import Totals
from common.verify.verdict import Budget, Verdict, read_budget, verify
from tests.verify_ledgers import (
    DELTA,
    NO_ANCHORS,
    ORDER,
    Scribe,
    charge,
    complaints,
    example,
    judged,
    naive_root,
    policy_file,
    pseudonym,
)


def step(noise: float, rate: float, order: int) -> float:
    """The divergence of one sampled Gaussian by the formula of docs/ledger.md."""
    terms = (
        math.comb(order, k) * (1 - rate) ** (order - k) * rate**k * math.exp((k * k - k) / (2 * noise**2))
        for k in range(order + 1)
    )
    return math.log(math.fsum(terms)) / (order - 1)


def epsilon(rho: float) -> float:
    return rho + math.log(1 - 1 / ORDER) - (math.log(DELTA) + math.log(ORDER)) / (ORDER - 1)


STEP, EVALUATION = step(5.0, 0.25, ORDER), ORDER / 18 + 1e-7


@pytest.fixture
def verdict(tmp_path: Path) -> Verdict:
    return judged(example().write(tmp_path / "ledger.sqlite"))


def totals_of(verdict: Verdict) -> Totals:
    assert verdict.totals is not None
    return verdict.totals


def printed(verdict: Verdict, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(console, verdict, "ledger.sqlite")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_filters_total_is_the_sum_over_runs_of_the_costliest_cohort(verdict: Verdict) -> None:
    # run-1 is settled: two steps, and the table was never released; run-2 is open: ten steps or one table.
    expected = 2 * STEP + max(10 * STEP, EVALUATION)
    totals = totals_of(verdict)
    assert totals.rho == pytest.approx(expected, rel=1e-12)
    assert totals.needed == pytest.approx(epsilon(expected), rel=1e-12)
    assert totals.spent <= totals.needed


def test_subjects_pay_for_the_cohorts_that_they_are_in(verdict: Verdict) -> None:
    totals = totals_of(verdict)
    rhos = {each.subjects: each.rho for each in totals.classes if each.subjects != 2}
    twos = sorted(each.rho for each in totals.classes if each.subjects == 2)
    assert rhos == {1: pytest.approx(2 * STEP)}  # cyd
    # gus and hal; eve and fay; ada and bob
    assert twos == pytest.approx(sorted([EVALUATION, 10 * STEP, 12 * STEP]))
    assert totals.largest() == pytest.approx(epsilon(max(12 * STEP, EVALUATION)))
    assert totals.largest() <= totals.needed


@pytest.mark.parametrize(
    ("name", "modality", "rho"),
    [
        ("ada", None, 12 * STEP),
        ("ada", "labs", 12 * STEP),
        ("gus", None, EVALUATION),
        ("gus", "labs", 0.0),
        ("gus", "ecg", EVALUATION),
        ("nobody", None, 0.0),
    ],
)
def test_a_subjects_spending_in_all_and_in_one_modality(
    verdict: Verdict, name: str, modality: str | None, rho: float
) -> None:
    spend = subject_spend(totals_of(verdict), verdict.membership, pseudonym(name).upper(), modality)
    assert spend.rho == pytest.approx(rho, rel=1e-12)
    assert spend.epsilon == pytest.approx(epsilon(rho) if rho else 0.0)
    assert all(part.is_member for part in spend.parts)
    assert sum(part.rho for part in spend.parts) == pytest.approx(rho)


def test_a_charge_that_names_no_modality_may_read_any(tmp_path: Path) -> None:
    scribe = example()
    roots = {"train": scribe.cohort(["ada"]), "spare": scribe.cohort(["ida"])}
    scribe.reserve("run-3", [charge("training", "train", modalities=[])], roots)
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"))
    spend = subject_spend(totals_of(verdict), verdict.membership, pseudonym("ada"), "labs")
    assert spend.rho == pytest.approx(12 * STEP + 10 * ORDER / 50)
    assert "spare of run-3" in printed(verdict)  # a cohort that no charge reads has members too


def test_a_path_leads_to_its_root_and_no_other_subjects_leaf_does() -> None:
    for size in range(1, 18):
        scribe = Scribe()
        root = scribe.cohort([f"subject {number}" for number in range(size)])
        cohort = membership_of(scribe)[root]
        assert naive_root(scribe.cohorts[0][1], [member.hex() for member in cohort.pseudonyms]) == root
        for member in cohort.pseudonyms:
            steps = cohort.path(member)
            assert len(steps) <= max(1, (size - 1).bit_length())
            assert climb(cohort.salt, member, steps) == root
            assert climb(cohort.salt, hashlib.sha256(member).digest(), steps) != root


def test_a_subject_that_is_none_is_refused(verdict: Verdict) -> None:
    with pytest.raises(LedgerUnreadable, match="64 hex digits"):
        subject_spend(totals_of(verdict), verdict.membership, "ada", None)
    with pytest.raises(LedgerUnreadable, match="it names ecg, labs"):
        subject_spend(totals_of(verdict), verdict.membership, pseudonym("ada"), "audio")


def test_the_printed_rows_add_up_to_the_printed_total_and_that_to_the_printed_figure(verdict: Verdict) -> None:
    check_sum(printed(verdict), verdict)


def test_the_sum_of_very_many_runs_adds_up_too(tmp_path: Path) -> None:
    scribe = Scribe()
    scribe.append("header", "", scribe.header())
    root = scribe.cohort(["ada"])
    for number in range(MOST_ROWS + 30):
        root = scribe.cohort(["ada"])
        scribe.reserve(f"run-{number}", [charge("training", "train", noise_multiplier=50.0 + number)], {"train": root})
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"))
    text = printed(verdict)
    check_sum(text, verdict)
    assert "30 cheaper runs together" in text


def check_sum(text: str, verdict: Verdict) -> None:
    table = text.partition("What the filter needs")[2].partition("needed = rho")[0]
    *rows, total = (float(number) for number in re.findall(r"│ +(\d+\.\d{9}) │", table))
    assert sum(rows) == pytest.approx(total, abs=1e-12)
    written = re.search(r"= (\d+\.\d{9}) ([+-]\d+\.\d{9}) ([+-]\d+\.\d{9})\nneeded = (-?\d+\.\d{6})", text)
    assert written is not None
    assert float(written[1]) == total
    assert sum(float(written[number]) for number in (1, 2, 3)) == pytest.approx(float(written[4]), abs=1e-6)
    assert float(written[4]) == pytest.approx(totals_of(verdict).needed, abs=1e-6)


def test_a_run_is_explained_down_to_its_entries_and_the_cost_of_one_release(verdict: Verdict) -> None:
    console = Console(file=io.StringIO(), width=160)
    explain_run(console, verdict, totals_of(verdict), "run-1")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for number in (1, 2, 3, 4):
        assert re.search(rf"│ {number} +│ (reserve|release|settle) ", text)
        assert verdict.entries[number].digest[:16] in text
    assert f"{STEP:.12g}" in text
    assert f"= {2 * STEP:.9f}." in text
    with pytest.raises(LedgerUnreadable, match="no such run; its newest ones are run-1, run-2"):
        explain_run(console, verdict, totals_of(verdict), "run-9")


def test_a_subject_is_shown_with_what_proves_its_part(verdict: Verdict) -> None:
    console = Console(file=io.StringIO(), width=160)
    totals = totals_of(verdict)
    show_subject(console, subject_spend(totals, verdict.membership, pseudonym("ada"), None), totals)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("leads there") == 2
    assert f"epsilon = {epsilon(12 * STEP):.6f}" in text


def test_the_json_object_tells_the_same(verdict: Verdict) -> None:
    totals = totals_of(verdict)
    told = as_json(verdict, None, subject_spend(totals, verdict.membership, pseudonym("ada"), None))
    runs, needed = told["runs"], told["needed"]
    assert isinstance(runs, list)
    assert isinstance(needed, dict)
    assert told["ok"] is True
    assert sum(run["rho"] for run in runs) == pytest.approx(needed["rho"])
    assert [(run["reserved_at"], run["released_at"], run["settled_at"]) for run in runs] == [
        (1, [2, 3], 4),
        (5, [6, 7], None),
    ]
    charges = runs[0]["cohorts"][0]["charges"][0]
    assert (charges["reserved"], charges["released"], charges["returned"], charges["counted"]) == (10, 2, 8, 2)
    only = as_json(verdict, "run-2", None)["runs"]
    assert isinstance(only, list)
    assert [run["run"] for run in only] == ["run-2"]


@pytest.mark.parametrize(("share", "seq"), [(0.999, 5), (1.001, None)])
def test_a_total_beyond_the_budget_is_found_at_the_entry_that_went_beyond_it(
    tmp_path: Path, verdict: Verdict, share: float, seq: int | None
) -> None:
    budget = totals_of(verdict).needed * share
    found = complaints(judged(example().write(tmp_path / "again.sqlite"), budget=budget))
    assert list(found) == ([] if seq is None else [seq])


def test_a_total_that_came_back_into_the_budget_is_a_note(tmp_path: Path) -> None:
    scribe = Scribe()
    scribe.append("header", "", scribe.header())
    scribe.reserve("run-1", [charge("training", "train")], {"train": scribe.cohort(["ada"])})
    scribe.settle("run-1")
    verdict = judged(scribe.write(tmp_path / "ledger.sqlite"), budget=2.0)
    assert verdict.problems == ()
    assert [(note.entry, "what was given back since" in note.text) for note in verdict.notes] == [(1, True)]


def test_the_budget_of_a_policy_is_read_and_its_delta_compared(tmp_path: Path) -> None:
    path = example().write(tmp_path / "ledger.sqlite")
    budget = read_budget(None, policy_file(tmp_path / "policy.yaml", 0.1, 1e-4))
    found = complaints(verify(read_ledger(str(path)), NO_ANCHORS, budget))
    assert "the header's delta is 0.001, and the policy's lifetime_delta is 0.0001" in found[0]
    assert "and 0.1 is the budget" in found[1][0]
    (tmp_path / "other.yaml").write_text("lifetime_epsilon: many")
    for wrong in ("other.yaml", "none.yaml"):
        with pytest.raises(LedgerUnreadable, match=wrong):
            read_budget(None, tmp_path / wrong)
    with pytest.raises(LedgerUnreadable, match="--lifetime-epsilon"):
        read_budget(math.nan, None)


def test_a_delta_that_yaml_takes_for_a_word_is_read_as_the_site_reads_it(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("lifetime_epsilon: 2\nlifetime_delta: 1e-5\n")
    assert read_budget(None, tmp_path / "policy.yaml") == Budget(2.0, 1e-5)


def membership_of(scribe: Scribe) -> dict[str, Cohort]:
    return {
        root: Cohort(bytes.fromhex(salt), tuple(sorted(bytes.fromhex(who) for of, who in scribe.members if of == root)))
        for root, salt, _ in scribe.cohorts
    }
