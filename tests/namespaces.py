"""Several hosts on one machine: a network namespace for the operator, and one for each site (Linux, as root)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

ADDRESS = "10.213.0.1"  # the operator's, on its own loopback: each site reaches it over a cable of its own
_OPERATOR = "operator"


@dataclass(frozen=True)
class Network:
    """Namespaces by host, each site's joined to the operator's by a pair of veth devices."""

    prefix: str
    sites: tuple[str, ...]

    def name(self, host: str) -> str:
        """The namespace of a host."""
        return f"{self.prefix}-{host}"

    def inside(self, host: str) -> tuple[str, ...]:
        """What a command is put behind so that it runs at a host."""
        return ("ip", "netns", "exec", self.name(host))

    def lose(self, site: str, percent: int) -> None:
        """Lose this share of all packets that a site sends, and of all that it is sent; 0 ends it.

        Raises:
            NotHere: this machine has no means for it.
        """
        for host, device in ((site, "cable"), (_OPERATOR, f"to-{self.sites.index(site)}")):
            inside = self.inside(host)
            _succeeds(*inside, "tc", "qdisc", "del", "dev", device, "root")  # one of the two was there, or neither
            _succeeds(*inside, "nft", f"delete table netdev {device}")
            netem = ("tc", "qdisc", "add", "dev", device, "root", "netem", "loss", f"{percent}%")
            if percent and not _succeeds(*inside, *netem):
                self._lose_by_rule(inside, device, percent)

    def _lose_by_rule(self, inside: Sequence[str], device: str, percent: int) -> None:
        """Where the kernel has no netem: a rule of its firewall for what comes in."""
        chain = f"add chain netdev {device} lossy {{ type filter hook ingress device {device} priority 0; }}"
        odds = "" if percent == 100 else f"numgen random mod 100 < {percent} "
        rule = f"add rule netdev {device} lossy {odds}drop"
        if not all(_succeeds(*inside, "nft", text) for text in (f"add table netdev {device}", chain, rule)):
            raise NotHere("neither tc netem nor nft can lose packets here")


class NotHere(Exception):
    """This machine cannot play a fault."""


@contextmanager
def network(prefix: str, sites: Sequence[str]) -> Iterator[Network]:
    """Have the namespaces for as long as the block runs.

    Raises:
        NotHere: no namespace can be had.
    """
    made = Network(prefix, tuple(sites))
    if shutil.which("ip") is None or not _succeeds("ip", "netns", "add", made.name(_OPERATOR)):
        raise NotHere("ip netns add is not allowed, or there is no ip")
    with ExitStack() as stack:
        stack.callback(_ip, "netns", "del", made.name(_OPERATOR))
        _ip("-n", made.name(_OPERATOR), "link", "set", "lo", "up")
        _ip("-n", made.name(_OPERATOR), "address", "add", f"{ADDRESS}/32", "dev", "lo")
        for number, site in enumerate(made.sites):
            _ip("netns", "add", made.name(site))
            stack.callback(_ip, "netns", "del", made.name(site))
            _join(made, number, site)
        yield made


def _join(made: Network, number: int, site: str) -> None:
    here, there, device = made.name(site), made.name(_OPERATOR), f"to-{number}"
    _ip("link", "add", device, "netns", there, "type", "veth", "peer", "name", "cable", "netns", here)
    _ip("-n", there, "address", "add", f"10.213.{number + 1}.1/30", "dev", device)
    _ip("-n", here, "address", "add", f"10.213.{number + 1}.2/30", "dev", "cable")
    for space, name in ((there, device), (here, "cable"), (here, "lo")):
        _ip("-n", space, "link", "set", name, "up")
    _ip("-n", here, "route", "add", "default", "dev", "cable")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)  # noqa: S607  (root's own path)


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
