"""A run whose sites have several processes each, and one of these processes killed: by signal, while it works."""

from __future__ import annotations

import threading
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from client.enrolment import open_ledger
from client.gate import answer
from client.policy import read_policy
from common.messages import Refusal, Task
from common.wire import from_records
from server.app import GridLink, settings_of
from server.loop import run_federation
from simulations.engine import InProcessGrid
from simulations.run import _run_config
from tests.federation_run import REPEATABLE, prepare_toy, run_toy

pytestmark = pytest.mark.slow
SHORT = ("data.normalisation=none", "audit.attributes=[]", "rounds=1", REPEATABLE)
VICTIM = "site-1"


@pytest.mark.parametrize("setting", [(), ("privacy=distributed", "privacy.declared_subjects=40")])
def test_a_run_of_two_processes_a_site_ends_where_a_run_of_one_does(tmp_path: Path, setting: tuple[str, ...]) -> None:
    ends = [run_toy(tmp_path, *SHORT, *setting, f"engine.processes_per_site={number}")[2] for number in (1, 2)]
    for name, one in ends[0].weights.items():
        np.testing.assert_allclose(ends[1].weights[name], one, rtol=0, atol=1e-4)  # the secure sum's own grid
    assert not active_children()


class _Killing(InProcessGrid):
    """A grid on which one of a site's training processes is killed as soon as there is one."""

    refused: list[Refusal]

    def _answer(self, message: Message) -> Message:
        site, request = self._sites[message.metadata.dst_node_id], from_records(message.content)
        if site.name != VICTIM or not isinstance(request, Task) or request.purpose != "training":
            return super()._answer(message)
        killer = threading.Thread(target=_kill_one)
        killer.start()
        replied = super()._answer(message)
        killer.join()
        assert not active_children()
        again = answer(site, lambda: request)
        self.refused += [one for one in (from_records(replied.content), again) if isinstance(one, Refusal)]
        return replied


def _kill_one() -> None:
    for _ in range(600):
        for process in active_children()[-1:]:
            process.kill()
            return
        time.sleep(0.05)


def test_a_killed_process_fails_the_round_with_one_code_stays_nowhere_and_is_charged_once(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, *SHORT, "engine.processes_per_site=2")
    grid = _Killing(prepared.sites)
    grid.refused = []
    run_federation(GridLink(grid, timeout_seconds=60), settings_of(_run_config(prepared), prepared.folder.path))
    assert grid.refused == [Refusal("failed"), Refusal("failed")]
    [victim] = [site for site in prepared.sites if site.name == VICTIM]
    with open_ledger(victim, read_policy(victim.policy_path)) as ledger:
        facts = [entry.facts() for entry in ledger.entries() if entry.kind == "release"]
    assert sum((fact["round"], fact["purpose"]) == (1, "training") for fact in facts) == 1
    [failed] = victim.logged("failed")
    assert "a training process is gone" in str(failed["trace"])
