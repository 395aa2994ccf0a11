"""The table of a round: who takes part, which blocks each holds, how many must remain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from common.secagg.edge import Edge
from common.secagg.errors import ProtocolError
from common.secagg.roster import Roster, threshold_of
from common.secagg.transcript import MASKING_KEY, Advert, first_transcript, read_advert, read_checked_advert


@dataclass(frozen=True)
class Table:
    """The adverts of all sites that take part (U1), sorted by institution; the threshold; T1, the hash of it all."""

    adverts: tuple[Advert, ...]
    threshold: int
    transcript: bytes

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """The institutions that take part, sorted; their shares are numbered in this order, from 1."""
        return tuple(advert.institution for advert in self.adverts)

    @property
    def blocks(self) -> tuple[str, ...]:
        """All blocks that any site holds, sorted."""
        return tuple(sorted({name for advert in self.adverts for name in advert.block_names}))

    @cached_property
    def _by_site(self) -> dict[str, Advert]:
        return {advert.institution: advert for advert in self.adverts}

    def advert(self, site: str) -> Advert:
        """One site's advert."""
        return self._by_site[site]

    def holders(self, block: str, among: Collection[str]) -> tuple[str, ...]:
        """The sites among these that hold a block, sorted."""
        return tuple(a.institution for a in self.adverts if a.institution in among and block in a.block_names)

    def smallest_cohort(self, cohort: Collection[str]) -> int:
        """The largest of the minimum cohorts that the sites of a cohort ask for: all of them must be respected."""
        return max((self.advert(site).k_min for site in cohort), default=1)

    def edge(self, source: str, destination: str) -> Edge:
        """The ordered pair of two sites."""
        return Edge(self.transcript, self.advert(source), self.advert(destination))

    def revealed_items(
        self, senders: Sequence[str], survivors: Collection[str], blocks: Collection[str]
    ) -> tuple[tuple[str, str], ...]:
        """List (dealer, secret) in the order in which every surviving site reveals its shares of them.

        Guarantees:
            never both: of a survivor only self-mask seeds of summed blocks, of all others only the masking key.
        """
        items = []
        for dealer in senders:
            if dealer in survivors:
                items += [(dealer, name) for name in self.advert(dealer).block_names if name in blocks]
            else:
                items.append((dealer, MASKING_KEY))
        return tuple(items)


def read_table(adverts: Sequence[bytes], threshold: int, *, checked: bool = False) -> Table:
    """Read the adverts of a round and check what can be checked without a roster.

    `checked` says that each of these very adverts went through `read_advert` before: a signature costs the most.

    Raises:
        ProtocolError: an advert is malformed or not signed; institutions or identity keys repeat (duplicate); the
            sessions (session) or the lengths of a block (blocks) differ; the threshold is below 2n/3 (threshold).
    """
    read = read_checked_advert if checked else read_advert
    pairs = sorted(((read(raw), raw) for raw in adverts), key=lambda pair: pair[0].institution)
    parsed = tuple(advert for advert, _ in pairs)
    for keys in ({a.institution for a in parsed}, {a.identity_key for a in parsed}):
        if len(keys) != len(parsed):
            raise ProtocolError("duplicate", "two adverts are of one institution or one identity key")
    if len({advert.session for advert in parsed}) != 1:
        raise ProtocolError("session", "the adverts are not all of one run, round, purpose, model, plan and version")
    lengths = {(block.name, block.length) for advert in parsed for block in advert.blocks}
    if len(lengths) != len({name for name, _ in lengths}):
        raise ProtocolError("blocks", "two sites advertise different lengths for one block")
    if not threshold_of(len(parsed)) <= threshold <= len(parsed):
        raise ProtocolError("threshold", f"threshold {threshold} does not suit {len(parsed)} sites")
    return Table(parsed, threshold, first_transcript([raw for _, raw in pairs], threshold))


def check_member(advert: Advert, roster: Roster) -> None:
    """Check that an advert is of an institution on the roster, under the key that the roster names.

    Raises:
        ProtocolError: it is not (roster).
    """
    if roster.keys.get(advert.institution) != advert.identity_key:
        raise ProtocolError("roster", "an advert's institution and key are not on the roster")
