"""The environment of every program of Flower's that we start, and where those programs are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
PROGRAMS = Path(sys.executable).parent


def environment_of(home: Path, *, programs: Path = PROGRAMS) -> dict[str, str]:
    """The environment of one of Flower's programs.

    Args:
        home: its own FLWR_HOME: where it keeps bundles and connections.
        programs: where it finds the programs that it starts by name, before any other place.
    """
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    alone = {"FLWR_HOME": str(home), "PATH": path, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    # A proxy of the house may be the way to the gate; it is not the way to this machine itself.
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY", os.environ.get("no_proxy")), "127.0.0.1", "localhost")))
    polling = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25", "NO_PROXY": direct, "no_proxy": direct}
    return {**os.environ, **QUIET, **alone, **polling}
