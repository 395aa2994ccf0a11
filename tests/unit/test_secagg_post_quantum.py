"""With ML-KEM beside X25519 the sum stays exact, and a part of it that was changed on its way is noticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from client import mask
from common.secagg.edge import ENVELOPE_BYTES, Edge
from common.secagg.hybrid import CIPHERTEXT_BYTES
from common.secagg.keys import derive
from common.secagg.layout import join, split
from common.secagg.pairs import agreed_by, enclose
from common.secagg.table import read_table
from server.unmask import RoundAborted
from tests.secagg_round import (
    POST_QUANTUM,
    STAGES,
    Message,
    Script,
    Trace,
    Vectors,
    consortium_of,
    plain_sum,
    secure_sum,
)

SEVEN = consortium_of(7)
FOUR = consortium_of(SEVEN.names[:4])
LENGTHS = {"fusion": 9}
VECTORS: dict[str, Vectors] = {name: {"fusion": np.arange(9, dtype=np.uint32) + 7} for name in SEVEN.names}
LOW, HIGH = "site-000", "site-002"
Change = Callable[[str, str, Message], Message]


def summed(num_sites: int, **script: object) -> Trace:
    consortium = consortium_of(SEVEN.names[:num_sites])
    vectors = {name: VECTORS[name] for name in consortium.names}
    return secure_sum(consortium, vectors, Script(session=POST_QUANTUM, **script))  # type: ignore[arg-type]


def assert_exact(trace: Trace, sites: Sequence[str]) -> None:
    total, cohort = trace.sums["fusion"]
    assert cohort == tuple(sites)
    np.testing.assert_array_equal(total, plain_sum(VECTORS, "fusion", sites))


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.parametrize("num_sites", [3, 4, 7])
def test_the_sum_is_exact(num_sites: int) -> None:
    trace = summed(num_sites)
    assert trace.refusals == {}
    assert trace.blamed == {}
    assert_exact(trace, SEVEN.names[:num_sites])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "gone", [("site-000",), ("site-003",), ("site-006",), ("site-000", "site-001"), ("site-000", "site-006")], ids=str
)
def test_the_sum_is_exact_whoever_drops_out_the_lower_or_the_higher_of_a_pair_or_both(
    gone: tuple[str, ...], stage: str
) -> None:
    trace = summed(7, drop=dict.fromkeys(gone, stage))
    stayed = tuple(name for name in SEVEN.names if name not in gone)
    assert_exact(trace, SEVEN.names if stage in {"check", "reveal"} else stayed)


# The layout on the wire.


def fields_of(box: bytes) -> list[int]:
    return [len(field) for field in split(box)]


def test_without_it_adverts_and_boxes_are_as_long_as_they_ever_were() -> None:
    off, on = secure_sum(FOUR, VECTORS, Script()), summed(4)
    assert off.routing is not None
    assert on.routing is not None
    assert {len(advert) for advert in off.adverts.values()} == {404}
    assert {len(advert) for advert in on.adverts.values()} == {404 + 2 * 1184}
    assert {advert[:1] for advert in off.adverts.values()} == {b"\x01"}
    assert {advert[:1] for advert in on.adverts.values()} == {b"\x02"}
    commitments, sealed = 2 * 32, 12 + 2 * 32 + 16
    for receiver, boxes in off.routing.inbox.items():
        for sender, box in boxes.items():
            assert fields_of(box) == [commitments, sealed]
            envelope = ENVELOPE_BYTES if sender < receiver else 0
            assert fields_of(on.routing.inbox[receiver][sender]) == [commitments, CIPHERTEXT_BYTES, envelope, sealed]


def test_no_secret_is_ever_on_the_wire() -> None:
    trace, wire, secrets = Trace(), list[bytes](), set[bytes]()

    def watch(stage: str, site: str, reply: Message) -> Message:
        if stage == "share":
            mine = trace.states[site].secrets
            labels = (b"x25519", b"ml-kem-768 d", b"ml-kem-768 z")
            for secret in (mine.sharing_key, mine.masking_key):
                secrets.update({secret, *(derive(secret, label) for label in labels)})
            table = read_table(trace.states[site].adverts, trace.states[site].threshold)
            higher = [table.edge(site, peer) for peer in table.sites if peer > site]
            secrets.update(agreed_by(site, mine.masking_key, edge, None) for edge in higher)
            wire.extend(reply[0].values())
        else:
            wire.extend(part if isinstance(part, bytes) else repr(part).encode() for part in reply)
        return reply

    secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_server=watch), trace)
    assert len(secrets) == 4 * 2 * 4 + 6
    assert not [secret for secret in secrets if any(secret in message for message in wire)]


def test_a_site_keeps_no_key_of_a_mask_once_it_has_masked() -> None:
    trace, before, after = Trace(), dict[str, mask.SiteRound](), dict[str, bytes]()

    def watch(stage: str, site: str, message: Message) -> Message:
        if stage == "mask":
            before[site] = trace.states[site]
        if stage == "check":
            after[site] = trace.states[site].to_bytes()
        return message

    secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_site=watch), trace)
    for site, state in before.items():
        higher = [state.table.edge(site, peer) for peer in FOUR.names if peer > site]
        pairs = [agreed_by(site, state.secrets.masking_key, edge, None) for edge in higher]
        for secret in (state.secrets.masking_key, state.secrets.sharing_key, *state.secrets.seeds, *pairs):
            assert secret not in after[site]
        assert state.secrets.masking_key in state.to_bytes()


def test_what_hides_the_secret_of_a_pair_is_never_used_twice() -> None:
    """The secret itself is the same, as recovery needs; a crash before the answer may enclose it again."""
    states = [mask.advertise(POST_QUANTUM, FOUR.identities[n], LENGTHS, institution=n, k_min=3)[0] for n in (LOW, HIGH)]
    edge = Edge(b"t" * 32, *(state.own for state in states))
    one, other = (enclose(states[0].secrets.masking_key, edge) for _ in range(2))
    assert len(one) == ENVELOPE_BYTES
    assert one[:CIPHERTEXT_BYTES] != other[:CIPHERTEXT_BYTES]
    assert one[CIPHERTEXT_BYTES:][:32] != other[CIPHERTEXT_BYTES:][:32]
    assert one[-32:] == other[-32:]
    for envelope in (one, other):
        agreed = [agreed_by(s.own.institution, s.secrets.masking_key, edge, envelope) for s in states]
        assert agreed[0] == agreed[1]


# A part that was changed on its way.


def test_every_changed_byte_of_an_advert_is_refused() -> None:
    rounds = {
        name: mask.advertise(POST_QUANTUM, identity, LENGTHS, institution=name, k_min=3)
        for name, identity in FOUR.identities.items()
    }
    adverts = [advert for _, advert in rounds.values()]
    for at in range(0, len(adverts[2]), 3):
        with pytest.raises(mask.ProtocolError) as caught:
            mask.share(rounds[LOW][0], [*adverts[:2], flipped(adverts[2], at), adverts[3]], 3, FOUR.roster, 3)
        assert caught.value.code in {"version", "advert", "signature"}


@pytest.mark.parametrize(("source", "destination"), [(LOW, HIGH), (HIGH, LOW), (HIGH, HIGH)])
def test_every_changed_byte_of_a_box_is_refused_by_its_receiver(source: str, destination: str) -> None:
    """All of the layout: commitments, ML-KEM's ciphertext, the envelope's three parts, the sealed shares."""
    trace, seen = Trace(), dict[str, Message]()

    def keep(stage: str, site: str, message: Message) -> Message:
        if (stage, site) == ("mask", destination):
            seen["state"], seen["message"] = (trace.states[site],), message
        return message

    secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_site=keep), trace)
    (state,), (boxes, signatures) = seen["state"], seen["message"]
    mask.mask(state, boxes, signatures, VECTORS[destination])
    for at in range(0, len(boxes[source]), 5):
        changed = {**boxes, source: flipped(boxes[source], at)}
        with pytest.raises(mask.ProtocolError) as caught:
            mask.mask(state, changed, signatures, VECTORS[destination])
        assert caught.value.code == "ciphertext", at


def change_box(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    """Change the fields of the box from LOW to HIGH before the server has it."""

    def to_server(stage: str, site: str, reply: Message) -> Message:
        if (stage, site) != ("share", LOW):
            return reply
        boxes, signature = reply
        return {**boxes, HIGH: join(change(split_list(boxes[HIGH])))}, signature

    return to_server


def split_list(box: bytes) -> list[bytes]:
    return list(split(box))


def test_a_box_without_its_fields_is_a_drop_out_of_its_dealer() -> None:
    for change in (
        lambda fields: [fields[0], fields[3]],
        lambda fields: [fields[0], b"", b"", fields[3]],
        lambda fields: [fields[0], fields[1], b"", fields[3]],
        lambda fields: [*fields[:2], fields[2][:-1], fields[3]],
        lambda fields: [fields[0], fields[1] + b"\0", *fields[2:]],
    ):
        trace = summed(4, to_server=change_box(change))
        assert trace.routing is not None
        assert dict(trace.routing.left_out) == {LOW: "shares"}
        assert_exact(trace, FOUR.names[1:])


def test_a_boxes_key_that_was_changed_before_the_server_costs_its_receiver_the_round_and_nobody_else() -> None:
    trace = summed(4, to_server=change_box(lambda fields: [fields[0], flipped(fields[1], 500), *fields[2:]]))
    assert trace.refusals == {HIGH: ("mask", "ciphertext")}
    assert_exact(trace, [name for name in FOUR.names if name != HIGH])


@pytest.mark.parametrize("at", [0, CIPHERTEXT_BYTES - 1, CIPHERTEXT_BYTES, ENVELOPE_BYTES - 1])
def test_an_envelope_that_was_changed_before_the_server_is_blamed_and_never_spoils_a_sum(at: int) -> None:
    trace = Trace()
    change = change_box(lambda fields: [*fields[:2], flipped(fields[2], at), fields[3]])
    with pytest.raises(RoundAborted) as caught:
        secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_server=change), trace)
    assert trace.refusals == {HIGH: ("mask", "ciphertext")}
    assert (caught.value.reason, caught.value.culprits) == ("dealer", (LOW,))
    assert trace.sums == {}
