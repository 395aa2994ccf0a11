"""Keep programs running: start, watch, restart with growing pauses, and end all of them by their own process groups."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_POLL_SECONDS = 0.2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_STEADY_SECONDS = 60.0
_END_SECONDS = 15.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Program:
    """A program to keep running.

    Attributes:
        name: what it is called in messages.
        command: a console script of this environment, or a path, and its arguments.
        environment: all of its environment.
        folder: its working directory; its output is appended to `NAME.log` there.
        alive: asked now and then of a running program; False: it does nothing any more, and is started again.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    alive: Callable[[], bool] | None = None

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.name}.log"


@dataclass
class _Running:
    program: Program
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    failures: int = 0
    restart_at: float | None = None


def start(program: Program) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its output in its log."""
    command = [sys.executable, "-m", "common.deployment.program"]
    command += [program.command[0], str(os.getpid()), *program.command[1:]]
    program.folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603
            command,
            cwd=program.folder,
            env=dict(program.environment),
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
        )
    finally:
        os.close(handle)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes and all that they started: politely, and after a while not."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _END_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        _signal(process, signal.SIGKILL)  # the group may hold children whose parent has gone
        process.wait()


@contextmanager
def running(programs: Sequence[Program]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Have programs run for as long as the block does; nobody restarts them here."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for program in programs:
            processes[program.name] = start(program)
        yield processes
    finally:
        end(list(processes.values()))


def supervise(programs: Sequence[Program], say: Say, *, stop: Callable[[], bool]) -> None:
    """Keep programs running until `stop` says so, then end them.

    A program that ended, or is no longer alive, is started again after a pause that doubles with each failure in a row,
    up to half a minute.
    """
    known = [_Running(program, start(program)) for program in programs]
    try:
        while not stop():
            for one in known:
                _look_after(one, say)
            time.sleep(_POLL_SECONDS)
    finally:
        end([one.process for one in known])


def _look_after(one: _Running, say: Say) -> None:
    now = time.monotonic()
    if one.restart_at is not None:
        if now >= one.restart_at:
            one.process, one.started, one.restart_at = start(one.program), now, None
        return
    code = one.process.poll()
    stuck = code is None and one.program.alive is not None and not one.program.alive()
    if code is None and not stuck:
        return
    end([one.process])  # also what it left behind
    one.failures = 1 if now - one.started > _STEADY_SECONDS else one.failures + 1
    pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (one.failures - 1))
    why = "does nothing any more" if stuck else f"ended with code {code}"
    say(f"{one.program.name} {why}; started again in {pause:g} s (see {one.program.log})")
    one.restart_at = now + pause


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return
