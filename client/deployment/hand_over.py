"""What Flower's SuperExec starts for each task: it hands the task to the site's warm worker, and waits for its end.

`python -I -S hand_over.py FOLDER ARGUMENTS...`, with the standard library alone, so that it starts in milliseconds.
Where no warm worker answers, the task is carried out here, as slowly as a new interpreter does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from types import FrameType

SOCKET, STARTED, STOP = "warm.sock", b"+", b"-"
_LOST = 70


def main(folder: str, arguments: list[str]) -> int:
    """Have a task carried out, and give its exit code."""
    with socket.socket(socket.AF_UNIX) as link:
        try:
            os.chdir(folder)  # a Unix socket's address is short: its folder's may not be
            link.connect(SOCKET)
            link.sendall(json.dumps({"arguments": arguments, "environment": dict(os.environ)}).encode() + b"\n")
            started = link.recv(1) == STARTED
        except OSError:
            started = False
        if not started:
            # Not -I: the site's programs have an environment of their own already, which names no other code.
            words = (sys.executable, "-P", "-m", "client.deployment.task", *arguments)
            os.execv(sys.executable, words)  # noqa: S606  (no shell is wanted)
        return _wait(link)


def _wait(link: socket.socket) -> int:
    """Wait for the exit code; ask for an end where this process is asked to end."""

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        link.sendall(STOP)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    try:
        answer = link.recv(4)
    except OSError:
        answer = b""
    return int(answer) if answer else _LOST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
