"""The sites of one sum: requests by institution, replies one at a time, and a word on whoever is lost on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from common.messages import Advert, Plain, Refusal, Reply, Request, Task
from server.link import SMALL_REPLY_BYTES, Failure, Link

Kind = TypeVar("Kind", bound=Reply)
_LONGEST_CODE = 20


@dataclass(frozen=True)
class Channel:
    """The members of one sum, by institution.

    Attributes:
        lost: by institution, the stage at which it was lost and a fixed word on why; the first loss stands.
        receipts: of the ledgers, as the sites sent them; nobody has checked them.
        seconds: by kind of reply, from the first request to the last reply.
    """

    link: Link
    nodes: Mapping[str, int]
    task: Task
    lost: dict[str, str] = field(default_factory=dict)
    receipts: dict[str, bytes] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def ask(
        self, requests: Mapping[str, Request], kind: type[Kind], *, largest_bytes: int = SMALL_REPLY_BYTES
    ) -> Iterator[tuple[str, Kind]]:
        """Send a request to each institution and yield what fits, one reply in memory at a time.

        Guarantees:
            by rule: a reply that is late, too large, unreadable, of another kind, or a refusal is not among those
                that are yielded; its sender is in `lost`.
        """
        names = {self.nodes[name]: name for name in requests}
        group = f"{self.task.purpose}-{self.task.round}"
        asked = {self.nodes[name]: request for name, request in requests.items()}
        started = time.monotonic()
        for node, reply in self.link.ask(asked, group=group, largest_bytes=largest_bytes):
            if isinstance(reply, Advert | Plain):
                self.receipts[names[node]] = reply.receipt
            if isinstance(reply, kind):
                yield names[node], reply
            else:
                self.lose(names[node], kind.__name__, _word_for(reply))
        self.seconds[kind.__name__] = time.monotonic() - started

    def lose(self, institution: str, stage: str, why: str) -> None:
        """Note that a site fell out of this sum."""
        self.lost.setdefault(institution, f"{stage}: {why}")

    def lose_all(self, stage: str, words: Mapping[str, str]) -> None:
        """Note those that fell out at one stage, each with a fixed word."""
        for institution, why in words.items():
            self.lose(institution, stage, why)

    def dropped(self, sites: tuple[str, ...]) -> tuple[str, ...]:
        """Who was asked and is not in the sum."""
        return tuple(sorted(set(self.nodes) - set(sites)))


def _word_for(reply: Reply | Failure) -> str:
    """A fixed word; a site's code is shown only if it is one of ours, since a site could write anything there."""
    match reply:
        case Failure(reason):
            return reason
        case Refusal(code) if code.replace("-", "").isalpha() and len(code) <= _LONGEST_CODE:
            return f"refused ({code})"
        case Refusal():
            return "refused"
        case _:
            return "another kind of reply"
