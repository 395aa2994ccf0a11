"""`fedmosaic site join`: the site's programs, kept running, and in words how it stands between them and the gate."""

from __future__ import annotations

import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from client.deployment import hand_over
from client.deployment.approval import check_installed, present
from client.deployment.node import Polls, read_polls
from client.deployment.place import Place
from client.policy import read_policy
from common.compose import ConfigError
from common.deployment.environment import environment_of
from common.deployment.probe import Probe, probe
from common.deployment.supervise import Program, Say, supervise
from common.files import write_whole
from common.secagg.identity import load_identity

_STALE_SECONDS = 90.0  # longer than Flower waits for an answer (30 s) and between two attempts (20 s) together
_WATCH_SECONDS = 3.0
_FRESH_SECONDS = 15.0
_FINE, _UNKNOWN = 200, (401, 412)  # as Flower answers a key that nobody registered, and one that it took out
_GUARDED = "flwr-clientapp"
_NEVER = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
_TASK = '#!/bin/sh\nexec {python} -I -S {hand_over} {folder} "$@"\n'
_REFUSAL = '#!/bin/sh\necho "{name}: a site runs no such task; refused" >&2\nexit 1\n'
_EXECUTABLE = 0o700


def join(place: Place, superlink: str | None, say: Say) -> None:
    """Keep this site joined until this process is asked to end (Ctrl-C, SIGTERM).

    Args:
        place: the site.
        superlink: the gate's host and port where it is not that of the invitation.
        say: where sentences on how it goes are put.

    Raises:
        Refused: nothing is approved here, or something else than what is installed; or the policy cannot be read.
        ConfigError: this is no site, or it is joined already.
        ValueError: the identity key cannot be read, or the data folder's `dataset.yaml`.
    """
    site = place.site()
    check_installed(site, present())
    # What every answer needs: better missed now, by who starts it, than at the first message.
    read_policy(site.policy_path)
    load_identity(site.identity_path)
    site.spec()
    with place.alone(), _ended_by_signals() as ended:
        address = superlink or place.invitation().address
        if not address.rpartition(":")[2].isdigit():
            raise ConfigError(f"--superlink takes HOST:PORT, got {address!r}")
        programs = _programs(place, address, watch := _Watch(place, address, say))
        watch.look()
        threading.Thread(target=watch.run, args=(ended.is_set,), daemon=True).start()
        supervise(programs, say, stop=ended.is_set)


class _Watch:
    """Looks at the gate and at what the SuperNode last heard of it, and says what is new."""

    def __init__(self, place: Place, address: str, say: Say) -> None:
        self._place, self._address, self._say = place, address, say
        self._authority = place.invitation().authority
        self._reachable_since: float | None = None
        self._said = ""

    def run(self, ended: Callable[[], bool]) -> None:
        """Look until the site is told to end."""
        while not ended():
            self.look()
            time.sleep(_WATCH_SECONDS)

    def is_alive(self) -> bool:
        """Tell whether the SuperNode does what it should; where not, another one is about to be started."""
        now, since = time.monotonic(), self._reachable_since
        if since is None or not is_stuck(read_polls(self._place.polls_path), now - since, now):
            return True
        self._reachable_since = now  # the next one has as long as this one had
        return False

    def look(self) -> None:
        """Look once."""
        found = probe(self._address, self._authority)
        if found.trouble:
            self._reachable_since = None
        elif self._reachable_since is None:
            self._reachable_since = time.monotonic()
        sentence = standing(read_polls(self._place.polls_path), found, time.monotonic())
        if sentence != self._said:
            self._said = sentence
            self._say(sentence)


def standing(polls: Polls, found: Probe, now: float) -> str:
    """How a site stands, in one sentence that says what to do where something is wrong."""
    if polls.status == _FINE and polls.silent_for(now) < _FRESH_SECONDS:
        return "connected: at work on a message" if polls.is_busy else "connected: waiting for messages"
    if found.trouble:
        return f"not connected: {found.trouble}"
    if polls.status in _UNKNOWN:
        return (
            "not connected: the operator does not know this site's key (send enrolment.json for `server enrol`), or"
            " still waits, for a minute, for the SuperNode before this one"
        )
    if polls.status not in {0, _FINE}:
        return f"not connected: the operator's server answers {polls.request} with {polls.status}; see the node's log"
    return "connecting"


def is_stuck(polls: Polls, reachable_for: float, now: float) -> bool:
    """Tell whether a SuperNode that can reach the gate, for so many seconds, has long not polled or sent no heartbeat.

    Flower's heartbeats end for good where the server answers one with an error, on a full disk for example: polls go on
    then, and the server counts the site as gone.

    Where the gate is away it waits, and must not be ended: it may hold an answer. What this cannot see: an answer of
    the site's own that takes for ever, since no poll is due meanwhile. Flower gives such a task up by itself.
    """
    silent = max(polls.silent_for(now), now - polls.heartbeat_at)
    return min(reachable_for, silent) > _STALE_SECONDS


def _programs(place: Place, address: str, watch: _Watch) -> list[Program]:
    settings, folder = place.settings(), place.runtime_path
    write_programs(place.programs_path, folder)
    authority = write_whole(folder / "authority.pem", place.invitation().authority)
    place.polls_path.unlink(missing_ok=True)
    config = write_whole(folder / "node.toml", _node_config(place))
    port = settings.port if settings.port and _is_free(settings.port) else _free_port()
    place.keep(settings.model_copy(update={"port": port}))
    environment = environment_of(folder / "home", programs=place.programs_path)
    secret = ("--superexec-auth-secret-file", str(place.secret_path))
    node = (
        *(sys.executable, "-P", "-m", "client.deployment.node", str(place.polls_path)),
        *("--superlink", address, "--root-certificates", str(authority)),
        *("--auth-supernode-private-key", str(place.transport_path)),
        *("--isolation", "process", "--host", "127.0.0.1", "--port", str(port), *secret),
        *("--node-config", str(config)),
    )
    runner = ("flower-superexec", "--insecure", "--runtime-api-address", f"127.0.0.1:{port}", *secret)
    warm = (sys.executable, "-P", "-m", "client.deployment.warm", str(folder))
    return [
        Program("warm", warm, environment, folder),
        Program("supernode", node, environment, folder, alive=watch.is_alive),
        Program("superexec", runner, environment, folder),
    ]


def _node_config(place: Place) -> str:
    """TOML, in which Flower takes any path: on its command line it would not."""
    settings = place.settings()
    named = {"site-name": settings.name, "site-folder": settings.folder, "site-state": place.state}
    return "".join(f"{key} = {_toml(str(value))}\n" for key, value in named.items())


def _toml(text: str) -> str:
    body = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(letter if letter.isprintable() else f"\\U{ord(letter):08X}" for letter in body) + '"'


def write_programs(folder: Path, runtime: Path) -> None:
    """Write what Flower's SuperExec finds by name, anew at every start: the environment may have moved."""
    words = (sys.executable, hand_over.__file__, str(runtime))
    python, program, place = map(shlex.quote, words)
    task = _TASK.format(python=python, hand_over=program, folder=place)
    write_whole(folder / _GUARDED, task, mode=_EXECUTABLE)
    for name in _NEVER:
        write_whole(folder / name, _REFUSAL.format(name=name), mode=_EXECUTABLE)


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@contextmanager
def _ended_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, for as long as the block runs."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
