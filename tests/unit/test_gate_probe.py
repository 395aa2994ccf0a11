"""What a site says of the way to its gate: over real sockets, one sentence for each thing that can be wrong."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from client.deployment.join import is_stuck, standing
from client.deployment.node import Keeper, Polls, read_polls
from common.deployment.probe import Probe, probe
from tests.operator_stack import Certificates, certify, free_port

NOW = 1_800_000_000.0
FINE = Probe("")


class _Health(http.server.BaseHTTPRequestHandler):
    status, ahead = 200, 0.0

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def date_time_string(self, timestamp: float | None = None) -> str:
        del timestamp
        return formatdate(time.time() + self.ahead, usegmt=True)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def gate(certificates: Certificates, *, status: int = 200, ahead: float = 0.0) -> Iterator[str]:
    handler = type("Handler", (_Health,), {"status": status, "ahead": ahead})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.chain, certificates.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may have a proxy of its own."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certify(tmp_path_factory.mktemp("good"))


def test_a_gate_that_answers_has_no_trouble(good: Certificates) -> None:
    with gate(good) as address:
        assert probe(address, good.authority) == FINE


def test_a_certificate_that_has_expired_is_told(tmp_path: Path) -> None:
    old = certify(tmp_path, days=-1)
    with gate(old) as address:
        assert "has expired: the operator must renew it" in probe(address, old.authority).trouble


def test_a_certificate_for_another_name_is_told(tmp_path: Path) -> None:
    other = certify(tmp_path, name="elsewhere.example")
    with gate(other) as address:
        assert "is for another name" in probe(address, other.authority).trouble


def test_a_certificate_of_another_authority_is_no_reason_to_go_on(good: Certificates, tmp_path: Path) -> None:
    with gate(certify(tmp_path)) as address:
        assert "do not go on" in probe(address, good.authority).trouble


@pytest.mark.parametrize(("ahead", "sign"), [(60.0, ""), (-60.0, "+60 s"), (400.0, "-400 s")])
def test_a_clock_for_which_signatures_would_be_refused_is_told(good: Certificates, ahead: float, sign: str) -> None:
    """Flower allows a site's clock to be five minutes late, and five seconds early."""
    with gate(good, ahead=ahead) as address:
        trouble = probe(address, good.authority).trouble
    assert ("clock" in trouble) == bool(sign)


def test_what_answers_for_a_superlink_that_is_down_is_told(good: Certificates) -> None:
    with gate(good, status=502) as address:
        assert "answers 502: the operator's SuperLink is not running" in probe(address, good.authority).trouble


def test_a_port_that_nobody_listens_at_is_told(good: Certificates) -> None:
    assert "refuses connections" in probe(f"localhost:{free_port()}", good.authority).trouble


def test_a_port_that_speaks_no_tls_is_told(good: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"

        def answer() -> None:
            link, _ = server.accept()
            with link:
                link.recv(4096)
                link.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert "speaks no TLS" in probe(address, good.authority).trouble
        thread.join()


@contextmanager
def proxy(seen: list[bytes]) -> Iterator[int]:
    """A house's proxy that lets one connection out, for who has its password."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def carry(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while part := source.recv(65536):
                    target.sendall(part)
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            inside, _ = server.accept()
            seen.append(inside.recv(4096))
            host, _, port = seen[0].split()[1].decode().rpartition(":")
            with inside, socket.create_connection((host, int(port))) as outside:
                inside.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=carry, args=(outside, inside))
                back.start()
                carry(inside, outside)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join()


def test_the_way_leads_through_the_proxy_of_the_house(good: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    with gate(good) as address, proxy(seen) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://ward:p%40ss@127.0.0.1:{port}")
        assert probe(address, good.authority) == FINE
    assert seen[0].startswith(f"CONNECT {address} ".encode())
    assert b"Basic d2FyZDpwQHNz" in seen[0]  # ward:p@ss


def test_a_name_without_an_address_is_told(good: Certificates) -> None:
    assert "has no address" in probe("nowhere.invalid:9", good.authority).trouble


@pytest.mark.parametrize(
    ("polls", "found", "words"),
    [
        (Polls(), FINE, "connecting"),
        (Polls("pull-messages", 200, NOW - 3), FINE, "connected: waiting"),
        (Polls("pull-messages", 200, NOW - 60), FINE, "connecting"),
        (Polls("confirm-message-received", 200, NOW - 600, NOW - 3), FINE, "connected: at work"),
        (Polls("confirm-message-received", 200, NOW - 600, NOW - 60), FINE, "connecting"),
        (Polls("activate-node", 412, NOW - 60), FINE, "server enrol"),
        (Polls("pull-messages", 401, NOW), FINE, "server enrol"),
        (Polls("pull-messages", 500, NOW), FINE, "answers pull-messages with 500"),
        (Polls("pull-messages", 200, NOW), Probe("gone"), "connected: waiting"),  # what was heard counts for more
        (Polls("pull-messages", 200, NOW - 60), Probe("gone"), "not connected: gone"),
    ],
)
def test_how_a_site_stands(polls: Polls, found: Probe, words: str) -> None:
    assert words in standing(polls, found, NOW)


def test_polls_are_read_from_what_httpx_logs(good: Certificates, tmp_path: Path) -> None:
    path = tmp_path / "polls.json"
    keeper, logger = Keeper(path), logging.getLogger("httpx")
    before = logger.level
    logger.addHandler(keeper)
    logger.setLevel(logging.INFO)
    trust = ssl.create_default_context(cadata=good.authority)
    try:
        for status, word in ((200, "pull-messages"), (412, "activate-node"), (200, "send-node-heartbeat")):
            with gate(good, status=status) as address, httpx.Client(verify=trust) as client:
                client.post(f"https://{address}/v1/fleet/{word}")
    finally:
        logger.removeHandler(keeper)
        logger.setLevel(before)
    polls = read_polls(path)
    assert (polls.request, polls.status) == ("activate-node", 412)
    assert polls.heartbeat_at >= polls.at > 0


def test_polls_that_cannot_be_written_end_no_supernode(tmp_path: Path) -> None:
    request = ("POST", "https://gate/v1/fleet/pull-messages", "HTTP/1.1", 200)
    record = logging.LogRecord("httpx", logging.INFO, "", 0, "%s %s %s %s", request, None)
    Keeper(tmp_path / "gone" / "polls.json").handle(record)  # as little to be written as on a full disk
    assert read_polls(tmp_path / "gone" / "polls.json") == Polls()


def test_polls_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert read_polls(tmp_path / "polls.json") == Polls()
    for body in ("[", "[]", "{}", json.dumps({"request": "x", "other": 1})):
        (tmp_path / "polls.json").write_text(body)
        assert read_polls(tmp_path / "polls.json") == Polls()


def test_a_node_is_silent_since_its_last_poll_unless_it_waits_for_the_site() -> None:
    idle = Polls("pull-messages", 200, at=NOW - 100, heartbeat_at=NOW - 1)
    assert idle.silent_for(NOW) == 100  # heartbeats come from another thread: they say nothing of the loop
    assert replace(idle, request="confirm-message-received").silent_for(NOW) == 1


@pytest.mark.parametrize(
    ("asked", "silent", "heartbeat", "reachable", "stuck"),
    [
        ("pull-messages", 200, 1, 200, True),
        ("pull-messages", 200, 1, 10, False),  # the gate has only just come back
        ("pull-messages", 10, 1, 200, False),
        ("pull-messages", 1, 200, 200, True),  # its heartbeats have ended: to the server it is gone
        ("confirm-message-received", 200, 1, 200, False),  # at work
        ("confirm-message-received", 200, 200, 200, True),
    ],
)
def test_only_a_node_that_could_poll_and_does_not_is_started_again(
    asked: str, silent: float, heartbeat: float, reachable: float, *, stuck: bool
) -> None:
    polls = Polls(asked, 200, NOW - silent, NOW - heartbeat)
    assert is_stuck(polls, reachable, NOW) is stuck
