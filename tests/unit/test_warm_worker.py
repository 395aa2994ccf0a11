"""The warm worker: what children of one process share, what they must not, and that none is lost or left behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.deployment import hand_over

PROGRAM = """
import json, os, sys, time
from pathlib import Path
import torch
from client.deployment.warm import serve
from client.stages import Stages
from common.secagg.identity import new_identity

def drawn(folder):
    stages = Stages(folder / "stage")
    noise = stages.once("Task", b"request", lambda: stages.begin("Task", b"request")[0])
    return {"noise": noise.hex(), "key": new_identity().public_key.hex(), "torch": torch.randn(4).tolist()}

def run(arguments):
    what, folder, *other = arguments
    said = {**drawn(Path(folder)), "pid": os.getpid(), "variable": os.environ.get("ASKED_WITH")}
    Path(folder, "draft").write_text(json.dumps(said))
    Path(folder, "draft").rename(Path(folder, "said.json"))
    if what == "sleep":
        time.sleep(60)
    if what == "meet":
        while not Path(other[0], "said.json").exists():
            time.sleep(0.01)
    if what == "fail":
        sys.exit(7)
    if what == "raise":
        raise ValueError("what")

place = Path(sys.argv[1])
if len(sys.argv) > 2:
    import threading
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
state = torch.get_rng_state()
said = json.dumps(drawn(place / "parent"))
torch.set_rng_state(state)
(place / "parent" / "said.json").write_text(said)
serve(place, run)
"""


@dataclass(frozen=True)
class Worker:
    folder: Path
    process: subprocess.Popen[bytes]

    def ask(self, what: str, name: str, *more: str) -> subprocess.Popen[bytes]:
        (self.folder / name).mkdir()
        command = [sys.executable, "-I", "-S", hand_over.__file__, str(self.folder), what, str(self.folder / name)]
        return subprocess.Popen([*command, *more], env={**os.environ, "ASKED_WITH": name})

    def said(self, name: str) -> dict[str, Any]:
        path = self.folder / name / "said.json"
        wait_until(path.exists)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def wait_until(is_so: Callable[[], bool], patience: float = 30) -> None:
    deadline = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("a-rather-long-name-" * 6)  # longer than an address of a Unix socket may be
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)])
    wait_until((folder / hand_over.SOCKET).exists)
    yield Worker(folder, process)
    process.kill()
    process.wait()


def test_privacy_noise_and_keys_differ_between_two_children_and_their_parent(worker: Worker) -> None:
    assert [worker.ask("end", name).wait(30) for name in ("first", "second")] == [0, 0]
    found = [worker.said(name) for name in ("parent", "first", "second")]
    assert len({one["noise"] for one in found}) == len({one["key"] for one in found}) == 3
    # What would have happened to noise from torch's own generator:
    assert found[0]["torch"] == found[1]["torch"] == found[2]["torch"]


def test_a_child_has_the_environment_of_whoever_asked(worker: Worker) -> None:
    assert worker.ask("end", "environment").wait(30) == 0
    assert worker.said("environment")["variable"] == "environment"


def test_two_children_work_at_once(worker: Worker) -> None:
    both = (
        worker.ask("meet", "here", str(worker.folder / "there")),
        worker.ask("meet", "there", str(worker.folder / "here")),
    )
    assert [one.wait(30) for one in both] == [0, 0]


@pytest.mark.parametrize(("what", "code"), [("fail", 7), ("raise", 70)])
def test_how_a_child_ends_is_told(worker: Worker, what: str, code: int) -> None:
    assert worker.ask(what, what).wait(30) == code


def test_a_killed_child_is_noticed(worker: Worker) -> None:
    asked = worker.ask("sleep", "killed")
    os.kill(worker.said("killed")["pid"], signal.SIGKILL)
    assert asked.wait(30) == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_with_whoever_waits_for_it(worker: Worker, number: signal.Signals) -> None:
    asked = worker.ask("sleep", f"left-{number.name}")
    pid = worker.said(f"left-{number.name}")["pid"]
    asked.send_signal(number)
    assert asked.wait(30) == (128 + signal.SIGKILL if number == signal.SIGTERM else -number)
    wait_until(lambda: is_gone(pid))


def test_nonsense_at_the_socket_ends_nothing(worker: Worker) -> None:
    command = "import os, socket, sys; os.chdir(sys.argv[1]); link = socket.socket(socket.AF_UNIX);"
    for body in (b"", b"[]\n", b"{}\n", b'{"arguments": 1, "environment": {}}\n', b"\xff\n"):
        say = f"{command} link.connect('{hand_over.SOCKET}'); link.sendall({body!r})"
        subprocess.run([sys.executable, "-c", say, str(worker.folder)], check=True)
    assert worker.ask("end", "after-nonsense").wait(30) == 0


def test_only_its_owner_can_talk_to_it(worker: Worker) -> None:
    assert stat.S_IMODE((worker.folder / hand_over.SOCKET).stat().st_mode) == 0o600


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)])
    wait_until((tmp_path / hand_over.SOCKET).exists)
    one = Worker(tmp_path, process)
    asked = one.ask("sleep", "orphan")
    pid = one.said("orphan")["pid"]
    process.kill()
    process.wait()
    assert asked.wait(30) == 70
    wait_until(lambda: is_gone(pid))


def test_a_process_with_two_threads_is_not_forked(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), "with-a-thread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "more than one thread" in done.stderr


@pytest.mark.slow
def test_without_a_warm_worker_a_task_is_carried_out_all_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", hand_over.__file__, str(tmp_path), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--runtime-api-address" in done.stdout


@pytest.mark.slow
def test_importing_the_site_draws_no_random_number() -> None:
    """So a child has torch's generator as a new interpreter has it, and trains the same model."""
    program = "import torch; new = torch.get_rng_state(); import client.deployment.task;"
    program += "assert torch.equal(new, torch.get_rng_state())"
    subprocess.run([sys.executable, "-P", "-c", program], check=True)


@pytest.mark.slow
def test_the_imported_site_has_one_thread_and_answers_without_importing_again(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-P", "-m", "client.deployment.warm", str(tmp_path)], stdout=log)
        try:
            wait_until((tmp_path / hand_over.SOCKET).exists, patience=120)
            began = time.monotonic()
            command = [sys.executable, "-I", "-S", hand_over.__file__, str(tmp_path), "--help"]
            subprocess.run(command, check=True)
            assert time.monotonic() - began < 1
            assert "--runtime-api-address" in (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()
