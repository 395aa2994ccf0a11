"""Bad days: sites that drop out, runs that are stopped or killed, budgets that are gone."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from client.enrolment import open_ledger
from client.policy import Refused, read_policy
from common.messages import Advert, Checked, Enrolled, Masked, Revealed, Settled, Shares
from common.wire import from_records
from simulations.engine import InProcessGrid
from simulations.run import Prepared, begin, reopen, run
from simulations.summary import summary
from tests.federation_run import REPEATABLE, SMALL, prepare_toy, run_toy, same_weights, silent, state_of, toy_root

ROOT = Path(__file__).resolve().parents[2]
NONE = "data.normalisation=none"


def _releases(prepared: Prepared) -> dict[str, list[tuple[int, int]]]:
    """By site: round and count of every release in its ledger."""
    found = {}
    for site in prepared.sites:
        with open_ledger(site, read_policy(site.policy_path)) as ledger:
            facts = [entry.facts() for entry in ledger.entries() if entry.kind == "release"]
        found[site.name] = [(int(str(fact["round"])), int(str(fact["count"]))) for fact in facts]
    return found


def test_a_site_that_drops_out_does_not_end_the_run(tmp_path: Path) -> None:
    prepared, record, _ = run_toy(tmp_path, NONE, "drop=[site-1@2]", "audit.attributes=[]")
    assert [round_.dropped for round_ in record.rounds] == [(), ("site-1",), ()]
    assert record.rounds[1].sites == ("site-0", "site-2", "site-3")
    assert _releases(prepared)["site-1"] == [(1, 1), (3, 1), (0, 1)]
    assert _releases(prepared)["site-0"] == [(1, 1), (2, 1), (3, 1), (0, 1)]
    stayed, dropped = (next(part for part in site.cohorts if part.cohort == "train") for site in record.sites[:2])
    assert (stayed.charges[0].ran, dropped.charges[0].ran, dropped.charges[0].planned) == (3, 2, 3)
    assert dropped.pld == stayed.pld  # PLD is of the plan, whatever of it ran


@pytest.mark.slow
def test_a_round_with_too_few_sites_is_aborted_and_the_next_goes_on(tmp_path: Path) -> None:
    prepared, record, _ = run_toy(tmp_path, NONE, "drop=[site-1@2,site-2@2]", "audit.attributes=[]")
    events = prepared.folder.journal.events("round")
    assert "aborted" in events[1].facts
    assert [bool(round_.sites) for round_ in record.rounds] == [True, False, True]
    assert record.rounds[1].update_norm is None


def test_a_modality_that_one_site_lacks_is_averaged_over_the_others(tmp_path: Path) -> None:
    toy_root(tmp_path, lacking={"site-0": ("labs",)})
    prepared, record, _ = run_toy(tmp_path, NONE, "audit.attributes=[]", "rounds=1")
    blocks = prepared.folder.journal.events("round")[0].facts["blocks"]
    assert blocks["encoder/labs"] == ["site-1", "site-2", "site-3"]
    assert blocks["fusion"] == ["site-0", "site-1", "site-2", "site-3"]
    assert {block.name: block.sites for block in record.blocks}["encoder/labs"] == ("site-1", "site-2", "site-3")


def test_a_modality_of_two_sites_is_never_summed(tmp_path: Path) -> None:
    toy_root(tmp_path, lacking={"site-0": ("labs",), "site-1": ("labs",)})
    prepared, record, state = run_toy(tmp_path, NONE, "audit.attributes=[]", "rounds=1")
    assert "encoder/labs" not in prepared.folder.journal.events("round")[0].facts["blocks"]
    assert "encoder/labs" in record.rounds[0].left_out
    assert "encoder/labs" in state.weights


class _Stopping(InProcessGrid):
    """A grid on which the user presses Ctrl-C in the middle of a round."""

    messages_left = 4 + 4 * 5 + 7

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        _Stopping.messages_left -= 1
        if _Stopping.messages_left == 0:
            raise KeyboardInterrupt
        return super().pull_messages(message_ids)


def test_a_stopped_run_resumes_to_the_same_model_and_is_charged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _, expected = run_toy(tmp_path / "whole", NONE, REPEATABLE)
    prepared = prepare_toy(tmp_path / "stopped", NONE, REPEATABLE)
    with monkeypatch.context() as patch:
        patch.setattr("simulations.engine.InProcessGrid", _Stopping)
        with pytest.raises(KeyboardInterrupt):
            run(prepared, silent)
    assert state_of(prepared).round == 1
    run(reopen(prepared.folder.path), silent)
    assert same_weights(state_of(prepared), expected)
    assert _releases(prepared) == _releases(whole)


def test_runs_add_up_and_the_one_too_many_is_refused_before_a_record_is_read(tmp_path: Path) -> None:
    shared = (NONE, f"site.state={tmp_path / 'sites'}", "audit.attributes=[]", "rounds=1", "site.lifetime_epsilon=13")
    run_toy(tmp_path, *shared)
    prepared, record, _ = run_toy(tmp_path, *shared, "privacy.epsilon=4")
    spent = record.sites[0].ledger
    assert spent is not None
    assert 8 < spent.spent < 13
    for folder in (tmp_path / "data").iterdir():
        (folder / "manifest.csv").unlink()  # whoever reads a record now fails in another way
    with pytest.raises(Refused, match="lifetime epsilon"):
        prepare_toy(tmp_path, *shared)
    assert len(list((tmp_path / "runs" / "folders").iterdir())) == 2
    assert len(_releases(prepared)["site-0"]) == 4


def test_a_wrong_site_folder_costs_no_budget_and_leaves_no_run(tmp_path: Path) -> None:
    root = toy_root(tmp_path)
    manifest = root / "site-2" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",1\n", ",perhaps\n", 1))
    state = tmp_path / "sites"
    with pytest.raises(ValueError, match=r"manifest\.csv.*perhaps"):
        prepare_toy(tmp_path, NONE, f"site.state={state}")
    assert not list((tmp_path / "runs" / "folders").iterdir())
    database = sqlite3.connect(state / "site-0" / "ledger.sqlite")
    kinds = [row[0] for row in database.execute("SELECT kind FROM entries ORDER BY seq")]
    database.close()
    assert kinds == ["header", "reserve", "settle"]


class _Listening(InProcessGrid):
    """A grid that keeps everything that leaves the sites."""

    heard: list[Message]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.heard += replies
        return replies


def test_no_reply_carries_a_metric_a_count_or_an_update_in_clear(tmp_path: Path) -> None:
    from server.app import GridLink, settings_of  # noqa: PLC0415
    from server.loop import run_federation  # noqa: PLC0415
    from simulations.run import _run_config  # noqa: PLC0415

    prepared = prepare_toy(tmp_path, NONE, REPEATABLE)
    grid = _Listening(prepared.sites)
    grid.heard = []
    run_federation(GridLink(grid, timeout_seconds=60), settings_of(_run_config(prepared), prepared.folder.path))
    replies = [from_records(message.content) for message in grid.heard]
    assert {type(reply) for reply in replies} == {Enrolled, Advert, Shares, Masked, Checked, Revealed, Settled}
    tables = [vector for reply in replies if isinstance(reply, Masked) for vector in reply.vectors.values()]
    sent = np.concatenate(tables)
    assert sent.size > 5000
    # A plain table or update is almost all tiny numbers, up or down; a masked one is uniform over 32 bits.
    assert 0.45 < (sent >= 2**31).mean() < 0.55
    assert (sent < 2**24).mean() < 0.02
    assert (sent > 2**32 - 2**24).mean() < 0.02


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_model_and_is_charged_once(tmp_path: Path) -> None:
    overrides = [*SMALL, NONE, REPEATABLE, "rounds=30", f"data.root={toy_root(tmp_path)}"]
    whole = begin_and_run(tmp_path / "whole", overrides)
    command = [sys.executable, "-m", "simulations.cli", "simulate", *overrides, "--runs", str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    path = _wait_for_round(tmp_path / "killed", 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [sys.executable, "-m", "simulations.cli", "simulate", "--resume", str(path), "--json"],
        env=environment, cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["rounds"] == 30
    resumed = reopen(path)
    assert same_weights(state_of(resumed), state_of(whole))
    assert _releases(resumed) == _releases(whole)


def begin_and_run(place: Path, overrides: list[str]) -> Prepared:
    """A run that nobody disturbs."""
    from common.compose import compose  # noqa: PLC0415

    prepared = begin(compose(overrides), place)
    assert summary(run(prepared, silent), "x")["rounds"] == 30
    return prepared


def _wait_for_round(runs: Path, number: int) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for journal in runs.glob("folders/*/journal.sqlite"):
            with sqlite3.connect(journal, timeout=10) as database:
                try:
                    last = database.execute("SELECT MAX(round) FROM events WHERE kind = 'round'").fetchone()[0]
                except sqlite3.OperationalError:
                    last = None
            database.close()
            if (last or 0) >= number:
                return journal.parent
        time.sleep(0.02)
    raise AssertionError("the run did not get that far")
