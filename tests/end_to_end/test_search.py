"""A search over configurations: all of its runs are charged to the same ledgers, and its end says what they cost."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.compose import compose
from common.privacy.accounting import pld_epsilon
from common.privacy.calibrate import Budget, calibrate_noise
from common.privacy.events import Event, Mechanism
from simulations.cli import app
from simulations.search import share_ledgers
from tests.federation_run import SMALL, toy_root

REFUSED = 3
CHEAP = ("data.normalisation=none", "audit.attributes=[]", "rounds=1")


def search(place: Path, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(
        app,
        [
            "simulate",
            *SMALL,
            *CHEAP,
            f"data.root={toy_root(place)}",
            *arguments,
            "--runs",
            str(place / "runs"),
            "--multirun",
        ],
    )
    return done.exit_code, done.stdout, done.stderr


def written(place: Path) -> dict[str, Any]:
    (path,) = (place / "runs").glob("*/*-search/search.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def calibrated(mechanism: Mechanism, epsilon: float) -> Event:
    """The one event of a cohort that spends all of `epsilon`: a step of training, or the table of the test cohort."""
    event = Event(mechanism, 1.0, 1.0, 1)
    return replace(event, noise_multiplier=calibrate_noise(Budget(epsilon, 1e-3), event))


def test_every_run_of_a_search_is_charged_to_the_same_ledgers_and_the_end_says_what_they_cost(tmp_path: Path) -> None:
    code, out, err = search(tmp_path, "privacy.epsilon=2,3")
    assert code == 0, err
    assert "2 runs, charged to the ledgers in" in err
    assert "what they cost together" in out
    found = written(tmp_path)
    together = pld_epsilon([calibrated("gaussian", 2), calibrated("gaussian", 3)], 1e-3)
    assert [run["choice"][-1] for run in found["runs"]] == ["privacy.epsilon=2", "privacy.epsilon=3"]
    assert [run["epsilon"] for run in found["runs"]] == pytest.approx([2, 3], rel=2e-3)
    assert {cost["site"] for cost in found["sites"]} == {"site-0", "site-1", "site-2", "site-3"}
    for cost in found["sites"]:
        assert cost["as_a_plan"] == pytest.approx(together, rel=1e-6)
        assert 3 < cost["as_a_plan"] < cost["by_the_filter"] <= cost["lifetime_epsilon"]
        assert Path(cost["ledger"]).exists()


@pytest.mark.slow
def test_a_search_that_the_ledgers_do_not_hold_ends_with_code_three_and_says_what_was_made(tmp_path: Path) -> None:
    code, out, err = search(tmp_path, "privacy.epsilon=4", "seed=0,1,2", "site.lifetime_epsilon=5")
    assert code == REFUSED
    assert "5 is allowed" in err
    found = written(tmp_path)
    assert (found["planned"], len(found["runs"])) == (3, 1)
    assert "search: 1 of 3 runs" in out
    for cost in found["sites"]:
        assert cost["as_a_plan"] == pytest.approx(4, rel=2e-3)
        assert cost["by_the_filter"] <= 5


@pytest.mark.slow
def test_json_stays_one_object_a_run_and_a_ledger_of_ones_own_is_kept(tmp_path: Path) -> None:
    own = tmp_path / "mine"
    for _ in range(2):
        code, out, err = search(tmp_path, "--json", "privacy.epsilon=1,1.5", f"site.state={own}")
        assert code == 0, err
        assert [json.loads(line)["rounds"] for line in out.strip().splitlines()] == [1, 1]
        assert "what they cost together" in err
    first, second = sorted((tmp_path / "runs").glob("*/*-search/search.json"))
    (before, *_), (after, *_) = (json.loads(path.read_text())["sites"] for path in (first, second))
    assert before["ledger"] == after["ledger"] == str(own / "site-0" / "ledger.sqlite")
    assert before["as_a_plan"] == after["as_a_plan"]
    assert after["spent"] > before["spent"]


@pytest.mark.slow
def test_a_search_that_something_else_than_the_ledgers_stops_is_no_plan(tmp_path: Path) -> None:
    """Whatever it was, it may have come from the data, or from somebody who looked at the first results."""
    spoiled = tmp_path / "spoiled"
    shutil.copytree(toy_root(tmp_path), spoiled)
    manifest = spoiled / "site-2" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",1\n", ",perhaps\n", 1))
    code, out, err = search(tmp_path, "privacy.epsilon=1", f"data.root={toy_root(tmp_path)},{spoiled}")
    assert code == 2, err
    found = written(tmp_path)
    assert (found["planned"], len(found["runs"])) == (2, 1)
    assert [cost["as_a_plan"] for cost in found["sites"]] == [None] * 4
    assert all(cost["by_the_filter"] >= 1 for cost in found["sites"])
    assert "only the filter's figure counts" in " ".join(out.split())


@pytest.mark.slow
def test_a_search_with_a_run_without_privacy_promises_nothing(tmp_path: Path) -> None:
    code, out, err = search(tmp_path, "privacy=none,subject")
    assert code == 0, err
    found = written(tmp_path)
    assert (found["unprotected"], [run["epsilon"] is None for run in found["runs"]]) == (1, [True, False])
    assert (
        {cost["as_a_plan"] for cost in found["sites"]} == {cost["by_the_filter"] for cost in found["sites"]} == {None}
    )
    assert "together they promise nothing" in " ".join(out.split())


@pytest.mark.slow
def test_runs_that_split_their_subjects_differently_are_paid_for_by_all_cohorts_together(tmp_path: Path) -> None:
    """A subject may be trained on in one run and tested on in the next."""
    code, _, err = search(tmp_path, "privacy.epsilon=2", "data.split_seed=0,1")
    assert code == 0, err
    both = [calibrated("gaussian", 2), calibrated("discrete_gaussian", 2)]
    for cost in written(tmp_path)["sites"]:
        assert cost["as_a_plan"] == pytest.approx(pld_epsilon(both * 2, 1e-3), rel=1e-6)


def test_a_second_search_of_the_same_second_has_a_folder_of_its_own(tmp_path: Path) -> None:
    configs = [compose((*SMALL, "data.root=."))]
    first, (config,) = share_ledgers(configs, tmp_path)
    first.mkdir(parents=True)
    second, _ = share_ledgers(configs, tmp_path)
    assert second != first
    assert config.site.state == str(first / "sites")
