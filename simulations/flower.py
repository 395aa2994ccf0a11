"""Flower's own simulation runtime (Ray) on the same bundle: `flwr run` against a SuperLink that ends with the run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.compose import CONFIGS
from common.deployment.environment import QUIET

BUNDLE = CONFIGS.parent
_START_SECONDS = 60.0
_POLL_SECONDS = 1.0


class FlowerFailed(RuntimeError):
    """Flower's runtime did not finish the run; the sentence names the log to read."""


def run_flower(run_config: Mapping[str, str], *, num_sites: int, environment: Mapping[str, str], log: Path) -> None:
    """Run the bundle with `flwr run`, and wait for its end.

    Raises:
        FlowerFailed: the SuperLink did not start, or the run failed.
    """
    if not (BUNDLE / "pyproject.toml").exists():
        raise FlowerFailed("engine=flower needs the source tree: run it from a checkout of the project")
    # A neutral working directory: Ray's workers import from where the SuperLink was started, ahead of the bundle.
    with tempfile.TemporaryDirectory(prefix="fedmosaic-flower-") as place:
        everything = {**os.environ, **QUIET, **environment, "FLWR_HOME": place, "PYTHONPATH": ""}
        everything["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{everything['PATH']}"
        overrides = Path(place) / "overrides.toml"
        overrides.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in run_config.items()))
        with _superlink(place, everything, log) as port:
            (Path(place) / "config.toml").write_text(
                f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
            )
            nodes = ["--federation-config", f"num-supernodes={num_sites} client-resources-num-cpus=1"]
            asked = ["run", str(_bundle(Path(place))), "here", "--run-config", str(overrides), *nodes]
            started = _flwr(asked, everything, place)
            _wait(str(started["run-id"]), everything, place, log)


def _bundle(place: Path) -> Path:
    """Copy what the bundle is made of: a checkout may have a name that Flower refuses, and gigabytes beside it."""
    target = place / "fedmosaic"
    # Flower refuses an exclusion that excludes nothing, so what stays behind is copied too.
    for room in ("client", "common", "configs", "server", "simulations", "tests"):
        shutil.copytree(BUNDLE / room, target / room, ignore=shutil.ignore_patterns("__pycache__"))
    for page in ("pyproject.toml", "README.md", "LICENSE", ".gitignore", ".pre-commit-config.yaml"):
        shutil.copy(BUNDLE / page, target / page)
    return target


@contextmanager
def _superlink(place: str, environment: Mapping[str, str], log: Path) -> Iterator[int]:
    """Start a SuperLink on loopback, and end it by its own pid."""
    port = _free_port()
    command = [str(Path(sys.executable).parent / "flower-superlink"), "--insecure", "--simulation"]
    command += ["--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=place, env=dict(environment), stdout=sink, stderr=sink)  # noqa: S603
        try:
            _until_open(process, port, log)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_open(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise FlowerFailed(f"Flower's SuperLink did not start; see {log}")


def _wait(run_id: str, environment: Mapping[str, str], place: str, log: Path) -> None:
    """`flwr run` does not tell how a run ended: ask until it has."""
    while True:
        runs: list[dict[str, object]] = _flwr(["ls", "here"], environment, place)["runs"]
        status = next(str(run["status"]) for run in runs if str(run["run-id"]) == run_id)
        if status.startswith("finished"):
            if status != "finished:completed":
                raise FlowerFailed(f"Flower says {status}; see {log}")
            return
        time.sleep(_POLL_SECONDS)


def _flwr(arguments: list[str], environment: Mapping[str, str], place: str) -> dict[str, Any]:
    command = [str(Path(sys.executable).parent / "flwr"), *arguments, "--format", "json"]
    done = subprocess.run(command, cwd=place, env=dict(environment), capture_output=True, text=True, check=False)  # noqa: S603
    start = done.stdout.find("{")
    if done.returncode or start < 0:
        raise FlowerFailed(f"flwr {arguments[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    answer = dict(json.loads(done.stdout[start:]))
    if not answer.get("success", True):
        raise FlowerFailed(f"flwr {arguments[0]} failed: {answer.get('error-message', answer)}")
    return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
