"""A gate for tests, between a site and an operator, that can be told to answer polls with an error."""

from __future__ import annotations

import http.client
import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class FaultyGate:
    """Where it listens; `broken` while polls are answered with HTTP 500; how many were."""

    address: str = ""
    broken: threading.Event = field(default_factory=threading.Event)
    refused: int = 0


def _handler(gate: FaultyGate, port: int, trust: ssl.SSLContext) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if gate.broken.is_set() and self.path.endswith("/pull-messages"):
                gate.refused += 1
                self._answer(500, b"", "text/plain")
                return
            link = http.client.HTTPSConnection("127.0.0.1", port, context=trust)
            skipped = {"host", "connection", "content-length", "transfer-encoding"}
            headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
            link.request(self.command, self.path, body, headers)
            answer = link.getresponse()
            self._answer(answer.status, answer.read(), answer.getheader("Content-Type", "text/plain"))
            link.close()

        do_GET = do_POST

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def faulty_gate(operator: Path, upstream: str) -> Iterator[FaultyGate]:
    """Listen on loopback, with the operator's own certificate, and pass everything on."""
    gate, port = FaultyGate(), int(upstream.rpartition(":")[2])
    trust = ssl.create_default_context(cafile=operator / "authority.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(gate, port, trust))
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(operator / "server.pem", operator / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    gate.address = f"localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield gate
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
