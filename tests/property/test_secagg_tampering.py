"""One bit of one field changed on the way: for every field there is, found by walking the layout itself.

Three sites, of whom all are needed: nothing that is wrong can be made up for by the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from server.unmask import RoundAborted
from tests.secagg_round import Consortium, Message, Script, Trace, Vectors, consortium_of, plain_sum, secure_sum

THREE: Consortium = consortium_of(3)
VICTIM, OTHER = THREE.names[0], THREE.names[1]
VECTORS: dict[str, Vectors] = {
    name: {"encoder/labs": np.arange(5, dtype=np.uint32), "fusion": np.arange(9, dtype=np.uint32)}
    for name in THREE.names
}
# The stage at which a site reads what was changed, in the order of the protocol.
READ_AT = ("share", "mask", "check", "reveal")
_LENGTH_BYTES = 4


def leaves(body: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Places of all fields in a run of fields that stand behind their lengths, lists in lists taken apart."""
    at, found = start, []
    while at + _LENGTH_BYTES <= end:
        size = int.from_bytes(body[at : at + _LENGTH_BYTES], "big")
        at += _LENGTH_BYTES
        if at + size > end:
            break
        found.append((at, at + size))
        at += size
    if at != end or not found:
        yield start, end
        return
    for first, last in found:
        yield first - _LENGTH_BYTES, first
        if last > first:
            yield from leaves(body, first, last)


def flipped(body: bytes, place: int) -> bytes:
    return body[:place] + bytes([body[place] ^ 0x10]) + body[place + 1 :]


def places_of(body: bytes, *, head: int = 0, tail: int = 0) -> list[int]:
    """One place in the middle of each field, of what stands before the fields and of what stands after them."""
    ends = [(0, head), *leaves(body, head, len(body) - tail), (len(body) - tail, len(body))]
    return sorted({(first + last) // 2 for first, last in ends if last > first})


class _Tampering:
    """Runs honest rounds and changes one place of one message to the victim."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.honest: Message = ()

    def record(self) -> Message:
        def look(at: str, site: str, message: Message) -> Message:
            if (at, site) == (self.stage, VICTIM):
                self.honest = message
            return message

        trace = secure_sum(THREE, VECTORS, Script(to_site=look))
        np.testing.assert_array_equal(trace.sums["fusion"][0], plain_sum(VECTORS, "fusion", THREE.names))
        return self.honest

    def refused_with(self, change: Callable[[Message], Message]) -> str:
        """Change the message with `change` in a fresh round; the victim's code, after making sure it refused."""
        trace = Trace()

        def lie(at: str, site: str, message: Message) -> Message:
            return change(message) if (at, site) == (self.stage, VICTIM) else message

        with pytest.raises(RoundAborted):
            secure_sum(THREE, VECTORS, Script(to_site=lie), trace)
        assert VICTIM in trace.refusals, "the site took it"
        stage, code = trace.refusals[VICTIM]
        assert READ_AT.index(stage) >= READ_AT.index(self.stage)
        assert trace.sums == {}
        return code


def test_a_changed_bit_in_any_field_of_any_advert_is_refused_where_it_is_read() -> None:
    tampering = _Tampering("share")
    adverts, _ = tampering.record()
    for which in range(len(adverts)):
        for place in places_of(adverts[which], head=1, tail=64):

            def change(message: Message, which: int = which, place: int = place) -> Message:
                raws = list(message[0])
                raws[which] = flipped(raws[which], place)
                return raws, message[1]

            assert tampering.refused_with(change) in {"advert", "version", "signature", "own-advert", "roster"}


def test_a_changed_bit_in_any_field_of_any_sealed_box_is_refused_where_it_is_read() -> None:
    tampering = _Tampering("mask")
    boxes, _ = tampering.record()
    for sender in THREE.names:
        for place in places_of(boxes[sender]):

            def change(message: Message, sender: str = sender, place: int = place) -> Message:
                return {**message[0], sender: flipped(message[0][sender], place)}, message[1]

            assert tampering.refused_with(change) in {"ciphertext", "share", "key"}


@pytest.mark.parametrize(("stage", "part"), [("mask", 1), ("reveal", 0)])
def test_a_changed_bit_in_any_signature_is_refused(stage: str, part: int) -> None:
    tampering = _Tampering(stage)
    tampering.record()
    for signer in THREE.names:
        for place in (0, 31, 32, 63):

            def change(message: Message, signer: str = signer, place: int = place) -> Message:
                signatures = {**message[part], signer: flipped(message[part][signer], place)}
                return (*message[:part], signatures, *message[part + 1 :])

            assert tampering.refused_with(change) in {"signature", "agreement"}


@pytest.mark.parametrize("threshold", [0, 1, 2, 4, 2**40])
def test_a_changed_threshold_is_refused(threshold: int) -> None:
    tampering = _Tampering("share")
    assert tampering.refused_with(lambda message: (message[0], threshold)) == "threshold"


def handing(survivors: list[str], blocks: list[str]) -> Callable[[Message], Message]:
    return lambda _message: (survivors, blocks)


def test_a_changed_list_of_survivors_or_blocks_is_refused() -> None:
    tampering = _Tampering("check")
    survivors, blocks = tampering.record()
    for which in range(len(survivors)):
        for names in (survivors[:which] + survivors[which + 1 :], [*survivors, survivors[which]], [*survivors, "x"]):
            assert tampering.refused_with(handing(names, blocks)) == "survivors"
    for names in ([*blocks, "x"], [*blocks, blocks[0]], []):
        assert tampering.refused_with(handing(survivors, names)) == "blocks"


def test_a_site_that_is_shown_another_list_of_blocks_signs_something_that_nobody_else_did() -> None:
    def lie(stage: str, site: str, message: Message) -> Message:
        return (message[0], message[1][1:]) if (stage, site) == ("check", VICTIM) else message

    with pytest.raises(RoundAborted, match="agreement"):
        secure_sum(THREE, VECTORS, Script(to_site=lie))


def test_every_field_is_visited() -> None:
    """The walk is not empty: an advert has its version, twelve fields or more, those of two blocks, and a signature."""
    adverts, _ = _Tampering("share").record()
    assert len(places_of(adverts[0], head=1, tail=64)) > 2 * 12
