"""One sum over the sites: the five stages of secure aggregation, or the plain sum where it is switched off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.messages import (
    Advert,
    Checked,
    CheckRequest,
    Masked,
    MaskRequest,
    Plain,
    Revealed,
    RevealRequest,
    ShareRequest,
    Shares,
    Task,
)
from common.privacy.plan import PrivacyPlan
from common.releases import TableRelease
from common.secagg.encoding import bits_for, decode_counts, decode_sum
from common.secagg.roster import LARGEST_COMPLETE, Roster, threshold_of
from server.accumulate import Accumulator
from server.aggregate import BlockSum
from server.channel import Channel
from server.cohort import Member
from server.collect_large import collect_large
from server.link import Link
from server.unmask import (
    RoundAborted,
    Routing,
    Survivors,
    close_masking,
    collect_agreement,
    open_round,
    route_shares,
    unmask,
    wrong_shares,
)

_PLAIN_BYTES = 1 << 31


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
    """The sums of one request: real blocks, integer tables, who is in them, and who was asked and is not.

    `lost` says of whoever fell out, or sent what it must not, at which reply and why, in fixed words; `receipts` are
    those of the sites' ledgers; `seconds` went by at each kind of reply.
    """

    sums: dict[str, BlockSum]
    tables: dict[str, np.ndarray]
    sites: tuple[str, ...]
    dropped: tuple[str, ...]
    lost: Mapping[str, str] = field(default_factory=dict)
    singles: dict[str, list[np.ndarray]] = field(default_factory=dict)
    receipts: Mapping[str, bytes] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def collect(link: Link, members: Sequence[Member], task: Task, rules: Rules) -> Collected:
    """Ask all members for their contributions and add them up.

    Raises:
        RoundAborted: too few sites were left at some stage; nothing was learned.
    """
    table = rules.tables.get(task.purpose)
    smallest = rules.smallest(task.purpose)
    channel = Channel(link, {member.institution: member.node for member in members}, task)
    try:
        found = _masked(channel, rules, smallest) if rules.masked else _plain(channel, smallest)
    except RoundAborted as aborted:
        raise RoundAborted(aborted.reason, aborted.culprits, channel.lost) from aborted
    if table is not None and (set(found.tables) != {task.purpose} or found.tables[task.purpose].size != table.length):
        raise RoundAborted("table")
    return replace(found, receipts=channel.receipts, seconds=channel.seconds)


def _plain(channel: Channel, smallest: int) -> Collected:
    """No secure aggregation: all vectors side by side, added in the order of names, so that a repeat is bit for bit."""
    replies = channel.ask(dict.fromkeys(channel.nodes, channel.task), Plain, largest_bytes=_PLAIN_BYTES)
    found = {name: reply.vectors for name, reply in sorted(replies) if reply.institution == name}
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
    return Collected(sums, tables, tuple(found), channel.dropped(tuple(found)), channel.lost, singles)


def _masked(channel: Channel, rules: Rules, smallest: int) -> Collected:
    num_sites = len(rules.roster.entries)
    bits_for(num_sites)  # before anybody is asked: a sum that could wrap is not begun
    if num_sites > LARGEST_COMPLETE:
        found = collect_large(channel, rules.roster, smallest)
    else:
        found = _collect_complete(channel, rules, smallest)
    sums: dict[str, BlockSum] = {}
    tables: dict[str, np.ndarray] = {}
    for block, (total, cohort) in found.items():
        if block in rules.tables:
            tables[block] = decode_counts(total)
        else:
            sums[block] = rules.block_sum(total, cohort)
    sites = tuple(sorted({site for _, cohort in found.values() for site in cohort}))
    return Collected(sums, tables, sites, channel.dropped(sites), channel.lost)


def _collect_complete(channel: Channel, rules: Rules, smallest: int) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """All mask with all: each block's sum and the sites in it."""
    survivors, accumulator = _to_survivors(channel, rules, smallest)
    reveals = _reveals(channel, survivors)
    channel.lose_all("Revealed", wrong_shares(survivors, reveals))
    return unmask(survivors, accumulator, reveals)


def _to_survivors(channel: Channel, rules: Rules, smallest: int) -> tuple[Survivors, Accumulator]:
    """Stages 0 to 2: adverts, shares, masked vectors, each added as it arrives and dropped before the next one."""
    task = channel.task
    adverts = {name: reply.advert for name, reply in channel.ask(dict.fromkeys(channel.nodes, task), Advert)}
    view = open_round(adverts, rules.roster, smallest)
    channel.lose_all("Advert", view.left_out)
    if len(view.sites) < threshold_of(len(rules.roster.entries)):
        raise RoundAborted("adverts")  # the sites would refuse: too few of the roster take part
    request = ShareRequest(task.run, task.round, task.purpose, view.threshold, list(view.adverts))
    boxes, signatures = {}, {}
    for name, shares in channel.ask(dict.fromkeys(view.sites, request), Shares):
        boxes[name] = dict(zip(shares.peers, shares.ciphertexts, strict=False))
        signatures[name] = shares.signature
    routing = route_shares(view, boxes, signatures)
    channel.lose_all("Shares", routing.left_out)
    accumulator = Accumulator(routing)
    asked = {name: _mask_request(task, routing, name) for name in routing.senders}
    for name, masked in channel.ask(asked, Masked, largest_bytes=accumulator.largest_bytes):
        if not accumulator.add(name, masked.vectors):
            channel.lose(name, "Masked", "not as advertised")
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


def _reveals(channel: Channel, survivors: Survivors) -> dict[str, bytes]:
    """Stages 3 and 4: everybody signs the same view, then reveals the shares that fit it."""
    where = (channel.task.run, channel.task.round, channel.task.purpose)
    check = CheckRequest(*where, survivors=list(survivors.sites), blocks=list(survivors.blocks))
    signatures = {name: reply.signature for name, reply in channel.ask(dict.fromkeys(survivors.sites, check), Checked)}
    agreed = collect_agreement(survivors, signatures)
    signers = sorted(agreed)
    reveal = RevealRequest(*where, signers=signers, signatures=[agreed[signer] for signer in signers])
    return {name: reply.shares for name, reply in channel.ask(dict.fromkeys(survivors.sites, reveal), Revealed)}
