"""What an operator asks of the SuperLink, by Flower's own command: who is there, which runs; begin one."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.compose import ConfigError
from common.deployment.environment import PROGRAMS, environment_of
from common.files import PRIVATE, write_whole
from server.deployment.place import Place

_ENDED = "finished"
_SECONDS = 120.0


class LinkUnreachable(ConfigError):
    """The SuperLink does not answer."""


@dataclass(frozen=True)
class FlowerRun:
    """A run as the SuperLink knows it: its number, and `running`, `finished:completed`, `finished:failed`..."""

    number: str
    status: str

    @property
    def is_over(self) -> bool:
        """Whether its ServerApp has ended."""
        return self.status.startswith(_ENDED)


def register(place: Place) -> dict[str, str]:
    """Let all who are enrolled in, and nobody else; returns node ids by institution. Who is known already stays."""
    with _alone(place):
        known: dict[str, str] = json.loads(place.nodes_path.read_text()) if place.nodes_path.exists() else {}
        enrolled, seen = place.enrolments(), nodes(place)
        known = {name: node for name, node in known.items() if name in enrolled and node in seen}
        for node in set(seen) - set(known.values()):  # taken off, or registered just before a crash
            _flwr(place, "supernode", "unregister", node, "here")
        write_whole(place.nodes_path, json.dumps(known, indent=1) + "\n")
        for name in sorted(set(enrolled) - set(known)):
            key = write_whole(place.path / "enrolled" / f"{name}.pub", f"{enrolled[name].transport_key}\n")
            known[name] = str(_flwr(place, "supernode", "register", str(key), "here", "--name", name)["node-id"])
            write_whole(place.nodes_path, json.dumps(known, indent=1) + "\n")
        return known


def nodes(place: Place) -> dict[str, str]:
    """What the SuperLink says of each registered node (`registered`, `online`, `offline`), by node id."""
    found = _flwr(place, "supernode", "ls", "here")["nodes"]
    return {str(node["node-id"]): str(node["status"]) for node in found if node["status"] != "unregistered"}


def start_run(place: Place, run_config: Mapping[str, str], folder: Path) -> FlowerRun:
    """Hand the run to the SuperLink; `folder` is where its configuration is written down for Flower."""
    overrides = write_whole(
        folder / "overrides.toml", "".join(f"{key} = {json.dumps(value)}\n" for key, value in run_config.items())
    )
    started = _flwr(place, "run", str(place.bundle_folder), "here", "--run-config", str(overrides))
    return FlowerRun(str(started["run-id"]), "pending")


def run_status(place: Place, number: str) -> FlowerRun:
    """Ask how a run is."""
    runs: list[dict[str, object]] = _flwr(place, "ls", "here", "--run-id", number)["runs"]
    return FlowerRun(number, str(runs[0]["status"]) if runs else "unknown")


def write_connection(place: Place) -> None:
    """Tell Flower's command where the SuperLink is, and how to know it."""
    authority = json.dumps(str(place.certificate("authority")))
    write_whole(
        _home(place) / "config.toml",
        '[superlink]\ndefault = "here"\n\n[superlink.here]\n'
        f'address = "127.0.0.1:{place.consortium.link_port}"\nroot-certificates = {authority}\n',
    )


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """Two commands at once would register a key twice."""
    handle = os.open(place.path / "register.lock", os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _home(place: Place) -> Path:
    return place.work("control")


def _flwr(place: Place, *arguments: str) -> dict[str, Any]:
    home = _home(place)
    command = [str(PROGRAMS / "flwr"), *arguments, "--format", "json"]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=home, env=environment_of(home), capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise LinkUnreachable(_unreachable(place, "it does not answer")) from error
    start = done.stdout.find("{")
    answer: dict[str, Any] = json.loads(done.stdout[start:]) if start >= 0 else {}
    if done.returncode or start < 0 or not answer.get("success", True):
        said = str(answer.get("error-message") or (done.stderr or done.stdout)).strip()
        words = " ".join(said.split())
        if "onnect" in words or "UNAVAILABLE" in words:
            raise LinkUnreachable(_unreachable(place, words[-200:]))
        raise ConfigError(f"flwr {' '.join(arguments[:2])} failed: {words[-300:]}")
    return answer


def _unreachable(place: Place, why: str) -> str:
    return f"the SuperLink of {place.path} cannot be reached ({why}): start it with: fedmosaic server up {place.path}"
