"""A site joins a real SuperLink over TLS, answers through its own code alone, and leaves nothing running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.deployment.node import read_polls
from client.deployment.place import Place
from common.deployment.environment import PROGRAMS
from tests import operator_stack
from tests.faulty_gate import faulty_gate
from tests.operator_stack import (
    MANIFEST,
    PYPROJECT,
    ROOT,
    Operator,
    joined,
    site_command,
    wait_for_sentence,
    write_bundle,
)
from tests.toy_federation import write_toy_sites

pytestmark = pytest.mark.slow
EVIL = "import os, pathlib\npathlib.Path({marks!r}, os.environ['FLWR_HOME'].replace('/', '_')).touch()\n"
APP = "from flwr.clientapp import ClientApp\napp = ClientApp()\n"


@dataclass(frozen=True)
class Pair:
    operator: Operator
    place: Path
    state: Path

    def approve(self, bundle: Path) -> None:
        roster = operator_stack.write_roster(self.operator.folder, self.state / "enrolment.json")
        done = site_command("approve", str(self.state), "--roster", str(roster), "--bundle", str(bundle), "--yes")
        assert done.returncode == 0, done.stderr

    def refusals(self) -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in (self.state / "log.jsonl").read_text().splitlines()]
        return [(line["code"], line["reason"]) for line in lines if line["event"] == "refused"]

    def hostile_bundle(self, marks: Path) -> Path:
        """A bundle with code that says where it was run: its app, its packages, and one that shadows ours."""
        marks.mkdir()
        evil = EVIL.format(marks=str(marks))
        write_bundle(
            marks.parent / "hostile",
            {
                **MANIFEST,
                "pyproject.toml": PYPROJECT.replace("client.app:app", "evil:app"),
                "evil/__init__.py": f"{evil}import common\n{APP}",
                "client/__init__.py": evil,
                "client/app.py": f"{evil}{APP}",
                "common/__init__.py": f"{evil}__path__.append({str(ROOT / 'common')!r})\n",
            },
        )
        return marks.parent / "hostile"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    place = tmp_path_factory.mktemp("federation")
    (place / "operator").mkdir()
    (folder,) = write_toy_sites(place / "data", sites=1)
    state = place / "site's state"  # a path that a shell, TOML and systemd would each read otherwise
    with operator_stack.operator(place / "operator") as operator:
        invited = "--invitation", str(operator.invitation)
        assert site_command("init", str(state), "--data", str(folder), *invited).returncode == 0
        operator.enrol(state / "enrolment.json")
        yield Pair(operator, place, state)


def processes_naming(place: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(place) in words:
                found.append(words)
    return found


def test_an_approved_bundle_is_answered_by_the_installed_code(pair: Pair) -> None:
    pair.approve(write_bundle(pair.place / "bundle", MANIFEST))
    with joined(pair.state) as process:
        wait_for_sentence(pair.state, "connected: waiting")
        assert pair.operator.answers(pair.place / "bundle") == ["Refusal(code='not-enrolled')"]
        assert site_command("join", str(pair.state)).returncode == 2  # it runs already
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert pair.refusals() == [("not-enrolled", "run never-agreed was never agreed to here")]
    assert processes_naming(pair.state) == []


def test_a_kind_of_message_that_no_site_knows_gets_a_code_and_no_text(pair: Pair) -> None:
    text = PYPROJECT.replace('run = "query"', 'run = "train"')
    pair.approve(write_bundle(pair.place / "train", {**MANIFEST, "pyproject.toml": text}))
    with joined(pair.state):
        wait_for_sentence(pair.state, "connected: waiting")
        (answer,) = pair.operator.answers(pair.place / "train")
    assert answer == "Refusal(code='malformed')"


def test_nothing_that_a_server_sends_is_run(pair: Pair, tmp_path: Path) -> None:
    pair.approve(write_bundle(pair.place / "bundle", MANIFEST))
    marks = tmp_path / "marks"
    hostile = pair.hostile_bundle(marks)
    with joined(pair.state):
        wait_for_sentence(pair.state, "connected: waiting")
        assert pair.operator.answers(hostile) == ["Refusal(code='bundle')"]
    assert pair.refusals()[-1][0] == "bundle"
    assert [mark.name for mark in marks.iterdir() if "state" in mark.name] == []
    assert not list((pair.state / "flower").rglob("evil"))  # not even unpacked


def test_flowers_own_program_would_have_run_it(pair: Pair, tmp_path: Path) -> None:
    """The same bundle without our guard: what the test above looks for can be found."""
    pair.approve(write_bundle(pair.place / "bundle", MANIFEST))
    marks = tmp_path / "marks"
    hostile = pair.hostile_bundle(marks)
    with joined(pair.state):
        wait_for_sentence(pair.state, "connected: waiting")
        guarded = pair.state / "bin" / "flwr-clientapp"
        guarded.write_text(f'#!/bin/sh\nexec {PROGRAMS / "flwr-clientapp"} "$@"\n')
        pair.operator.answers(hostile)
    assert [mark.name for mark in marks.iterdir() if "state" in mark.name]
    shutil.rmtree(pair.state / "flower" / "home")


def test_a_site_that_the_operator_does_not_know_is_told_so(pair: Pair, tmp_path: Path) -> None:
    (folder,) = write_toy_sites(tmp_path / "data", sites=1)
    state = tmp_path / "state"
    assert (
        site_command(
            "init", str(state), "--data", str(folder), "--invitation", str(pair.operator.invitation)
        ).returncode
        == 0
    )
    stranger = Pair(pair.operator, tmp_path, state)
    stranger.approve(write_bundle(tmp_path / "bundle", MANIFEST))
    with joined(state):
        said = wait_for_sentence(state, "does not know this site's key")
    assert "server enrol" in said


def test_a_node_whose_loop_ended_is_started_again(pair: Pair) -> None:
    """Flower's SuperNode stops to poll after one odd answer of the server, and stays: nobody would notice."""
    pair.approve(write_bundle(pair.place / "bundle", MANIFEST))
    upstream = json.loads(pair.operator.invitation.read_text())["address"]
    with faulty_gate(pair.operator.folder, upstream) as gate, joined(pair.state, "--superlink", gate.address):
        wait_for_sentence(pair.state, "connected: waiting")
        gate.broken.set()
        wait_for_sentence(pair.state, "supernode ended with code 70; started again")
        gate.broken.clear()
        cleared, deadline = time.monotonic(), time.monotonic() + 60
        while not ((polls := read_polls(Place(pair.state).polls_path)).at > cleared and polls.status == 200):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert gate.refused
