"""A process that is really killed at the n-th statement or commit of its ledger."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType


def dies_at(work: Callable[[], object], number: int) -> bool:
    """Do the work in a process that is killed at the n-th statement or commit; False where it lives to the end."""
    child = os.fork()
    if child == 0:
        left = iter(range(number))

        def watch(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_name in ("do_execute", "do_commit") and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
