"""One sum over the sites: the five stages of secure aggregation, or the plain sum where it is switched off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.messages import (
    Advert,
    Checked,
    CheckRequest,
    Masked,
    MaskRequest,
    Plain,
    Refusal,
    Reply,
    Request,
    Revealed,
    RevealRequest,
    ShareRequest,
    Shares,
    Task,
)
from common.privacy.plan import PrivacyPlan
from common.releases import TableRelease
from common.secagg.encoding import bits_for, decode_counts, decode_sum
from common.secagg.roster import Roster, threshold_of
from server.aggregate import BlockSum
from server.cohort import Member
from server.link import Failure, Link
from server.unmask import (
    Accumulator,
    RoundAborted,
    Routing,
    Survivors,
    close_masking,
    collect_agreement,
    open_round,
    route_shares,
    unmask,
)


@dataclass(frozen=True)
class Rules:
    """How sums are made in this run; `roster` is the consortium's, `tables` are the integer tables.

    Where the plan has a lattice, training too sends integers: sums of gradients, on that lattice.
    """

    masked: bool
    k_min: int
    bound: float
    roster: Roster
    tables: Mapping[str, TableRelease]
    plan: PrivacyPlan | None = None

    def smallest(self, purpose: str) -> int:
        """The fewest sites of a sum: where its noise is shared out, as many as surely carry all of it."""
        shared = purpose in self.tables or (self.plan is not None and self.plan.lattice is not None)
        return max(self.k_min, threshold_of(len(self.roster.entries))) if shared else self.k_min

    def block_sum(self, total: np.ndarray, cohort: tuple[str, ...]) -> BlockSum:
        """Read a block's sum: of weighted updates, the weights last; or of gradients, divided by the plan's divisor."""
        if self.plan is not None and self.plan.lattice is not None:
            return BlockSum(decode_counts(total) * (self.plan.step / self.plan.divisor), len(cohort), cohort)
        num_sites = len(self.roster.entries)
        reals = decode_sum(total, bound=self.bound, bits=bits_for(num_sites), num_sites=num_sites)
        return BlockSum(reals[:-1], float(reals[-1]), cohort)


@dataclass(frozen=True)
class Collected:
    """The sums of one request: real blocks, integer tables, who is in them, and who was asked and is not."""

    sums: dict[str, BlockSum]
    tables: dict[str, np.ndarray]
    sites: tuple[str, ...]
    dropped: tuple[str, ...]
    singles: dict[str, list[np.ndarray]] = field(default_factory=dict)


def collect(link: Link, members: Sequence[Member], task: Task, rules: Rules) -> Collected:
    """Ask all members for their contributions and add them up.

    Raises:
        RoundAborted: too few sites were left at some stage; nothing was learned.
    """
    table = rules.tables.get(task.purpose)
    smallest = rules.smallest(task.purpose)
    channel = _Channel(link, {member.institution: member.node for member in members}, task)
    found = _masked(channel, rules, smallest) if rules.masked else _plain(channel, smallest)
    if table is not None and (set(found.tables) != {task.purpose} or found.tables[task.purpose].size != table.length):
        raise RoundAborted("table")
    return found


@dataclass(frozen=True)
class _Channel:
    """The members of one sum, by institution."""

    link: Link
    nodes: dict[str, int]
    task: Task

    def ask(self, requests: Mapping[str, Request]) -> list[tuple[str, Reply]]:
        """Send a request to each institution; those that fail are simply not among the answers."""
        names = {self.nodes[name]: name for name in requests}
        group = f"{self.task.purpose}-{self.task.round}"
        replies = self.link.ask({self.nodes[name]: request for name, request in requests.items()}, group=group)
        return [(names[node], reply) for node, reply in replies if not isinstance(reply, Failure | Refusal)]

    def dropped(self, sites: Sequence[str]) -> tuple[str, ...]:
        """Who was asked and is not in the sum."""
        return tuple(sorted(set(self.nodes) - set(sites)))


def _plain(channel: _Channel, smallest: int) -> Collected:
    replies = channel.ask(dict.fromkeys(channel.nodes, channel.task))
    found = {
        name: reply.vectors for name, reply in sorted(replies) if isinstance(reply, Plain) and reply.institution == name
    }
    if len(found) < smallest:
        raise RoundAborted("plain", channel.dropped(tuple(found)))
    blocks = sorted({block for vectors in found.values() for block in vectors})
    sums, tables, singles = {}, {}, {}
    for block in blocks:
        holders = tuple(name for name in found if block in found[name])
        total = np.sum([found[name][block] for name in holders], axis=0)
        if np.issubdtype(total.dtype, np.integer):
            tables[block] = total
        else:
            sums[block] = BlockSum(total[:-1], float(total[-1]), holders)
            singles[block] = [found[name][block][:-1] / found[name][block][-1] for name in holders]
    return Collected(sums, tables, tuple(found), channel.dropped(tuple(found)), singles)


def _masked(channel: _Channel, rules: Rules, smallest: int) -> Collected:
    survivors, accumulator = _to_survivors(channel, rules, smallest)
    reveals = _reveals(channel, survivors)
    sums: dict[str, BlockSum] = {}
    tables: dict[str, np.ndarray] = {}
    for block, (total, cohort) in unmask(survivors, accumulator, reveals).items():
        if block in rules.tables:
            tables[block] = decode_counts(total)
        else:
            sums[block] = rules.block_sum(total, cohort)
    return Collected(sums, tables, survivors.sites, channel.dropped(survivors.sites))


def _to_survivors(channel: _Channel, rules: Rules, smallest: int) -> tuple[Survivors, Accumulator]:
    """Stages 0 to 2: adverts, shares, masked vectors, each added as it arrives."""
    task = channel.task
    replies = channel.ask(dict.fromkeys(channel.nodes, task))
    adverts = {name: reply.advert for name, reply in replies if isinstance(reply, Advert)}
    view = open_round(adverts, rules.roster, smallest)
    if len(view.sites) < threshold_of(len(rules.roster.entries)):
        raise RoundAborted("adverts")  # the sites would refuse: too few of the roster take part
    request = ShareRequest(task.run, task.round, task.purpose, view.threshold, list(view.adverts))
    boxes, signatures = {}, {}
    for name, reply in channel.ask(dict.fromkeys(view.sites, request)):
        if isinstance(reply, Shares) and len(reply.peers) == len(reply.ciphertexts):
            boxes[name] = dict(zip(reply.peers, reply.ciphertexts, strict=True))
            signatures[name] = reply.signature
    routing = route_shares(view, boxes, signatures)
    accumulator = Accumulator(routing)
    for name, reply in channel.ask({name: _mask_request(task, routing, name) for name in routing.senders}):
        if isinstance(reply, Masked):
            accumulator.add(name, reply.vectors)
    return close_masking(accumulator), accumulator


def _mask_request(task: Task, routing: Routing, name: str) -> MaskRequest:
    inbox, signatures = routing.inbox[name], routing.signatures
    senders, signers = sorted(inbox), sorted(signatures)
    return MaskRequest(
        *(task.run, task.round, task.purpose),
        senders=senders,
        ciphertexts=[inbox[sender] for sender in senders],
        signers=signers,
        signatures=[signatures[signer] for signer in signers],
    )


def _reveals(channel: _Channel, survivors: Survivors) -> dict[str, bytes]:
    """Stages 3 and 4: everybody signs the same view, then reveals the shares that fit it."""
    where = (channel.task.run, channel.task.round, channel.task.purpose)
    check = CheckRequest(*where, survivors=list(survivors.sites), blocks=list(survivors.blocks))
    replies = channel.ask(dict.fromkeys(survivors.sites, check))
    agreed = collect_agreement(
        survivors, {name: reply.signature for name, reply in replies if isinstance(reply, Checked)}
    )
    signers = sorted(agreed)
    reveal = RevealRequest(*where, signers=signers, signatures=[agreed[signer] for signer in signers])
    answers = channel.ask(dict.fromkeys(survivors.sites, reveal))
    return {name: reply.shares for name, reply in answers if isinstance(reply, Revealed)}
