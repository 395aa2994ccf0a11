"""Stages: one reply per stage, durable before it leaves, the same bytes for the same request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.policy import Refused
from client.stages import Stages, write_durably


def test_the_same_request_gets_the_same_bytes_and_computes_once(tmp_path: Path) -> None:
    stages, computed = Stages(tmp_path / "round"), []

    def compute() -> bytes:
        computed.append(1)
        return os.urandom(8)

    first = stages.once("Task", b"request", compute)
    assert stages.once("Task", b"request", compute) == first
    assert len(computed) == 1


def test_another_request_for_an_answered_stage_is_refused(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "round")
    stages.once("Task", b"request", lambda: b"reply")
    with pytest.raises(Refused, match="another request"):
        stages.once("Task", b"other", lambda: b"reply")


def test_erased_secrets_are_gone_and_entries_stay(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "round")
    stages.once("Task", b"request", lambda: b"reply")
    stages.keep("keys", b"secret")
    assert stages.kept("keys") == b"secret"
    assert (tmp_path / "round" / "keys.secret").stat().st_mode & 0o077 == 0
    stages.erase()
    with pytest.raises(Refused, match="keys"):
        stages.kept("keys")
    assert stages.answered("Task")
    assert b"secret" not in b"".join(path.read_bytes() for path in (tmp_path / "round").iterdir())


def test_a_durable_file_is_never_overwritten(tmp_path: Path) -> None:
    write_durably(tmp_path / "entry", b"one")
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "entry", b"two")
    assert (tmp_path / "entry").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


KILLED_WHILE_COMPUTING = """
import os, signal, sys
from pathlib import Path
from client.stages import Stages
stages = Stages(Path(sys.argv[1]))
stages.once("Task", b"request", lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_kill_before_the_entry_leaves_nothing_and_blocks_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "round"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_COMPUTING, str(folder)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not Stages(folder).answered("Task")
    assert Stages(folder).once("Task", b"request", lambda: b"reply") == b"reply"


TWO_WRITERS_OF_ONE_PROCESS_NUMBER = """
import sys
from pathlib import Path
from client.stages import write_durably
path, begun = Path(sys.argv[1]), []
def second_writer(event, arguments):  # as from another container, between the first one's file and its name
    if event == "os.link" and not begun:
        begun.append(event)
        write_durably(path, b"second")
sys.addaudithook(second_writer)
try:
    write_durably(path, b"first, and longer")
except FileExistsError:
    print("refused")
"""


def test_writers_with_one_process_number_do_not_write_into_each_others_file(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", TWO_WRITERS_OF_ONE_PROCESS_NUMBER, str(tmp_path / "entry")]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")
    assert (tmp_path / "entry").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
