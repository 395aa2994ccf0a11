"""Ask a gate whether it is there, and say in one sentence what is wrong with the way to it, and what to do."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import time
import urllib.request
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_TIMEOUT_SECONDS = 5.0
_AHEAD_SECONDS, _BEHIND_SECONDS = 5.0, 300.0  # by more, Flower's server takes a site's signature for a forged one
_FINE = 200
# X509_V_ERR_*: what OpenSSL's verification can say of a certificate (openssl/x509_vfy.h).
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


class Probe(NamedTuple):
    """What a gate was found to be: `trouble` is empty where all is well."""

    trouble: str


def probe(address: str, authority: str) -> Probe:
    """Ask a gate for its health, over a connection that this authority vouches for."""
    host, _, port = address.rpartition(":")
    link = _link(host.strip("[]"), int(port), ssl.create_default_context(cadata=authority))
    try:
        link.request("GET", "/health")
        answer = link.getresponse()
    except (OSError, http.client.HTTPException) as error:
        return Probe(_trouble(address, error))
    finally:
        link.close()
    offset = _offset(answer.getheader("Date"))
    if not -_BEHIND_SECONDS < offset < _AHEAD_SECONDS:
        return Probe(f"this machine's clock differs from the gate's by {offset:+.0f} s: set it (NTP)")
    if answer.status != _FINE:
        return Probe(f"{address} answers {answer.status}: the operator's SuperLink is not running behind the gate")
    return Probe("")


def _link(host: str, port: int, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    """Go the way that Flower's programs go: through the house's proxy, where the environment names one."""
    proxy = urllib.request.getproxies().get("https")
    if proxy is None or urllib.request.proxy_bypass(host):
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=context)
    way = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    link = http.client.HTTPSConnection(way.hostname or "", way.port or 80, timeout=_TIMEOUT_SECONDS, context=context)
    word = base64.b64encode(f"{unquote(way.username or '')}:{unquote(way.password or '')}".encode()).decode()
    link.set_tunnel(host, port, {"Proxy-Authorization": f"Basic {word}"} if way.username else {})
    return link


def _trouble(address: str, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(address, error)
    sentences: dict[type[Exception], str] = {
        ssl.SSLError: f"{address} speaks no TLS that is understood here: is it the gate's port?",
        socket.gaierror: f"{address} has no address: check its name and this machine's DNS",
        TimeoutError: f"{address} does not answer: does the firewall allow this connection out?",
        ConnectionRefusedError: f"{address} refuses connections: the operator's gate is not running, or it is another"
        " port",
    }
    found = (sentence for kind, sentence in sentences.items() if isinstance(error, kind))
    return next(found, f"{address} cannot be reached: {error}")


def _certificate(address: str, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return f"the gate's certificate has expired: the operator must renew it ({address})"
    if error.verify_code == _NOT_YET:
        return f"the gate's certificate is not valid yet: is this machine's clock right? ({address})"
    if error.verify_code in {_OTHER_NAME, _OTHER_ADDRESS}:
        return f"the gate's certificate is for another name than {address}: ask the operator for its right address"
    return f"the gate's certificate is not from the invitation's authority ({error.verify_message}): do not go on"


def _offset(date: str | None) -> float:
    """Count how far this machine's clock is ahead of an answer's date, in seconds."""
    try:
        return 0.0 if date is None else time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return 0.0
