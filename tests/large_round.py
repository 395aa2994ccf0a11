"""One large sum from first to last, over the real functions of sites and coordinator, with a server that may lie.

The promise is a small one, so that 30 sites are enough for a graph that is not complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from common.messages import Refusal, Reply, Request, Task
from common.secagg.assembly import read_members, write_members
from common.secagg.graph import Promise
from server.channel import Channel
from server.collect_large import collect_large
from server.link import Failure
from simulations.bench.crowd import Crowd, crowd_of

NUM_SITES = 30
SMALL = Promise(Fraction(1, 10), Fraction(1, 6), privacy_bits=10, availability_bits=10)
DEGREE, THRESHOLD = 15, 10  # what SMALL gives among 30
TASK = Task("run-1", 3, "training")
BLOCKS = {"encoder/labs": 5, "fusion": 11}
Vectors = Mapping[str, np.ndarray]
Sums = dict[str, tuple[np.ndarray, tuple[str, ...]]]


@dataclass
class LyingCrowd(Crowd):
    """A crowd whose server changes what it sends; all replies and refusals are kept for tests to look at."""

    twist: Callable[[int, Request], Request] = lambda _node, request: request
    twist_reply: Callable[[int, Reply], Reply] = lambda _node, reply: reply
    replies: dict[tuple[int, str], Reply] = field(default_factory=dict)
    requests: dict[tuple[int, str], Request] = field(default_factory=dict)

    def ask(
        self, requests: Mapping[int, Request], *, group: str, largest_bytes: int
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Twist, ask, keep."""
        twisted = {node: self.twist(node, request) for node, request in requests.items()}
        for node, reply in super().ask(twisted, group=group, largest_bytes=largest_bytes):
            if isinstance(reply, Failure):
                yield node, reply
                continue
            stage = type(twisted[node]).__name__
            self.replies[node, stage], self.requests[node, stage] = reply, twisted[node]
            yield node, self.twist_reply(node, reply)

    @property
    def refusals(self) -> dict[int, tuple[str, str]]:
        """Stage and code, by node."""
        refused = {key: reply for key, reply in self.replies.items() if isinstance(reply, Refusal)}
        return {node: (stage, reply.code) for (node, stage), reply in refused.items()}


def lying_crowd(num_sites: int = NUM_SITES, **traits: object) -> LyingCrowd:
    """Make a crowd with random vectors in two blocks."""
    rng = np.random.default_rng(7)
    vectors: list[Vectors] = [
        {name: rng.integers(0, 2**32, length, dtype=np.uint32) for name, length in BLOCKS.items()}
        for _ in range(num_sites)
    ]
    plain = crowd_of(vectors)
    return LyingCrowd(plain.sites, plain.roster, **{"promise": SMALL, **traits})  # type: ignore[arg-type]


def channel_of(crowd: Crowd) -> Channel:
    return Channel(crowd, {site.name: node for node, site in enumerate(crowd.sites)}, TASK)


def large_sum(crowd: Crowd) -> Sums:
    """Run one round; RoundAborted passes through."""
    return collect_large(channel_of(crowd), crowd.roster, crowd.k_min, crowd.promise)


def plain_sums(crowd: Crowd, nodes: list[int]) -> dict[str, list[int]]:
    """The naive twin: sums over some sites, in Python's integers."""
    columns = {name: zip(*(crowd.sites[node].vectors[name].tolist() for node in nodes), strict=True) for name in BLOCKS}
    return {name: [sum(column) % 2**32 for column in numbers] for name, numbers in columns.items()}


def told(stage: type, node: int, **changes: Any) -> Callable[[int, Request], Request]:  # noqa: ANN401
    """Change fields of one site's request; a change is a value, or a function of the old one."""

    def twist(asked: int, request: Request) -> Request:
        if asked != node or not isinstance(request, stage):
            return request
        new = {name: change(getattr(request, name)) if callable(change) else change for name, change in changes.items()}
        return replace(request, **new)

    return twist


def without(*gone: int) -> Callable[[bytes], bytes]:
    return lambda body: write_members(set(read_members(body, NUM_SITES)) - set(gone), NUM_SITES)
