"""Run one of Flower's programs so that it never outlives whoever started it, and never lives on with its work ended.

`python -m common.deployment.program NAME ARGUMENTS...` runs a console script of this environment, or, with a path for
a name, another program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from importlib.metadata import entry_points

_PR_SET_PDEATHSIG = 1
_FAILED = 70


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to end this process when the one that started it does, however that ends (Linux; prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(_FAILED)


def main(arguments: list[str]) -> None:
    """Run the program that the first argument names, as a child of the process that the second one numbers."""
    name, parent, *rest = arguments
    die_with_parent(int(parent))
    if os.sep in name:
        os.execv(name, [name, *rest])  # noqa: S606  (no shell is wanted; the kernel keeps the request across exec)
    (script,) = entry_points(group="console_scripts", name=name)
    sys.argv = [name, *rest]
    try:
        script.load()()
    except SystemExit:
        raise
    except BaseException:
        # A SuperNode whose loop ended with an error would stay: its web server's thread keeps the process alive.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(_FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
