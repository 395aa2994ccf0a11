"""The warm worker: a process that has imported everything once, and forks a child for each task.

A new interpreter takes seconds of a processor until it has imported Flower and torch, and every message of a round is a
task of its own. Forking is safe here because the parent has one thread, draws no random number and reads no record:
what a child inherits is what a new interpreter would have after its imports. Privacy noise and keys come from the
operating system in each child (docs/privacy.md); torch's own generator is inherited, and nothing private comes from it.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from client.deployment.hand_over import SOCKET, STARTED, STOP
from common.deployment.program import die_with_parent

_PATIENCE_SECONDS = 5.0
_LARGEST_REQUEST = 2**20
_FAILED = 70
Run = Callable[[list[str]], None]


@dataclass
class _Worker:
    """The parent: who asked for what, and which child does it."""

    run: Run
    listener: socket.socket
    selector: selectors.BaseSelector
    children: dict[int, socket.socket] = field(default_factory=dict)


def serve(folder: Path, run: Run) -> None:
    """Fork a child for each task that is asked for at the socket in `folder`, until this process is ended.

    Raises:
        RuntimeError: this process has more than one thread already, so that forking it is not safe.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("this process has more than one thread already: a fork of it could hang")
    os.chdir(folder)
    Path(SOCKET).unlink(missing_ok=True)
    before = os.umask(0o177)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    os.umask(before)
    listener.listen()
    wake, alarm = socket.socketpair()
    alarm.setblocking(False)
    signal.signal(signal.SIGCHLD, _ignore)
    signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
    gc.freeze()  # what is there now is shared with every child, and a collection would copy it
    with selectors.DefaultSelector() as selector:
        worker = _Worker(run, listener, selector)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                _attend(worker, key.fileobj, wake)


def _attend(worker: _Worker, ready: object, wake: socket.socket) -> None:
    if ready is worker.listener:
        link, _ = worker.listener.accept()
        _begin(worker, link)
    elif ready is wake:
        wake.recv(4096)
        _bury(worker)
    else:
        for pid, link in worker.children.items():
            if link is ready:
                _stop(worker, pid, link)


def _begin(worker: _Worker, link: socket.socket) -> None:
    try:
        arguments, environment = _request(link)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        link.close()
        return
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        _child(worker, link, parent, arguments, environment)
    worker.children[pid] = link
    worker.selector.register(link, selectors.EVENT_READ)
    with suppress(OSError):
        link.sendall(STARTED)


def _request(link: socket.socket) -> tuple[list[str], dict[str, str]]:
    link.settimeout(_PATIENCE_SECONDS)
    body = b""
    while not body.endswith(b"\n"):
        part = link.recv(65536)
        body += part
        if not part or len(body) > _LARGEST_REQUEST:
            raise ValueError("half a request")
    asked = json.loads(body)
    environment = {str(name): str(value) for name, value in asked["environment"].items()}
    return [str(word) for word in asked["arguments"]], environment


def _child(
    worker: _Worker, link: socket.socket, parent: int, arguments: list[str], environment: dict[str, str]
) -> None:
    """Carry out a task in this new process, which ends here whatever happens."""
    code = _FAILED
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent, signal.SIGKILL)
        worker.selector.close()
        for other in (worker.listener, link, *worker.children.values()):
            other.close()
        os.environ.clear()
        os.environ.update(environment)
        worker.run(arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _stop(worker: _Worker, pid: int, link: socket.socket) -> None:
    """Whoever waits for a child asks for its end, or has gone: the child is ended."""
    try:
        asked = link.recv(1)
    except OSError:
        asked = b""
    # Never politely: Flower's app would report its task as stopped, and nobody would hear that no answer comes. Where
    # the task just falls silent, Flower says so within a minute, and the server asks again. (The number is its own
    # still, since it has not been waited for.)
    os.kill(pid, signal.SIGKILL)
    if asked != STOP:
        worker.selector.unregister(link)


def _bury(worker: _Worker) -> None:
    """Tell those who wait how their children ended; who was killed by signal N ends as a shell has it, with 128 + N."""
    for pid in list(worker.children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            continue
        link, code = worker.children.pop(pid), os.waitstatus_to_exitcode(status)
        with suppress(KeyError):
            worker.selector.unregister(link)
        with suppress(OSError):
            link.sendall(str(code if code >= 0 else 128 - code).encode())
        link.close()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Wake the loop: the number goes into its socket."""


def main(folder: str) -> None:
    """Import everything, then serve."""
    from client.deployment.approval import present  # noqa: PLC0415
    from client.deployment.task import run  # noqa: PLC0415

    here = present()  # of the code that was just imported, whatever is installed later
    serve(Path(folder), lambda arguments: run(arguments, here))


if __name__ == "__main__":
    main(sys.argv[1])
