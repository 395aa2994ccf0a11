"""A site that is killed (SIGKILL, a real process) before every single file operation of every stage.

After each kill a second process gets the same request, once from where that one kill left things, and once from where
all kills so far left them. The interpreter's own events (sys.addaudithook) say when a file is opened, linked, renamed
or removed: nothing of ours is replaced.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client.enrolment import open_ledger
from client.gate import answer
from client.policy import read_policy
from client.site import Site
from common.messages import CheckRequest, MaskRequest, Refusal, RevealRequest, ShareRequest, Task, pack
from common.wire import from_records
from server.app import GridLink, settings_of
from server.loop import run_federation
from server.state import ServerState
from simulations.engine import InProcessGrid
from simulations.run import Prepared, _run_config
from tests.federation_run import REPEATABLE, prepare_toy, same_weights

OVERRIDES = ("data.normalisation=none", "audit.attributes=[]", "rounds=1")
VICTIM = "site-1"
STAGES = (Task, ShareRequest, MaskRequest, CheckRequest, RevealRequest)
NEVER = 1 << 30
FILE_EVENTS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "sqlite3.connect"}


class _Killing(InProcessGrid):
    """A grid on which one site dies at every file operation before it manages to answer."""

    kills: dict[str, int]
    once: bool

    def _answer(self, message: Message) -> Message:
        site = self._sites[message.metadata.dst_node_id]
        request = from_records(message.content)
        training = isinstance(request, STAGES) and request.purpose == "training"
        if site.name != VICTIM or not training:
            return super()._answer(message)
        stage = type(request).__name__
        self.kills[stage] = killed_once(site, message) if self.once else killed_again_and_again(site, message)
        first = (site.state / "reply").read_bytes()
        again = super()._answer(message)
        assert pack(from_records(again.content)) == first
        return again


def killed_once(site: Site, message: Message) -> int:
    """Kill it at each place, from the same start each time; a second process then answers, and nothing is left over."""
    start, number = site.state.with_name("start"), 0
    shutil.copytree(site.state, start)
    while dies_at(number, site, message):
        begun = updates(site)
        assert not dies_at(NEVER, site, message), "the second process died too"
        assert releases(site) <= 1
        assert not begun or updates(site) <= begun, "asked again, it drew other noise for the same charge"
        assert drafts(site) == []
        shutil.rmtree(site.state)
        shutil.copytree(start, site.state)
        number += 1
    shutil.rmtree(start)
    return number


def killed_again_and_again(site: Site, message: Message) -> int:
    """Kill each process one file operation later than the one before it."""
    number, found = 0, set[str]()
    while dies_at(number, site, message):
        number += 1
        found |= updates(site)
    assert len(found) <= 1, "asked again, it drew other noise for the same charge"
    return number


def updates(site: Site) -> set[str]:
    """The encoded update that waits to be masked, as a hash; none where there is none."""
    return {digest(path) for path in site.state.rglob("update.secret")}


def releases(site: Site) -> int:
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        facts = [entry.facts() for entry in ledger.entries() if entry.kind == "release"]
    return sum(fact["purpose"] == "training" for fact in facts)


def drafts(site: Site) -> list[str]:
    return [path.name for path in site.state.rglob(".*") if path.is_file()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def dies_at(number: int, site: Site, message: Message) -> bool:
    """Answer in a child process that kills itself before its file operation `number`; False where it had fewer."""
    (site.state / "reply").unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        left = number

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in FILE_EVENTS and str(site.state) in str(arguments[0]):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.addaudithook(watch)
        reply = answer(site, lambda: from_records(message.content))
        (site.state / "reply").write_bytes(pack(reply))
        os._exit(1 if isinstance(reply, Refusal) else 0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, (site.state / "log.jsonl").read_text()
    return False


def run_killed(place: Path, *overrides: str, once: bool) -> tuple[Prepared, ServerState, _Killing]:
    prepared = prepare_toy(place, *OVERRIDES, *overrides)
    grid = _Killing(prepared.sites)
    grid.kills, grid.once = {}, once
    settings = settings_of(_run_config(prepared), prepared.folder.path)
    return prepared, run_federation(GridLink(grid, timeout_seconds=600), settings), grid


def run_undisturbed(place: Path, *overrides: str) -> ServerState:
    prepared = prepare_toy(place, *OVERRIDES, *overrides)
    settings = settings_of(_run_config(prepared), prepared.folder.path)
    return run_federation(GridLink(InProcessGrid(prepared.sites), timeout_seconds=600), settings)


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False], ids=["one kill", "kill after kill"])
def test_a_site_killed_at_every_step_of_every_stage_answers_once_and_is_charged_once(
    tmp_path: Path, *, once: bool
) -> None:
    prepared, _, grid = run_killed(tmp_path, once=once)
    assert set(grid.kills) == {stage.__name__ for stage in STAGES}
    assert min(grid.kills.values()) > 5  # it died that often, and more often where more is written
    assert prepared.folder.journal.events("round")[0].facts["lost"] == {}
    site = next(site for site in prepared.sites if site.name == VICTIM)
    assert releases(site) == 1
    assert list(site.state.rglob("*.secret")) == []
    assert drafts(site) == []


@pytest.mark.slow
def test_the_model_of_a_run_with_a_dying_site_is_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    _, state, _ = run_killed(tmp_path / "killed", REPEATABLE, once=False)
    assert same_weights(state, run_undisturbed(tmp_path / "calm", REPEATABLE))
    assert all(np.isfinite(vector).all() for vector in state.weights.values())
