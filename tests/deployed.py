"""A whole deployment for tests: the commands of docs/deploy.md, real processes, TLS and sockets, all on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.files import write_whole
from server.deployment.place import Place
from server.deployment.runs import newest
from server.folder import RunFolder
from server.state import ServerState, load_state
from tests.debian import install
from tests.operator_stack import free_port

# Fewer and smaller than a default run, and what a deployment of four toy sites needs.
QUICK = (
    *("experiment=folders", "objective.task=sick", "model.width=8", "model.feedforward=8", "privacy.delta=1e-3"),
    *("privacy.declared_subjects=40", "audit.attributes=[sex]", "data.normalisation=federated", "seed=1"),
    "privacy.test_noise_seed=5",
)
_TESTING = {"FEDMOSAIC_TESTING": "1"}
_END_SECONDS = 40


@dataclass
class Deployment:
    """A consortium below `root`: the operator's folder `consortium`, and a folder for each institution's machine.

    `inside` says, by institution or `operator`, what commands are put behind so that they run at that host.
    """

    root: Path
    names: tuple[str, ...]
    ports: tuple[int, int]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """The operator's folder."""
        return Place(self.root / "consortium")

    def machine(self, name: str) -> Path:
        """Where an institution's data and state are."""
        return self.root / "machines" / name

    def state(self, name: str) -> Path:
        """An institution's state folder."""
        return self.machine(name) / "state"

    def command(self, *arguments: str, where: Path | None = None, code: int = 0) -> str:
        """Run `fedmosaic ...` and give its stdout; it must end with this code."""
        done = self.try_command(*arguments, where=where)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def try_command(self, *arguments: str, where: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run `fedmosaic ...` to its end."""
        host = self.inside.get("operator", ()) if arguments[0] == "server" else ()
        return subprocess.run(
            [*host, *_fedmosaic(arguments)],
            cwd=where or self.root,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def start(self, label: str, *arguments: str, where: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command that stays, under a label; what it says goes to LABEL.log."""
        with (self.root / f"{label}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.inside.get(label, ()), *_fedmosaic(arguments)],
                cwd=where or self.root,
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        self.running[label] = process
        return process

    def stop(self, label: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a command that stays, and wait for it."""
        process = self.running.pop(label)
        process.send_signal(number)
        try:
            process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def up(self) -> None:
        """Start the operator's side."""
        self.start("operator", "server", "up", "consortium")

    def join(self, name: str) -> None:
        """Start an institution's side."""
        self.start(name, "site", "join", "state", where=self.machine(name))

    def status(self) -> dict[str, object]:
        """What `server status --json` says."""
        found: dict[str, object] = json.loads(self.command("server", "status", "consortium", "--json"))
        return found

    def run(self, *overrides: str, detach: bool = False) -> RunFolder:
        """Run over all institutions; gives the run's folder."""
        options = ("--detach",) if detach else ("--json",)
        self.command("server", "run", "consortium", *QUICK, *overrides, "--wait", "120", *options)
        return newest(self.place)

    def wait_for(self, what: Callable[[], bool], *, patience: float = 240, why: str = "") -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: it does not, with all logs.
        """
        deadline = time.monotonic() + patience
        while not what():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not in {patience} s: {why}\n{self.logs()}")
            time.sleep(0.2)

    def rounds(self, folder: RunFolder) -> int:
        """How many rounds have ended."""
        return max((event.round for event in folder.journal.events("round")), default=0)

    def has_ended(self, folder: RunFolder) -> bool:
        """Whether a run has ended."""
        return bool(folder.journal.events("ended"))

    def final(self, folder: RunFolder) -> ServerState:
        """The server's last state of a run."""
        state = load_state(folder.path / "state" / "server.safetensors")
        assert state is not None
        return state

    def logs(self) -> str:
        """The ends of all logs."""
        paths = sorted(self.root.glob("*.log")) + sorted(self.root.glob("consortium/work/*/*.log"))
        paths += sorted(self.root.glob("machines/*/state/flower/*.log")) + sorted(
            self.root.glob("machines/*/state/*.jsonl")
        )
        return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-1500:]}" for path in paths)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **_TESTING, **self.environment}


def _fedmosaic(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "simulations.cli", *arguments]


def have_nginx() -> None:
    """Install the gate's nginx where it is missing; nothing of ours uses the service that Debian may start of it."""
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        install("nginx-light")


@contextmanager
def prepared(
    root: Path,
    folders: Sequence[Path],
    *,
    environment: Mapping[str, str] | None = None,
    host: tuple[str, str] = ("localhost", "127.0.0.1"),
    inside: Mapping[str, tuple[str, ...]] | None = None,
) -> Iterator[Deployment]:
    """A consortium whose papers have all changed hands, with nothing running yet; in the end nothing runs any more."""
    names = tuple(folder.name for folder in folders)
    root.mkdir(parents=True, exist_ok=True)
    have_nginx()
    made = Deployment(root, names, (free_port(), free_port()), environment=environment or {}, inside=inside or {})
    ports = ("--port", str(made.ports[0]), "--link-port", str(made.ports[1]))
    made.command("server", "init", "consortium", "--host", host[0], "--listen", host[1], *ports)
    made.command("server", "enrol", "consortium", *(str(introduce(made, folder)) for folder in folders))
    for name in names:
        approve(made, name)
    with ExitStack() as stack:
        stack.callback(end_all, made)
        yield made


@contextmanager
def deployed(
    root: Path,
    folders: Sequence[Path],
    *,
    host: tuple[str, str] = ("localhost", "127.0.0.1"),
    inside: Mapping[str, tuple[str, ...]] | None = None,
) -> Iterator[Deployment]:
    """A consortium in which everybody is up."""
    with prepared(root, folders, host=host, inside=inside) as made:
        made.up()
        for name in made.names:
            made.join(name)
        yield made


def introduce(made: Deployment, folder: Path) -> Path:
    """Make an institution's machine, with this data folder, its keys, and the enrolment that it sends."""
    where = made.machine(folder.name)
    where.mkdir(parents=True, exist_ok=True)  # a disk of its own may be there already
    shutil.copytree(folder, where / "data")
    shutil.copy(made.place.invitation_path, where)
    budget = ("--lifetime-epsilon", "100", "--lifetime-delta", "1e-3")
    made.command("site", "init", "state", "--data", "data", "--invitation", "invitation.json", *budget, where=where)
    return made.state(folder.name) / "enrolment.json"


def approve(made: Deployment, name: str) -> None:
    """Give an institution roster and bundle, which it approves."""
    where = made.machine(name)
    for path in (made.place.roster_path, made.place.bundle_path):
        shutil.copy(path, where)
    made.command(
        "site", "approve", "state", "--roster", "roster.bin", "--bundle", "fedmosaic.fab", "--yes", where=where
    )


def set_policy(made: Deployment, name: str, **changes: object) -> None:
    """Change keys of an institution's policy."""
    path = made.state(name) / "policy.yaml"
    lines = path.read_text().splitlines()
    for key, value in changes.items():
        lines = [f"{key}: {json.dumps(value)}" if line.startswith(f"{key}:") else line for line in lines]
    write_whole(path, "\n".join(lines) + "\n", mode=0o644)


def processes_of(made: Deployment) -> list[str]:
    """Command lines of all processes that still run on behalf of a deployment (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = os.readlink(path.with_name("cwd"))
        except OSError:
            continue
        if str(made.root) in line or where.startswith(str(made.root)):
            found.append(f"{path.parent.name}: {line}")
    return found


def end_all(made: Deployment) -> None:
    """End every command that stays."""
    for process in made.running.values():
        process.send_signal(signal.SIGTERM)
    for process in made.running.values():
        try:
            process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
