"""Run Flower's SuperNode, and keep in a file what it last asked the operator's server and what it was answered.

`python -m client.deployment.node POLLS ARGUMENTS...`. Flower says nothing of its polls; httpx, with which it sends
them, logs each request that was answered, and that is all that is read here.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path

_FAILED = 70
_HEARTBEAT, _BUSY = "send-node-heartbeat", "confirm-message-received"


@dataclass(frozen=True)
class Polls:
    """What a SuperNode last asked.

    Attributes:
        request: the last request that was answered, but for heartbeats: the last word of its path.
        status: how it was answered (HTTP).
        at: when, by the clock that no one can set (`time.monotonic`, one for all processes of a machine).
        heartbeat_at: when a heartbeat last was.
    """

    request: str = ""
    status: int = 0
    at: float = 0.0
    heartbeat_at: float = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether it waits for the site's own answer to a message, and does not poll meanwhile."""
        return self.request == _BUSY

    def silent_for(self, now: float) -> float:
        """Count the seconds since it should last have been heard of."""
        return now - max(self.at, self.heartbeat_at if self.is_busy else 0.0)


def read_polls(path: Path) -> Polls:
    """Read what a SuperNode last asked; nothing where there is no such file."""
    try:
        return Polls(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return Polls()


class Keeper(logging.Handler):
    """Writes down each request that httpx logs; handlers are called one at a time."""

    def __init__(self, path: Path) -> None:
        """Begin with nothing known."""
        super().__init__()
        self._path, self._polls = path, Polls()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one request, if the record is of one."""
        if not isinstance(record.args, tuple) or len(record.args) < 4:  # noqa: PLR2004  (method, URL, version, status)
            return
        request, status, now = str(record.args[1]).rpartition("/")[2], record.args[3], time.monotonic()
        if request == _HEARTBEAT:
            self._polls = Polls(self._polls.request, self._polls.status, self._polls.at, now)
        elif isinstance(status, int):
            self._polls = Polls(request, status, now, self._polls.heartbeat_at)
        draft = self._path.with_suffix(".new")
        with suppress(OSError):  # a disk that is full for a while must not end the SuperNode
            draft.write_text(json.dumps(asdict(self._polls)))
            draft.replace(self._path)


def main(arguments: list[str]) -> None:
    """Run the SuperNode; where its loop ends, the process does."""
    logger = logging.getLogger("httpx")
    logger.setLevel(logging.INFO)
    logger.addHandler(Keeper(Path(arguments[0])))
    logger.propagate = False
    (script,) = entry_points(group="console_scripts", name="flower-supernode")
    sys.argv = ["flower-supernode", *arguments[1:]]
    try:
        script.load()()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
    # Where the server answers something odd, Flower logs it and returns, and a thread of its web server would stay.
    sys.stderr.flush()
    os._exit(_FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
