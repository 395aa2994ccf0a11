"""The operator's gate: a real nginx that passes two paths to the SuperLink, and refuses everything else itself."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.deployment.supervise import running
from server.deployment.init import create
from server.deployment.place import Consortium, Place
from server.deployment.programs import gate
from tests.deployed import have_nginx
from tests.operator_stack import free_port

pytestmark = pytest.mark.slow
PASSED_ON = 502  # nobody listens where the SuperLink would
CONTROL = (
    *("/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/", "/", "/docs"),
    *("//v1/control/list-runs", "/v1/fleet/../control/list-runs", "/v1/fleet/%2e%2e/control/list-runs"),
    *("/v1/fleet/..%2fcontrol/list-runs", "/health/../v1/control/list-runs", "/V1/fleet/pull-messages"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    have_nginx()
    told = Consortium(name="Gate", host="localhost", port=free_port(), listen="127.0.0.1", link_port=free_port())
    made = create(tmp_path_factory.mktemp("gate") / "consortium", told)
    with running((gate(made),)):
        deadline = time.monotonic() + 60
        while True:
            try:
                answer(made, "/health")
                break
            except OSError:
                assert time.monotonic() < deadline, "the gate does not come up"
                time.sleep(0.1)
        yield made


def answer(place: Place, path: str, *, tls: ssl.TLSVersion | None = None) -> int:
    context = ssl.create_default_context(cafile=str(place.certificate("authority")))
    if tls is not None:
        context.minimum_version = context.maximum_version = tls
    link = http.client.HTTPSConnection("localhost", place.consortium.port, timeout=20, context=context)
    try:
        link.request("POST", path, body=b"")
        return link.getresponse().status
    finally:
        link.close()


@pytest.mark.parametrize("path", ["/health", "/v1/fleet/pull-messages", "/v1/fleet/register-node"])
def test_the_fleet_and_its_health_are_passed_on(place: Place, path: str) -> None:
    assert answer(place, path) == PASSED_ON


@pytest.mark.parametrize("path", CONTROL)
def test_control_and_runtime_are_refused_however_they_are_spelled(place: Place, path: str) -> None:
    assert answer(place, path) in {400, 403, 404}


def test_the_fleets_name_without_its_end_is_answered_by_the_gate_itself(place: Place) -> None:
    assert answer(place, "/v1/fleet") == 301


def test_an_older_tls_is_refused(place: Place) -> None:
    assert answer(place, "/health", tls=ssl.TLSVersion.TLSv1_3) == PASSED_ON
    with pytest.raises(ssl.SSLError):
        answer(place, "/health", tls=ssl.TLSVersion.TLSv1_2)


def test_whoever_has_no_papers_of_the_consortium_does_not_take_the_gate_for_anyones(place: Place) -> None:
    link = http.client.HTTPSConnection("localhost", place.consortium.port, context=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        link.request("GET", "/health")
    link.close()


def test_the_superlink_is_told_to_listen_on_loopback_alone_and_to_ask_who_calls(place: Place) -> None:
    unit = Path(place.path / "systemd" / "fedmosaic-superlink.service").read_text()
    assert "--host 127.0.0.1" in unit
    assert "--enable-supernode-auth" in unit
