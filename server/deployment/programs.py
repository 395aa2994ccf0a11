"""The three programs of an operator: the SuperLink on loopback, the SuperExec that starts runs, the gate."""

from __future__ import annotations

import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from common.compose import ConfigError
from common.deployment.environment import environment_of
from common.deployment.supervise import Program, Say, supervise
from server.deployment.control import LinkUnreachable, register
from server.deployment.gate import write_gate
from server.deployment.place import Place
from server.folder import RUNS_VARIABLE

_START_SECONDS = 90.0
_POLL_SECONDS = 0.3


def superlink(place: Place) -> Program:
    """Flower's SuperLink: TLS, nodes that must authenticate, its state in a file, apps in processes of their own."""
    command = (
        "flower-superlink",
        *("--ssl-certfile", str(place.certificate("link"))),
        *("--ssl-keyfile", str(place.key("link.key"))),
        *("--ssl-ca-certfile", str(place.certificate("authority"))),
        *("--isolation", "process", "--superexec-auth-secret-file", str(place.key("superexec.secret"))),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--database", "state.db"),
        *("--host", "127.0.0.1", "--port", str(place.consortium.link_port)),
    )
    work = place.work("superlink")
    return Program("superlink", command, environment_of(work), work)


def superexec(place: Place) -> Program:
    """Flower's SuperExec, which starts a run's ServerApp."""
    command = (
        "flower-superexec",
        *("--runtime-api-address", f"127.0.0.1:{place.consortium.link_port}"),
        *("--root-certificates", str(place.certificate("authority"))),
        *("--superexec-auth-secret-file", str(place.key("superexec.secret"))),
    )
    work = place.work("superexec")
    return Program("superexec", command, {**environment_of(work), RUNS_VARIABLE: str(place.runs)}, work)


def gate(place: Place) -> Program:
    """The nginx in front.

    Raises:
        ConfigError: there is no nginx.
    """
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if nginx is None:
        raise ConfigError("the gate is an nginx, and there is none here: install it (Debian: apt install nginx-light)")
    work = place.work("gate")
    return Program("gate", (nginx, "-c", str(write_gate(place)), "-p", str(work)), environment_of(work), work)


def up(place: Place, say: Say, *, stop: Callable[[], bool]) -> None:
    """Have all three run until `stop` says so; whoever is enrolled is let in.

    Raises:
        ConfigError: there is no nginx.
    """
    programs = (superlink(place), superexec(place), gate(place))
    told = False

    def stopped() -> bool:
        nonlocal told
        if not told and answers(place):
            told = True
            known = register(place)
            say(f"up: institutions reach {place.consortium.address}; {len(known)} enrolled ({', '.join(known)})")
        return stop()

    supervise(programs, say, stop=stopped)


def wait_until_up(place: Place) -> None:
    """Wait for the SuperLink.

    Raises:
        LinkUnreachable: it does not come.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not answers(place):
        if time.monotonic() > deadline:
            raise LinkUnreachable(f"the SuperLink did not start; see {place.work('superlink')}/superlink.log")
        time.sleep(_POLL_SECONDS)


def answers(place: Place) -> bool:
    """Tell whether the SuperLink answers."""
    context = ssl.create_default_context(cafile=str(place.certificate("authority")))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(f"https://127.0.0.1:{place.consortium.link_port}/health", timeout=2) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004  (HTTP's own number)
    except (urllib.error.URLError, OSError, ssl.SSLError):
        return False
