"""Who takes part: every site is asked once a run, before it reads a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.messages import Enrol, Enrolled, Refusal, Settle, Settled
from server.link import SMALL_REPLY_BYTES, Failure, Link


@dataclass(frozen=True)
class Member:
    """One enrolled site: its node, its institution, the modalities it holds."""

    node: int
    institution: str
    modalities: tuple[str, ...]


class RunRefused(Exception):
    """Sites refused the run: by policy, by budget, or because they could not answer."""

    def __init__(self, codes: Sequence[str]) -> None:
        """Keep the fixed codes that came back."""
        self.codes = tuple(sorted(codes))
        super().__init__(f"{len(self.codes)} of the sites refused this run: {', '.join(sorted(set(self.codes)))}")


def enrol(link: Link, request: Enrol, before: Sequence[Member] = ()) -> tuple[Member, ...]:
    """Ask every node; all must agree, since a federation without a site that it was planned for is another one.

    Args:
        link: to the nodes.
        request: what they are asked.
        before: who agreed before the run was interrupted: whoever of them is silent now may come back later.

    Raises:
        RunRefused: a site refused or gave no answer, no site is there, or two nodes speak for one institution.
    """
    members, codes, agreed = [], [], {member.node: member for member in before}
    for node, reply in link.ask(dict.fromkeys(link.nodes(), request), group="enrol", largest_bytes=SMALL_REPLY_BYTES):
        match reply:
            case Enrolled(institution, modalities):
                members.append(Member(node, institution, tuple(modalities)))
            case Refusal(code):
                codes.append(code)
            case Failure() if node in agreed:
                members.append(agreed[node])
            case Failure(reason):
                codes.append(reason)
            case _:
                codes.append("malformed")
    names = [member.institution for member in members]
    if len(set(names)) != len(names):
        codes.append("duplicate-institution")
    if codes or not members:
        raise RunRefused(codes or ["no-site"])
    return tuple(sorted(members, key=lambda member: member.institution))


def settle(link: Link, members: Sequence[Member], run: str) -> dict[str, bytes]:
    """Tell the sites that the run is over, so that they refund what never ran; collect their ledgers' receipts.

    Then every site is given the receipts of all: a ledger that is put back later is found out by the others.
    """
    receipts = _settled(link, members, Settle(run))
    if receipts:
        _settled(link, members, Settle(run, [receipts[name] for name in sorted(receipts)]))
    return receipts


def _settled(link: Link, members: Sequence[Member], request: Settle) -> dict[str, bytes]:
    names = {member.node: member.institution for member in members}
    replies = link.ask(dict.fromkeys(names, request), group="settle", largest_bytes=SMALL_REPLY_BYTES)
    return {names[node]: reply.receipt for node, reply in replies if isinstance(reply, Settled)}
