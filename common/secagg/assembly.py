"""An assembly: the sites of a large sum, by their places on the pinned roster, and the graph that they will draw.

Places come from the roster and not from the server, so that no colluder can stand at two of them, and nobody can be
moved to a place that another site has already chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.secagg.errors import ProtocolError
from common.secagg.graph import STANDARD, Promise, Shape, keeps
from common.secagg.keys import PROTOCOL
from common.secagg.layout import join, write_number
from common.secagg.roster import Roster, threshold_of
from common.secagg.transcript import MASKING_KEY, Advert, Session, read_advert

VIEW = b"graph T3"  # the kind of the signatures on T3


@dataclass(frozen=True)
class Call:
    """What the server says before anybody chooses: who is there (a bitmap over the roster), degree and threshold."""

    present: bytes
    degree: int
    threshold: int


@dataclass(frozen=True)
class Assembly:
    """A call as a site reads it, together with what it knows itself: the roster, the session, the blocks of all."""

    call: Call
    roster: Roster
    session: Session
    blocks: tuple[tuple[str, int], ...]

    @cached_property
    def members(self) -> tuple[int, ...]:
        """The places, on the roster, of the sites that take part."""
        return read_members(self.call.present, len(self.roster.entries))

    @cached_property
    def transcript(self) -> bytes:
        """T1: the hash of the roster's signature, the session, the blocks, who is there, degree and threshold."""
        session = (self.session.run.encode(), write_number(self.session.round), self.session.purpose.encode())
        blocks = (join([name.encode(), write_number(length)]) for name, length in self.blocks)
        fields = (
            *(self.roster.consortium_public_key, self.roster.signature),
            *(*session, self.session.model_hash, self.session.plan_hash, join(blocks)),
            *(write_number(self.call.degree), write_number(self.call.threshold), self.call.present),
        )
        return hashlib.sha256(join([PROTOCOL, b"graph T1", *fields])).digest()

    @property
    def items(self) -> tuple[str, ...]:
        """The names of the secrets that every site deals in shares, in the order of dealing."""
        return (MASKING_KEY, *(name for name, _ in self.blocks))

    @property
    def fewest(self) -> int:
        """How many sites must survive."""
        return threshold_of(len(self.members))

    def sure_of(self, promise: Promise) -> int:
        """How many honest sites every sum contains: more than half of those that take part, colluders left out."""
        return (len(self.members) - promise.num_colluders(len(self.roster.entries))) // 2 + 1

    def name(self, place: int) -> str:
        """The institution at a place of the roster."""
        return self.roster.entries[place][0]

    def final_transcript(self, senders: bytes, survivors: bytes) -> bytes:
        """T3: the hash of T1, of who shared and of who sent masked vectors, as bitmaps over the roster."""
        return hashlib.sha256(join([PROTOCOL, VIEW, self.transcript, senders, survivors])).digest()


def assemble(call: Call, own: Advert, roster: Roster, promise: Promise = STANDARD) -> Assembly:
    """Read a call and check all that a site's privacy rests on, before it chooses.

    Raises:
        ProtocolError: the bitmap is no bitmap over the roster (members); fewer than two thirds of the roster, or fewer
            than the site's own smallest cohort, take part (cohort); the graph is too thin for the promise (graph); the
            run asks for post-quantum keys, whose envelopes only go from lower to higher names (post-quantum).
    """
    if own.session.post_quantum:
        raise ProtocolError("post-quantum", "masks with chosen neighbours are not post-quantum yet")
    assembly = assembly_of(call, own, roster)
    num_sites, roster_size = len(assembly.members), len(roster.entries)
    if num_sites < max(threshold_of(roster_size), own.k_min):
        raise ProtocolError("cohort", f"{num_sites} of the roster's {roster_size} sites are too few")
    if not keeps(Shape(num_sites, call.degree, call.threshold), roster_size, promise):
        raise ProtocolError("graph", f"degree {call.degree} and threshold {call.threshold} do not keep the promise")
    return assembly


def assembly_of(call: Call, own: Advert, roster: Roster) -> Assembly:
    """Read a call that was checked before; of another roster it would have another T1, and open nothing."""
    return Assembly(call, roster, own.session, tuple((block.name, block.length) for block in own.blocks))


def read_member(raw: bytes, place: int, assembly: Assembly) -> Advert:
    """Read the advert of the site at a place of the roster.

    Raises:
        ProtocolError: it is malformed, of another institution or key (roster), of another session, or of other blocks.
    """
    advert = read_advert(raw)
    if (advert.institution, advert.identity_key) != assembly.roster.entries[place]:
        raise ProtocolError("roster", "an advert is not of the institution at its place on the roster")
    if advert.session != assembly.session:
        raise ProtocolError("session", "an advert is of another run, round, purpose, model or plan")
    if tuple((block.name, block.length) for block in advert.blocks) != assembly.blocks:
        raise ProtocolError("blocks", "an advert is of other blocks, and a graph needs the same ones everywhere")
    return advert


def write_members(members: Collection[int], size: int) -> bytes:
    """Write places as a bitmap over a roster of `size` institutions."""
    bits = np.zeros(size, dtype=np.uint8)
    bits[list(members)] = 1
    return np.packbits(bits).tobytes()


def read_members(body: bytes, size: int) -> tuple[int, ...]:
    """Read places back, in order.

    Raises:
        ProtocolError: the bitmap is of another size, or bits beyond its end are set (members).
    """
    places = np.flatnonzero(np.unpackbits(np.frombuffer(body, dtype=np.uint8)))
    if len(body) != -(-size // 8) or (places.size and places[-1] >= size):
        raise ProtocolError("members", f"a bitmap is not one over {size} institutions")
    return tuple(places.tolist())
