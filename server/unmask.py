"""The coordinator's side of the secure sum: who takes part, who gets what, when to stop, and the sum in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.secagg.errors import ProtocolError
from common.secagg.roster import Roster, threshold_of
from common.secagg.table import Table, check_member, read_table
from common.secagg.transcript import HASH_BYTES, Advert, check_signature, final_transcript, read_advert
from server.reveal import dealt_to_all, read_shares, rebuild, take_masks_off

if TYPE_CHECKING:
    import numpy as np

    from server.accumulate import Accumulator


class RoundAborted(Exception):
    """Too few sites are left, or a secret cannot be rebuilt: nothing was learnt, nothing is released.

    `reason` is a fixed word; `culprits` names sites that sent what they must not; `lost` says of every site that fell
    out before at which reply and why.
    """

    def __init__(self, reason: str, culprits: Sequence[str] = (), lost: Mapping[str, str] | None = None) -> None:
        """Keep the reason, the culprits and the lost."""
        self.reason = reason
        self.culprits = tuple(culprits)
        self.lost = dict(lost or {})
        super().__init__(reason if not culprits else f"{reason}: {', '.join(culprits)}")


@dataclass(frozen=True)
class RoundView:
    """Who takes part (U1), as the coordinator will tell everyone.

    `adverts` and `threshold` go to the sites as they are; `left_out` names sites that cannot take part, and why.
    """

    adverts: tuple[bytes, ...]
    table: Table
    k_min: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def threshold(self) -> int:
        """How many sites must remain."""
        return self.table.threshold

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that take part (U1), sorted."""
        return self.table.sites


@dataclass(frozen=True)
class Routing:
    """Who shared (U2), what each of them gets from the others, and what everybody signed.

    Memory: one sealed box for each ordered pair of sites; post-quantum 1.7 kB more each, 17 MB at 100 sites.
    """

    view: RoundView
    senders: tuple[str, ...]
    inbox: Mapping[str, Mapping[str, bytes]]
    signatures: Mapping[str, bytes]
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Survivors:
    """Who sent masked vectors (U3) and which blocks will be summed; all of them must sign this."""

    routing: Routing
    sites: tuple[str, ...]
    blocks: tuple[str, ...]

    @property
    def digest(self) -> bytes:
        """T3."""
        table = self.routing.view.table
        return final_transcript(table.transcript, self.routing.senders, self.sites, self.blocks)

    @property
    def items(self) -> tuple[tuple[str, str], ...]:
        """The secrets (dealer, name) of which every survivor reveals its shares, in this order."""
        return self.routing.view.table.revealed_items(self.routing.senders, self.sites, self.blocks)


def open_round(
    adverts: Mapping[str, bytes], roster: Roster | None, k_min: int, threshold: int | None = None
) -> RoundView:
    """Decide who takes part: all sites with a sound advert of the same round.

    Without a roster the coordinator cannot tell a stranger from a member; the sites can, and refuse.
    `threshold` is floor(2n/3) + 1 of the sites that take part, where it is not given.

    Raises:
        RoundAborted: fewer than `k_min` sites, or fewer than the threshold, have sound adverts.
    """
    sound, left_out = _sound(adverts, roster)
    if len(sound) < max(k_min, threshold or 1):
        raise RoundAborted("adverts", sorted(left_out))
    raw = tuple(adverts[site] for site in sorted(sound))
    try:
        table = read_table(raw, threshold if threshold is not None else threshold_of(len(raw)), checked=True)
    except ProtocolError as error:
        raise RoundAborted(error.code) from error
    return RoundView(raw, table, k_min, left_out)


def route_shares(view: RoundView, boxes: Mapping[str, Mapping[str, bytes]], signatures: Mapping[str, bytes]) -> Routing:
    """Sort the sealed shares by destination; a site whose boxes or signature are not sound has dropped out.

    Raises:
        RoundAborted: fewer sites than the threshold shared.
    """
    left_out = {site: "silent" for site in view.sites if site not in boxes or site not in signatures}
    for site in set(view.sites) - set(left_out):
        if not dealt_to_all(view.table, site, boxes[site]):
            left_out[site] = "shares"
        elif not _signed(view, site, b"T1", view.table.transcript, signatures[site]):
            left_out[site] = "signature"
    senders = tuple(site for site in view.sites if site not in left_out)
    if len(senders) < view.threshold:
        raise RoundAborted("shares", sorted(left_out))
    inbox = {site: {sender: boxes[sender][site] for sender in senders} for site in senders}
    return Routing(view, senders, inbox, {site: signatures[site] for site in senders}, left_out)


def close_masking(accumulator: Accumulator) -> Survivors:
    """Settle who survived and which blocks are summed: those whose cohort suits everyone in it.

    Raises:
        RoundAborted: fewer sites than the threshold sent vectors (vectors), or no block has its cohort (cohort).
    """
    routing = accumulator.routing
    view, alive = routing.view, accumulator.sites
    if len(alive) < view.threshold:
        raise RoundAborted("vectors")
    cohorts = {block: view.table.holders(block, alive) for block in view.table.blocks}
    blocks = tuple(
        block
        for block, cohort in cohorts.items()
        if cohort and len(cohort) >= max(view.k_min, view.table.smallest_cohort(cohort))
    )
    if not blocks:
        raise RoundAborted("cohort")
    return Survivors(routing, alive, blocks)


def collect_agreement(survivors: Survivors, signatures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Keep the sound signatures on T3, to be shown to all survivors.

    Raises:
        RoundAborted: fewer than the threshold are sound.
    """
    view = survivors.routing.view
    sound = {
        site: signatures[site]
        for site in survivors.sites
        if site in signatures and _signed(view, site, b"T3", survivors.digest, signatures[site])
    }
    if len(sound) < view.threshold:
        raise RoundAborted("agreement")
    return sound


def wrong_shares(survivors: Survivors, reveals: Mapping[str, bytes]) -> dict[str, str]:
    """Name the sites whose revealed shares are not the ones that were dealt to them, with a fixed code each."""
    return _read_reveals(survivors, reveals)[1]


def unmask(
    survivors: Survivors, accumulator: Accumulator, reveals: Mapping[str, bytes]
) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Take the masks off the sums: each block's exact sum modulo 2^32 and the sites that are in it.

    Consumes the accumulator. Wrong shares are left out; `wrong_shares` names who sent them.

    Raises:
        RoundAborted: fewer sites than the threshold revealed sound shares (reveals), or a site dealt shares that do
            not give the secret that it had committed to, or enclosed another one (dealer).
    """
    table = survivors.routing.view.table
    shares, wrong = _read_reveals(survivors, reveals)
    if len(shares) < table.threshold:
        raise RoundAborted("reveals", sorted(wrong))
    unlocked, culprits = rebuild(table, survivors.items, shares, survivors.routing.inbox)
    if culprits:
        raise RoundAborted("dealer", culprits)
    sums = {}
    for block in survivors.blocks:
        cohort = table.holders(block, survivors.sites)
        total = accumulator.totals.pop(block)
        take_masks_off(total, table, block, cohort, unlocked)
        sums[block] = (total, cohort)
    return sums


def _sound(adverts: Mapping[str, bytes], roster: Roster | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """Leave out what is malformed, strangers, those that differ from most others, those that ask for too many."""
    sound: dict[str, Advert] = {}
    left_out: dict[str, str] = {}
    for site, raw in sorted(adverts.items()):
        try:
            sound[site] = _read_member(site, raw, roster)
        except ProtocolError as error:
            left_out[site] = error.code
    sessions = Counter(advert.session for advert in sound.values()).most_common()
    blocks = Counter((block.name, block.length) for advert in sound.values() for block in advert.blocks).most_common()
    lengths = {name: length for (name, length), _ in reversed(blocks)}
    for site, advert in list(sound.items()):
        if advert.session != sessions[0][0]:
            left_out[site] = "session"
        elif any(block.length != lengths[block.name] for block in advert.blocks):
            left_out[site] = "blocks"
    taking_part = [site for site in sound if site not in left_out]
    # A site that asks for more sites than there are cannot be served, and must not keep the others from their sum.
    while any(sound[site].k_min > len(taking_part) for site in taking_part):
        strictest = max(taking_part, key=lambda site: sound[site].k_min)
        left_out[strictest] = "cohort"
        taking_part.remove(strictest)
    return tuple(taking_part), left_out


def _read_member(site: str, raw: bytes, roster: Roster | None) -> Advert:
    advert = read_advert(raw)
    if advert.institution != site:
        raise ProtocolError("institution", "the advert is of another institution")
    if roster is not None:
        check_member(advert, roster)
    return advert


def _read_reveals(
    survivors: Survivors, reveals: Mapping[str, bytes]
) -> tuple[dict[str, tuple[bytes, ...]], dict[str, str]]:
    """Sort reveals into sound shares by site, and sites whose shares are wrong."""
    table, shares, wrong = survivors.routing.view.table, {}, {}
    for site in survivors.sites:
        body = reveals.get(site)
        if body is None:
            continue
        if body[:HASH_BYTES] != survivors.digest:
            wrong[site] = "malformed"
            continue
        boxes = survivors.routing.inbox[site]
        try:
            shares[site] = read_shares(table, site, survivors.items, body[HASH_BYTES:], boxes)
        except ProtocolError as error:
            wrong[site] = error.code
    return shares, wrong


def _signed(view: RoundView, site: str, kind: bytes, digest: bytes, signature: bytes) -> bool:
    try:
        check_signature(view.table.advert(site).signing_key, kind, digest, signature)
    except ProtocolError:
        return False
    return True
