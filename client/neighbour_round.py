"""What a site must remember between the stages of one large sum, and no more than that."""

from __future__ import annotations

from dataclasses import dataclass, field

from client.site_round import Secrets
from common.secagg.assembly import Call
from common.secagg.layout import join, read_number, split, write_number
from common.secagg.transcript import Advert, read_advert

_VERSION = b"fedmosaic/neighbour-round/1"
_NUM_FIELDS = 21


@dataclass(frozen=True)
class Peer:
    """What is kept of a chosen neighbour's advert, and the tag that tells it that this site masked with it."""

    signing_key: bytes
    masking_key: bytes
    tag: bytes = field(repr=False)


@dataclass(frozen=True)
class NeighbourRound:
    """One site's side of one large sum after a stage ("chosen", "shared", "masked" or "checked").

    `chosen` are the neighbours that this site chose, which hold its shares; `dealers` are those that chose it, whose
    shares it holds; both are places on the roster. `dealer_tags` are the tags that the dealers will show.
    As in the small protocol every stage drops the secrets that later ones do not need.
    """

    stage: str
    advert: bytes
    call: Call
    secrets: Secrets = field(default=Secrets(), repr=False)
    chosen: tuple[int, ...] = ()
    peers: tuple[Peer, ...] = ()
    senders: bytes = b""
    smallest: int = 0
    dealers: tuple[int, ...] = ()
    dealer_tags: tuple[bytes, ...] = field(default=(), repr=False)
    held: tuple[bytes, ...] = field(default=(), repr=False)
    survivors: bytes = b""
    answer: bytes = field(default=b"", repr=False)

    @property
    def own(self) -> Advert:
        """This site's advert."""
        return read_advert(self.advert)

    def to_bytes(self) -> bytes:
        """Write the state. It holds secrets: the file must be 0600 and erased after the last stage."""
        secrets, call = self.secrets, self.call
        return join(
            [
                *(_VERSION, self.stage.encode(), self.advert),
                *(call.present, write_number(call.degree), write_number(call.threshold)),
                *(secrets.signing_key, secrets.sharing_key, secrets.masking_key, join(secrets.seeds)),
                *(_join_places(self.chosen), *_join_peers(self.peers), self.senders, write_number(self.smallest)),
                *(_join_places(self.dealers), join(self.dealer_tags), join(self.held), self.survivors, self.answer),
            ]
        )

    @staticmethod
    def from_bytes(body: bytes) -> NeighbourRound:
        """Read a state back.

        Raises:
            ValueError: the bytes are no state of this release.
        """
        fields = split(body)
        if len(fields) != _NUM_FIELDS or fields[0] != _VERSION:
            raise ValueError("these bytes are no state of a large sum of this release")
        return NeighbourRound(
            stage=fields[1].decode(),
            advert=fields[2],
            call=Call(fields[3], read_number(fields[4]), read_number(fields[5])),
            secrets=Secrets(fields[6], fields[7], fields[8], split(fields[9])),
            chosen=_split_places(fields[10]),
            peers=tuple(Peer(*keys) for keys in zip(*map(split, fields[11:14]), strict=True)),
            senders=fields[14],
            smallest=read_number(fields[15]),
            dealers=_split_places(fields[16]),
            dealer_tags=split(fields[17]),
            held=split(fields[18]),
            survivors=fields[19],
            answer=fields[20],
        )


def _join_peers(peers: tuple[Peer, ...]) -> tuple[bytes, bytes, bytes]:
    return (
        join(peer.signing_key for peer in peers),
        join(peer.masking_key for peer in peers),
        join(peer.tag for peer in peers),
    )


def _join_places(places: tuple[int, ...]) -> bytes:
    return join(write_number(place) for place in places)


def _split_places(body: bytes) -> tuple[int, ...]:
    return tuple(read_number(field) for field in split(body))
