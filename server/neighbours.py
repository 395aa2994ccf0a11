"""The coordinator's side of a large sum: it carries choices, shares and signatures between neighbours, and adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from common.secagg.assembly import VIEW, Assembly, Call, assembly_of, write_members
from common.secagg.edge import Edge, read_box
from common.secagg.errors import ProtocolError
from common.secagg.graph import STANDARD, Promise, choose_shape
from common.secagg.roster import Roster, threshold_of
from common.secagg.table import check_member
from common.secagg.transcript import Advert, check_signature, read_advert
from server.unmask import RoundAborted

_MESSAGE_BYTES, _BYTES_A_BLOCK, _BYTES_A_TAG, _BYTES_A_BOX = 4096, 1024, 64, 256
_BYTES_A_SECRET = 96  # a share and the commitment to it, in base64


@dataclass(frozen=True)
class Gathering:
    """Who takes part: the adverts by place on the roster, and the call that goes to everybody."""

    assembly: Assembly
    raw: Mapping[int, bytes]
    adverts: Mapping[int, Advert]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def smallest(self) -> int:
        """How many sites must survive to suit everybody."""
        return max(self.assembly.fewest, *(advert.k_min for advert in self.adverts.values()))

    def reply_bytes(self, num_sites: int) -> int:
        """No reply that holds something about each of so many sites, for each of the secrets, is larger."""
        return num_sites * (len(self.assembly.items) * _BYTES_A_SECRET + _BYTES_A_BOX) + _MESSAGE_BYTES

    def edge(self, source: int, destination: int) -> Edge:
        """The ordered pair of two sites."""
        return Edge(self.assembly.transcript, self.adverts[source], self.adverts[destination])


@dataclass(frozen=True)
class Graph:
    """Who chose whom, by place; only sites that chose."""

    gathering: Gathering
    choices: Mapping[int, tuple[int, ...]]

    def adverts_for(self, place: int) -> list[bytes]:
        """The adverts of a site's own choices, in their order."""
        return [self.gathering.raw[chosen] for chosen in self.choices[place]]


@dataclass(frozen=True)
class Dealing:
    """The sealed boxes of all who shared, by dealer and holder."""

    graph: Graph
    boxes: Mapping[int, Mapping[int, bytes]]

    @cached_property
    def senders(self) -> bytes:
        """Those who shared, as a bitmap over the roster."""
        return write_members(self.boxes, len(self.graph.gathering.assembly.roster.entries))

    @cached_property
    def dealers(self) -> dict[int, tuple[int, ...]]:
        """For each site that shared, those who shared and had chosen it, sorted."""
        found: dict[int, list[int]] = {place: [] for place in self.boxes}
        for dealer in sorted(self.boxes):
            for holder in self.graph.choices[dealer]:
                if holder in found:
                    found[holder].append(dealer)
        return {place: tuple(dealers) for place, dealers in found.items()}

    def inbox(self, place: int) -> dict[int, tuple[bytes, bytes]]:
        """What those who chose a site sent it: advert and box, by dealer."""
        raw = self.graph.gathering.raw
        return {dealer: (raw[dealer], self.boxes[dealer][place]) for dealer in self.dealers[place]}

    def masked_with(self, place: int) -> frozenset[int]:
        """The sites with which one that shared has masks in common."""
        return frozenset(self.dealers[place]) | {c for c in self.graph.choices[place] if c in self.boxes}


class LargeSum:
    """The running sums, the tags that came with the vectors, and whose vectors they are."""

    def __init__(self, dealing: Dealing) -> None:
        """Begin with zeros for every block."""
        self.dealing = dealing
        self.totals = {
            name: np.zeros(length, dtype=np.uint32) for name, length in dealing.graph.gathering.assembly.blocks
        }
        self.tags: dict[int, Mapping[int, bytes]] = {}

    @property
    def largest_bytes(self) -> int:
        """No message with a site's vectors and tags is larger."""
        tags = self.dealing.graph.gathering.assembly.call.degree * _BYTES_A_TAG
        return sum(total.nbytes + _BYTES_A_BLOCK for total in self.totals.values()) + tags + _MESSAGE_BYTES

    def add(self, place: int, vectors: Mapping[str, np.ndarray], tags: Sequence[bytes]) -> bool:
        """Add all vectors of a site, or none: False where they are not what was asked for, or came before.

        `tags` are for those of the site's own choices that shared, in their order.
        """
        if place not in self.dealing.boxes or place in self.tags or set(vectors) != set(self.totals):
            return False
        shared = [chosen for chosen in self.dealing.graph.choices[place] if chosen in self.dealing.boxes]
        if len(tags) != len(shared):
            return False
        for name, vector in vectors.items():
            if vector.dtype != np.uint32 or vector.shape != self.totals[name].shape:
                return False
        for name, vector in vectors.items():
            np.add(self.totals[name], vector, out=self.totals[name])
        self.tags[place] = dict(zip(shared, tags, strict=True))
        return True


@dataclass(frozen=True)
class LargeSurvivors:
    """Whose vectors are in the sum: the one view that all of them must sign."""

    dealing: Dealing
    alive: frozenset[int]
    tags: Mapping[int, Mapping[int, bytes]]

    @cached_property
    def bitmap(self) -> bytes:
        """The survivors, as a bitmap over the roster."""
        return write_members(self.alive, len(self.dealing.graph.gathering.assembly.roster.entries))

    @cached_property
    def digest(self) -> bytes:
        """T3."""
        return self.dealing.graph.gathering.assembly.final_transcript(self.dealing.senders, self.bitmap)

    @property
    def names(self) -> tuple[str, ...]:
        """The institutions in the sum, sorted."""
        return tuple(self.dealing.graph.gathering.assembly.name(place) for place in sorted(self.alive))

    def tags_for(self, place: int) -> dict[int, bytes]:
        """What a site must see of those that chose it and survived."""
        return {dealer: self.tags[dealer][place] for dealer in self.dealing.dealers[place] if dealer in self.alive}


def gather(adverts: Mapping[str, bytes], roster: Roster, k_min: int, promise: Promise = STANDARD) -> Gathering:
    """Decide who takes part, all with a sound advert of the same round and blocks, and the shape of the graph.

    Raises:
        RoundAborted: too few sites have sound adverts (adverts), no graph among them keeps the promise (graph), or the
            run asks for post-quantum keys (post-quantum).
    """
    sound, left_out = _sound(adverts, roster)
    if len(sound) < max(k_min, threshold_of(len(roster.entries))):
        raise RoundAborted("adverts", sorted(left_out))
    places = {name: place for place, (name, _) in enumerate(roster.entries)}
    by_place = {places[name]: advert for name, advert in sorted(sound.items())}
    if next(iter(by_place.values())).session.post_quantum:
        raise RoundAborted("post-quantum")  # the sites would refuse
    try:
        shape = choose_shape(len(by_place), len(roster.entries), promise)
    except ValueError as error:
        raise RoundAborted("graph") from error
    call = Call(write_members(by_place, len(roster.entries)), shape.degree, shape.threshold)
    assembly = assembly_of(call, next(iter(by_place.values())), roster)
    return Gathering(assembly, {places[name]: adverts[name] for name in sound}, by_place, left_out)


def draw(gathering: Gathering, choices: Mapping[int, Sequence[int]]) -> Graph:
    """Keep the sound choices: as many different others as asked for.

    Raises:
        RoundAborted: too few sites chose.
    """
    members, degree = set(gathering.assembly.members), gathering.assembly.call.degree
    sound = {
        place: tuple(chosen)
        for place, chosen in choices.items()
        if place in members and len(chosen) == len(set(chosen)) == degree and set(chosen) <= members - {place}
    }
    _enough(gathering, sound, "choices")
    return Graph(gathering, sound)


def take_shares(graph: Graph, boxes: Mapping[int, Sequence[bytes]]) -> Dealing:
    """Sort the sealed shares by dealer and holder; a site whose boxes are not sound has dropped out.

    Raises:
        RoundAborted: too few sites shared.
    """
    sound = {
        place: dict(zip(graph.choices[place], dealt, strict=True))
        for place, dealt in boxes.items()
        if place in graph.choices and _dealt(graph, place, dealt)
    }
    _enough(graph.gathering, sound, "shares")
    return Dealing(graph, sound)


def close(total: LargeSum) -> LargeSurvivors:
    """Settle who survived.

    Raises:
        RoundAborted: too few sites sent vectors.
    """
    _enough(total.dealing.graph.gathering, total.tags, "vectors")
    return LargeSurvivors(total.dealing, frozenset(total.tags), total.tags)


def agreement(survivors: LargeSurvivors, signatures: Mapping[int, bytes]) -> dict[int, dict[int, bytes]]:
    """Keep the sound signatures on T3, and sort them by the site that must see them: who chose the signer.

    Raises:
        RoundAborted: fewer sites signed than must survive.
    """
    gathering = survivors.dealing.graph.gathering
    sound = {
        place: signature
        for place, signature in signatures.items()
        if place in survivors.alive and _signed(gathering.adverts[place], survivors.digest, signature)
    }
    if len(sound) < gathering.assembly.fewest:
        raise RoundAborted("agreement")
    choices = survivors.dealing.graph.choices
    return {place: {c: sound[c] for c in choices[place] if c in sound} for place in sorted(survivors.alive)}


def _sound(adverts: Mapping[str, bytes], roster: Roster) -> tuple[dict[str, Advert], dict[str, str]]:
    """Leave out what is malformed, strangers, those that differ from most others, those that ask for too many."""
    sound: dict[str, Advert] = {}
    left_out: dict[str, str] = {}
    for site, raw in sorted(adverts.items()):
        try:
            sound[site] = read_advert(raw)
            check_member(sound[site], roster)
        except ProtocolError as error:
            left_out[site] = error.code
    rounds = Counter((a.session, tuple((b.name, b.length) for b in a.blocks)) for a in sound.values())
    for site, advert in sound.items():
        common = rounds.most_common(1)[0][0]
        if advert.institution != site:
            left_out[site] = "institution"
        elif (advert.session, tuple((block.name, block.length) for block in advert.blocks)) != common:
            left_out[site] = "session" if advert.session != common[0] else "blocks"
    taking_part = {site: advert for site, advert in sound.items() if site not in left_out}
    for site, advert in sorted(taking_part.items(), key=lambda item: -item[1].k_min):
        if advert.k_min > len(taking_part):
            left_out[site] = "cohort"
            del taking_part[site]
    return taking_part, left_out


def _enough(gathering: Gathering, places: Collection[int], reason: str) -> None:
    if len(places) < gathering.smallest:
        raise RoundAborted(reason)


def _dealt(graph: Graph, place: int, boxes: Sequence[bytes]) -> bool:
    """Tell whether a site sent one well-formed box to every site that it chose."""
    gathering, chosen = graph.gathering, graph.choices[place]
    try:
        return len(boxes) == len(chosen) and all(
            read_box(gathering.edge(place, holder), box) for holder, box in zip(chosen, boxes, strict=True)
        )
    except ProtocolError:
        return False


def _signed(advert: Advert, digest: bytes, signature: bytes) -> bool:
    try:
        check_signature(advert.signing_key, VIEW, digest, signature)
    except ProtocolError:
        return False
    return True
