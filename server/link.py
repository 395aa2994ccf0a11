"""The seam between the rounds and whatever carries messages to the sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from common.messages import Reply, Request


@dataclass(frozen=True)
class Failure:
    """A site that gave no usable reply; `reason` is a fixed phrase, never the site's own words."""

    reason: str


SMALL_REPLY_BYTES = 1 << 20


class Link(Protocol):
    """Carries requests to nodes and yields their replies as they arrive."""

    def nodes(self) -> tuple[int, ...]:
        """Ids of the nodes that can be reached now."""
        ...

    def ask(
        self, requests: Mapping[int, Request], *, group: str, largest_bytes: int
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Send one request to each node and yield one reply or failure for each, as they arrive.

        Guarantees:
            one at a time: the next reply is fetched only when the caller asks for it.
            bounded: a reply of more than `largest_bytes` is a Failure, and is not decoded.
        """
        ...
