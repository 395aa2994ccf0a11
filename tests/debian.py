"""Debian's packages for tests that need a real server: installed where they are missing, one at a time."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

_WAIT = ("-o", "DPkg::Lock::Timeout=300")


def install(package: str) -> None:
    """Install a package; two test processes at once take turns.

    Raises:
        subprocess.CalledProcessError: it cannot be installed.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with (Path(tempfile.gettempdir()) / "fedmosaic-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (("update",), ("install", "-y", "--no-install-recommends", package)):
            subprocess.run(["/usr/bin/apt-get", *_WAIT, *words], check=True, capture_output=True, env=environment)
