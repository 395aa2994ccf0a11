"""A real PostgreSQL server for tests: in a folder of its own, behind a socket in it, as a user without privileges."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.debian import install

_HOME = Path("/usr/lib/postgresql")
_USER = "postgres"
_WAIT_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A running server; `folder` holds its socket, `binaries` its programs."""

    folder: Path
    binaries: Path

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's own clients against it."""
        command = [str(self.binaries / program), "-h", str(self.folder), "-U", _USER, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def url(self, database: str) -> str:
        """Make an empty database and give its URL."""
        self.run("createdb", database)
        return f"postgresql://{_USER}@/{database}?host={self.folder}"


@contextmanager
def postgresql() -> Iterator[Server]:
    """Install PostgreSQL where it is missing, start a server, and stop it by its own process number."""
    binaries = _binaries() or _install()
    folder = Path(tempfile.mkdtemp(prefix="fedmosaic-pg-"))
    user = _USER if os.geteuid() == 0 else None  # a server refuses to run as root
    if user:
        shutil.chown(folder, _USER, _USER)
    data = folder / "data"
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, user=user, group=user)
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
    with (folder / "log").open("w") as log:
        command = [str(binaries / "postgres"), "-D", str(data), *settings]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, user=user, group=user)
    try:
        server = Server(folder, binaries)
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=_WAIT_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path | None:
    return max((path.parent for path in _HOME.glob("*/bin/initdb")), default=None)


def _install() -> Path:
    install("postgresql")
    found = _binaries()
    if found is None:
        raise FileNotFoundError("PostgreSQL was installed, and its initdb is not below /usr/lib/postgresql")
    return found


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.run("psql", "-c", "SELECT 1")
        except subprocess.CalledProcessError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError((server.folder / "log").read_text())
