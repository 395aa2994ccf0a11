"""What a site must remember between the stages of one secure sum, and no more than that."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.secagg.layout import join, join_names, split, split_names, write_number
from common.secagg.layout import read_number as number
from common.secagg.table import Table, read_table
from common.secagg.transcript import Advert, read_checked_advert

_VERSION = b"fedmosaic/site-round/1"
_NUM_FIELDS = 14


@dataclass(frozen=True)
class Secrets:
    """A site's secrets of this round: its private keys and the seeds of its self-masks, in the order of its blocks.

    Post-quantum, `sharing_key` and `masking_key` are what the private keys of either kind are derived from.
    """

    signing_key: bytes = field(default=b"", repr=False)
    sharing_key: bytes = field(default=b"", repr=False)
    masking_key: bytes = field(default=b"", repr=False)
    seeds: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class SiteRound:
    """One site's side of one secure sum after a stage ("advertised", "shared", "masked" or "checked").

    Every stage drops what later ones do not need: after "shared" the seeds serve masking only, after "masked" no key
    of a mask is left, after "checked" only the shares that this site will reveal are left.
    """

    stage: str
    advert: bytes
    secrets: Secrets = field(default=Secrets(), repr=False)
    adverts: tuple[bytes, ...] = ()
    threshold: int = 0
    senders: tuple[str, ...] = ()
    held: tuple[bytes, ...] = field(default=(), repr=False)
    survivors: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    answer: bytes = field(default=b"", repr=False)

    @property
    def own(self) -> Advert:
        """This site's advert."""
        return read_checked_advert(self.advert)

    @property
    def table(self) -> Table:
        """The table of the round, from "shared" on: that stage has checked all signatures in it."""
        return read_table(self.adverts, self.threshold, checked=True)

    def to_bytes(self) -> bytes:
        """Write the state. It holds secrets: the file must be 0600 and erased after the last stage."""
        secrets = self.secrets
        return join(
            [
                *(_VERSION, self.stage.encode(), self.advert),
                *(secrets.signing_key, secrets.sharing_key, secrets.masking_key, join(secrets.seeds)),
                *(join(self.adverts), write_number(self.threshold), join_names(self.senders), join(self.held)),
                *(join_names(self.survivors), join_names(self.blocks), self.answer),
            ]
        )

    @staticmethod
    def from_bytes(body: bytes) -> SiteRound:
        """Read a state back.

        Raises:
            ValueError: the bytes are no state of this release.
        """
        fields = split(body)
        if len(fields) != _NUM_FIELDS or fields[0] != _VERSION:
            raise ValueError("these bytes are no state of a secure sum of this release")
        return SiteRound(
            stage=fields[1].decode(),
            advert=fields[2],
            secrets=Secrets(fields[3], fields[4], fields[5], split(fields[6])),
            adverts=split(fields[7]),
            threshold=number(fields[8]),
            senders=split_names(fields[9]),
            held=split(fields[10]),
            survivors=split_names(fields[11]),
            blocks=split_names(fields[12]),
            answer=fields[13],
        )
