"""What goes wrong in a bad week: each fault strikes a running deployment's processes, disks or cables, in one round."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from server.deployment.certificates import Certified, certify
from tests.scene import OPERATOR, PATIENCE_SECONDS, Scene, children_of, processes_below

_SLOW_SECONDS, _SLOW_SHARE = 1.0, 0.9  # of every second, a slow site stands still for nine tenths


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: what it is called.
        moment: tells when it strikes.
        strike: does it, and whatever somebody there does about it; `server resume` is not among that.
        loses: sites that may be missing in the round's sum.
    """

    name: str
    moment: Callable[[Scene], bool]
    strike: Callable[[Scene], None]
    loses: tuple[str, ...] = ()


def _asked(name: str) -> Callable[[Scene], bool]:
    return lambda scene: scene.has_begun(name)


def _answered(name: str, stage: str) -> Callable[[Scene], bool]:
    return lambda scene: scene.answered(name, stage)


def _between_rounds(scene: Scene) -> bool:
    return scene.ended() >= scene.round - 1


def _normalised(scene: Scene) -> bool:
    return bool(scene.folder.journal.events("released normalisation"))


def _kill(words: str, owner: str = OPERATOR) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        for number in scene.wait_for(words, owner):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    return strike


def _kill_task(name: str) -> Callable[[Scene], None]:
    """Kill the child that the warm worker forked for a message."""

    def strike(scene: Scene) -> None:
        (parent, *_) = scene.wait_for("client.deployment.warm", name)
        deadline, killed = time.monotonic() + PATIENCE_SECONDS, False
        while not killed and time.monotonic() < deadline:
            for number in children_of(parent):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
                    killed = True
        assert killed, "no task was there to be killed"

    return strike


def _kill_up(scene: Scene) -> None:
    scene.made.running.pop(OPERATOR).kill()
    scene.made.wait_for(lambda: not processes_below(scene.made.place.path), why="the operator's programs go")
    scene.made.up()


def _kill_join(name: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        scene.made.running.pop(name).kill()
        scene.made.wait_for(lambda: not processes_below(scene.made.machine(name)), why="the site's programs go")
        scene.made.join(name)

    return strike


def _away(name: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        scene.made.stop(name)
        scene.made.wait_for(lambda: scene.ended() >= scene.round, why="the round goes on without the site")
        scene.made.join(name)

    return strike


def _slow(name: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while scene.ended() < scene.round and time.monotonic() < deadline:
            numbers = processes_below(scene.made.machine(name))
            _signal(numbers, signal.SIGSTOP)
            time.sleep(_SLOW_SECONDS * _SLOW_SHARE)
            _signal(numbers, signal.SIGCONT)
            time.sleep(_SLOW_SECONDS * (1.0 - _SLOW_SHARE))

    return strike


def _cut(name: str, seconds: float) -> Callable[[Scene], None]:
    """No packet comes or goes at a site for a while."""

    def strike(scene: Scene) -> None:
        assert scene.network is not None
        scene.network.lose(name, 100)
        time.sleep(seconds)
        scene.network.lose(name, 0)

    return strike


def _lossy(percent: int) -> Callable[[Scene], None]:
    """At every site, packets are lost until the round has ended."""

    def strike(scene: Scene) -> None:
        assert scene.network is not None
        for name in scene.made.names:
            scene.network.lose(name, percent)
        scene.made.wait_for(lambda: scene.ended() >= scene.round, patience=900, why="a round over lossy cables")
        for name in scene.made.names:
            scene.network.lose(name, 0)

    return strike


def _full_disk(owner: str, seconds: float) -> Callable[[Scene], None]:
    """The disk of a site's machine, or of the operator's folder, has no byte left for a while."""

    def strike(scene: Scene) -> None:
        place = scene.made.place.path if owner == OPERATOR else scene.made.machine(owner)
        with (place / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"\0" * 65536):
                pass
        assert shutil.disk_usage(place).free == 0, "the disk is not full"
        time.sleep(seconds)
        (place / "ballast").unlink()

    return strike


def _expired(scene: Scene) -> None:
    """The gate's certificate expires; when a site has said so, the operator renews it."""
    place = scene.made.place
    authority = Certified(place.key("authority.key").read_bytes(), place.certificate("authority").read_bytes())
    expired = certify(authority, (place.consortium.host,), days=-0.01)
    place.key("gate.key").write_bytes(expired.key)
    place.certificate("gate").write_bytes(expired.certificate)
    _kill("nginx")(scene)
    _wait_for_sentence(scene, _A, "certificate has expired")
    scene.made.command("server", "renew", "consortium")
    _kill("nginx")(scene)


def _clock(name: str, words: str) -> Callable[[Scene], None]:
    """A site's clock jumps, and is set right when the site has said so."""

    def strike(scene: Scene) -> None:
        clock = scene.made.root / f"{name}.clock"
        clock.write_text(words)
        _wait_for_sentence(scene, name, "clock differs")
        clock.write_text("+0")

    return strike


def _wait_for_sentence(scene: Scene, name: str, words: str) -> None:
    log = scene.made.root / f"{name}.log"
    scene.made.wait_for(lambda: words in log.read_text(), why=f"{name} says: {words}")


def _signal(numbers: dict[int, str], what: signal.Signals) -> None:
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, what)


_A, _B = "site-1", "site-2"
SUPERLINK = Fault("SuperLink killed in the middle of a secure sum", _answered(_A, "Task"), _kill("flower-superlink"))
SUPEREXEC = Fault("operator's SuperExec killed", _answered(_A, "ShareRequest"), _kill("flower-superexec"))
SERVERAPP_TABLE = Fault("ServerApp killed after the normalisation table", _normalised, _kill("flwr-serverapp"))
SERVERAPP_SUM = Fault(
    "ServerApp killed in the middle of a secure sum", _answered(_A, "MaskRequest"), _kill("flwr-serverapp")
)
SERVERAPP_BETWEEN = Fault("ServerApp killed between two rounds", _between_rounds, _kill("flwr-serverapp"))
GATE = Fault("gate killed", _answered(_A, "Task"), _kill("nginx"))
UP = Fault("server up killed, and started again", _answered(_A, "Task"), _kill_up)
SUPERNODE = Fault("SuperNode killed", _asked(_A), _kill("client.deployment.node", _A), (_A,))
SITE_SUPEREXEC = Fault("site's SuperExec killed", _asked(_A), _kill("flower-superexec", _A), (_A,))
WARM = Fault("warm worker killed", _asked(_A), _kill("client.deployment.warm", _A), (_A,))
TASK_BEGUN = Fault("ClientApp killed while it trains", _asked(_A), _kill_task(_A), (_A,))
TASK_MASKING = Fault("ClientApp killed in the secure sum", _answered(_A, "Task"), _kill_task(_A), (_A,))
JOIN = Fault("site join killed, and started again", _asked(_A), _kill_join(_A), (_A,))
AWAY = Fault("a site away for a round", _asked(_B), _away(_B), (_B,))
SLOW = Fault("a site ten times slower", _asked(_A), _slow(_A))
CUT = Fault("a site cut off for 20 s", _asked(_A), _cut(_A, 20))
CUT_LONG = Fault("a site cut off for 100 s", _asked(_A), _cut(_A, 100), (_A,))
LOSSY = Fault("30 % of all packets lost", _asked(_A), _lossy(30))
SITE_DISK = Fault("a site's disk full for 20 s", _asked(_A), _full_disk(_A, 20), (_A,))
OPERATOR_DISK = Fault("the operator's disk full for 20 s", _answered(_A, "Task"), _full_disk(OPERATOR, 20))
EXPIRED = Fault("the gate's certificate expired, and renewed", _answered(_A, "Task"), _expired)
CLOCK_AHEAD = Fault("a site's clock an hour ahead", _answered(_B, "Task"), _clock(_B, "+3600"), (_B,))
CLOCK_BEHIND = Fault("a site's clock an hour behind", _answered(_B, "Task"), _clock(_B, "-3600"), (_B,))

# A week is one run: its faults strike one after another, one in each round. The first is the one that CI lives through.
# Those of HOSTS need hosts of their own: namespaces, small disks, clocks that can be set.
WEEKS: dict[str, tuple[Fault, ...]] = {
    "short": (SUPERLINK, TASK_BEGUN, SERVERAPP_SUM),
    "operator": (SERVERAPP_TABLE, SERVERAPP_BETWEEN, SUPEREXEC, GATE, UP),
    "site": (SUPERNODE, SITE_SUPEREXEC, WARM, TASK_MASKING, JOIN),
    "pace": (SLOW, AWAY, EXPIRED),
}
HOSTS: dict[str, tuple[Fault, ...]] = {
    "network": (CUT, LOSSY, CUT_LONG),
    "disk": (SITE_DISK, OPERATOR_DISK),
    "clock": (CLOCK_AHEAD, CLOCK_BEHIND),
}
