"""A whole federation in this process: what it leaves, what it pays, what it never does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from client.enrolment import open_ledger
from client.policy import read_policy
from common.compose import ConfigError
from common.privacy.accounting import pld_epsilon
from common.reports.record import RunRecord
from server.state import ServerState
from simulations.run import Prepared
from simulations.session import rewrite_reports
from simulations.summary import summary, table
from tests.federation_run import REPEATABLE, files_below, prepare_toy, run_toy, same_weights

Run = tuple[Prepared, RunRecord, ServerState]
# Plain averaging: Adam would blow the rounding of a tiny gradient up.
OPEN = (
    *("privacy=none", "privacy.declared_subjects=40"),
    *("federation.server_optimizer.kind=sgd", "federation.server_optimizer.lr=1.0"),
)


@pytest.fixture(scope="module")
def private_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run with everything on."""
    return run_toy(tmp_path_factory.mktemp("private"), "data.normalisation=none", REPEATABLE)


@pytest.fixture(scope="module")
def open_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run without differential privacy, securely aggregated."""
    return run_toy(tmp_path_factory.mktemp("open"), *OPEN)


def test_the_run_folder_holds_what_it_promises(private_run: Run) -> None:
    folder = private_run[0].folder.path
    names = {str(path.relative_to(folder)) for path in files_below(folder)}
    assert {"config.yaml", "journal.sqlite", "metrics.json", "report.html", "fairness.html", "fairness.json"} <= names
    assert {"model.safetensors", "model_card.md", "state/server.safetensors", "budget/site-0.html"} <= names
    assert private_run[0].config.hash() in (folder / "config.yaml").read_text()
    assert "<script" not in (folder / "report.html").read_text()


def test_the_summary_names_every_figure(private_run: Run) -> None:
    prepared, record, _ = private_run
    said = json.loads(json.dumps(summary(record, str(prepared.folder.path)), allow_nan=False))
    assert {"run", "rounds", "seconds", "test", "released", "privacy", "audit"} <= said.keys()
    assert {"pooled_accuracy", "site_mean_accuracy", "auroc", "sites", "conditions"} <= said["test"].keys()
    for site in ("site-0", "site-3"):
        assert 0 <= said["test"]["sites"][site]["accuracy"] <= 1
        figures = said["privacy"]["sites"][site]
        assert {"epsilon", "delta", "pld", "prv", "rdp", "steps", "sampling_rate", "noise_multiplier"} <= figures.keys()
        assert figures["epsilon"] <= 8.0
        assert figures["epsilon"] <= figures["rdp"]
    assert {"tpr", "fpr", "n", "low", "high"} <= said["audit"]["sex"]["female"].keys()
    assert "test_noise" in said["warnings"]
    assert "report.html" in "".join(str(part) for part in table(record, "somewhere").renderables)


def test_every_site_tried_its_step_and_the_record_says_what_it_showed(private_run: Run, open_run: Run) -> None:
    prepared, record, _ = private_run
    for site in record.sites:
        found = site.certificate
        assert found is not None
        assert (found.run, found.plan_hash) == (prepared.folder.name, prepared.finished.plan_hash)
        assert found.refuting_mu <= found.claimed_mu
        assert "with 95 % confidence" in (prepared.folder.path / "budget" / f"{site.name}.html").read_text()
    assert [site.certificate for site in open_run[1].sites] == [None] * 4


def test_every_cohort_pays_for_exactly_what_ran(private_run: Run) -> None:
    prepared, record, _ = private_run
    plan = prepared.plan
    assert plan is not None
    for site in prepared.sites:
        with open_ledger(site, read_policy(site.policy_path)) as ledger:
            ledger.verify()
            line = next(line for line in ledger.spent().runs if line.run == prepared.folder.name)
        assert line.settled
        for cohort in line.cohorts:
            planned = [(charge.purpose, charge.event) for charge in plan.charges() if charge.cohort == cohort.cohort]
            assert [(charge.purpose, charge.event) for charge in cohort.charged] == planned
            assert all(charge.modalities == tuple(sorted(site.spec().modalities)) for charge in cohort.charged)
    for cohort_budget in record.sites[0].cohorts:
        events = [charge.event for charge in plan.charges() if charge.cohort == cohort_budget.cohort]
        assert cohort_budget.pld == pytest.approx(pld_epsilon(events, plan.delta))
        assert cohort_budget.pld is not None
        assert cohort_budget.pld <= 8.0


def test_the_same_test_noise_gives_the_same_model(private_run: Run, tmp_path: Path) -> None:
    again = run_toy(tmp_path, "data.normalisation=none", REPEATABLE)
    assert same_weights(private_run[2], again[2])
    np.testing.assert_array_equal(private_run[2].released["audit"], again[2].released["audit"])


def test_post_quantum_keys_change_no_bit_of_what_is_released_and_the_reports_name_them(
    private_run: Run, tmp_path: Path
) -> None:
    prepared, record, state = run_toy(tmp_path, "data.normalisation=none", REPEATABLE, "secagg.post_quantum=true")
    assert same_weights(private_run[2], state)
    for table_name, released in private_run[2].released.items():
        np.testing.assert_array_equal(released, state.released[table_name])
    assert (private_run[1].secagg.key_agreement, record.secagg.key_agreement) == ("X25519", "X25519 and ML-KEM-768")
    budget = json.loads((prepared.folder.path / "budget" / "site-0.json").read_text())
    assert budget["secure_aggregation"]["key_agreement"] == "X25519 and ML-KEM-768"
    off, on = (sum(out.num_bytes for out in run.sites[0].out) for run in (private_run[1], record))
    assert on > off + len(record.sites[0].out) * (2 * 1184 + 4 * 1088)


def test_real_noise_gives_another_model_each_time(private_run: Run, tmp_path: Path) -> None:
    other = run_toy(tmp_path, "data.normalisation=none", "audit.attributes=[]")
    assert not same_weights(private_run[2], other[2])


def test_masks_change_nothing_but_the_rounding(open_run: Run, tmp_path: Path) -> None:
    prepared, record, plain = run_toy(tmp_path, *OPEN, "secagg=none")
    for name, weights in open_run[2].weights.items():
        np.testing.assert_allclose(weights, plain.weights[name], atol=1e-6)
    page = (prepared.folder.path / "report.html").read_text().lower()
    assert "secure aggregation" in page
    assert {"privacy_none", "secagg_none"} <= set(json.loads(json.dumps(summary(record, "x")))["warnings"])


def test_without_noise_the_released_figures_are_the_exact_ones(open_run: Run) -> None:
    _, record, _ = open_run
    assert record.released is not None
    assert record.test is not None
    assert record.released.num_subjects.value == record.test.num_subjects
    # Records of one subject count once in released tables and each in the simulator's figures; most subjects have one.
    assert record.released.conditions["all"]["accuracy"].value == pytest.approx(record.test.pooled_accuracy, abs=0.05)


def test_a_personal_block_stays_at_its_site(tmp_path: Path) -> None:
    prepared, record, state = run_toy(tmp_path, "federation.personal=[head]", "audit.attributes=[]", "rounds=2")
    assert not any(name.startswith("head/") for name in state.weights)
    files = {site.name: site.run_folder(prepared.folder.name) / "personal" / "2.safetensors" for site in prepared.sites}
    kept = {name: path.read_bytes() for name, path in files.items()}
    assert len(set(kept.values())) == len(kept)
    assert [block.travels for block in record.blocks if block.name == "head/sick"] == [False]


@pytest.mark.parametrize("misspelt", ["heads", "encoder/lab", "''"])
def test_a_personal_block_that_there_is_not_is_refused_with_the_blocks_that_there_are(
    tmp_path: Path, misspelt: str
) -> None:
    with pytest.raises(ConfigError, match=r"federation.personal: the blocks are .*encoder/labs, .*head/sick, got '"):
        prepare_toy(tmp_path, f"federation.personal=[head,{misspelt}]")


def test_reports_are_written_again_from_the_metrics(private_run: Run) -> None:
    folder = private_run[0].folder.path
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert folder / "report.html" in rewrite_reports(folder)
    assert (folder / "report.html").read_bytes() == before


def test_own_statistics_of_a_site_are_noised_and_charged(tmp_path: Path) -> None:
    root = "data.normalisation=site"
    _, record, _ = run_toy(tmp_path, root, "audit.attributes=[]", "rounds=1")
    charges = [charge for cohort in record.sites[0].cohorts for charge in cohort.charges]
    assert [charge.ran for charge in charges if charge.purpose == "normalisation"] == [1]
