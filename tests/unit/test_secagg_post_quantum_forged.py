"""Post-quantum, a site that forges a part and a server that takes one away get nowhere, and the forger is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from client import mask
from client.boxes import open_box
from common.secagg.edge import ENVELOPE_BYTES, Box, Edge
from common.secagg.hybrid import public_key, send
from common.secagg.identity import Identity
from common.secagg.keys import derive, seal
from common.secagg.layout import join
from common.secagg.shamir import draw_secret
from common.secagg.table import read_table
from common.secagg.transcript import commit_to_pair, read_advert, sign_advert, sign_transcript
from server.unmask import RoundAborted
from tests.secagg_round import (
    POST_QUANTUM,
    SESSION,
    Message,
    Script,
    Trace,
    Vectors,
    consortium_of,
    plain_sum,
    secure_sum,
)

FOUR = consortium_of(4)
VECTORS: dict[str, Vectors] = {name: {"fusion": np.arange(9, dtype=np.uint32) + 7} for name in FOUR.names}
LOW, HIGH = "site-000", "site-002"
Change = Callable[[str, str, Message], Message]


def assert_exact(trace: Trace, sites: Sequence[str]) -> None:
    total, cohort = trace.sums["fusion"]
    assert cohort == tuple(sites)
    np.testing.assert_array_equal(total, plain_sum(VECTORS, "fusion", sites))


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


# A part that its own site forged.


def enclose_by_hand(pair_secret: bytes, masking_secret: bytes, edge: Edge) -> bytes:
    agreed, ciphertext = send(masking_secret, edge.destination.masking_key)
    pad = derive(agreed, b"pair envelope", *edge.context)
    hidden = bytes(one ^ other for one, other in zip(pair_secret, pad, strict=True))
    return ciphertext + hidden + commit_to_pair(pair_secret, *edge.context)


def forge_envelope(trace: Trace, forge: Callable[[bytes, Edge], bytes]) -> Change:
    """LOW encloses something else for HIGH, and seals all of it as an honest site would."""

    def to_server(stage: str, site: str, reply: Message) -> Message:
        if (stage, site) != ("share", LOW):
            return reply
        boxes, signature = reply
        state = trace.states[LOW]
        edge = read_table(state.adverts, state.threshold).edge(LOW, HIGH)
        held = open_box(trace.states[HIGH].secrets, edge, boxes[HIGH])
        agreed, ciphertext = send(state.secrets.sharing_key, edge.destination.sharing_key)
        box = Box(edge.commitments([held[:32], held[32:]]), b"", ciphertext, forge(state.secrets.masking_key, edge))
        sealed = seal(derive(agreed, b"shares", *edge.context), held, join([*edge.context, *box.clear]))
        return {**boxes, HIGH: replace(box, sealed=sealed).to_bytes()}, signature

    return to_server


def test_an_envelope_made_by_hand_as_it_should_be_is_taken_for_one() -> None:
    """The control of the forgeries below: only what is forged in them is refused."""
    trace = Trace()

    def honest(secret: bytes, edge: Edge) -> bytes:
        return enclose_by_hand(derive(secret, b"pair secret", *edge.context), secret, edge)

    change = forge_envelope(trace, honest)
    assert_exact(secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_server=change), trace), FOUR.names)
    for gone in (LOW, HIGH):
        trace = Trace()
        script = Script(session=POST_QUANTUM, to_server=forge_envelope(trace, honest), drop={gone: "mask"})
        assert_exact(secure_sum(FOUR, VECTORS, script, trace), [name for name in FOUR.names if name != gone])


def test_a_site_that_encloses_another_secret_than_its_own_is_named_when_it_drops_out() -> None:
    trace = Trace()
    change = forge_envelope(trace, lambda secret, edge: enclose_by_hand(draw_secret(), secret, edge))
    with pytest.raises(RoundAborted) as caught:
        secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_server=change, drop={LOW: "mask"}), trace)
    assert trace.refusals == {}
    assert (caught.value.reason, caught.value.culprits) == ("dealer", (LOW,))


def test_an_envelope_that_does_not_hold_what_it_commits_to_is_refused_and_its_dealer_named() -> None:
    trace = Trace()

    def forge(secret: bytes, edge: Edge) -> bytes:
        return flipped(enclose_by_hand(draw_secret(), secret, edge), ENVELOPE_BYTES - 1)

    with pytest.raises(RoundAborted) as caught:
        secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_server=forge_envelope(trace, forge)), trace)
    assert trace.refusals == {HIGH: ("mask", "pair")}
    assert (caught.value.reason, caught.value.culprits) == ("dealer", (LOW,))


def half_a_lie(trace: Trace, liar: str, *, x25519: bool) -> Change:
    """One half of the advertised masking key is not of the secret that will be dealt."""

    def lie(stage: str, site: str, reply: Message) -> Message:
        if (stage, site) != ("advertise", liar):
            return reply
        state, other = trace.states[liar], public_key(draw_secret(), post_quantum=True)
        true = state.own.masking_key
        mixed = other[:32] + true[32:] if x25519 else true[:32] + other[32:]
        trace.states[liar] = replace(state, advert=with_masking_key(liar, state.advert, mixed))
        return (trace.states[liar].advert,)

    return lie


@pytest.mark.parametrize("x25519", [True, False])
def test_a_site_whose_public_key_is_not_of_the_secret_that_it_deals_is_named_when_it_drops_out(x25519: bool) -> None:
    trace, liar = Trace(), FOUR.names[3]
    script = Script(session=POST_QUANTUM, to_server=half_a_lie(trace, liar, x25519=x25519), drop={liar: "mask"})
    with pytest.raises(RoundAborted) as caught:
        secure_sum(FOUR, VECTORS, script, trace)
    assert (caught.value.reason, caught.value.culprits) == ("dealer", (liar,))


def test_higher_sites_refuse_what_a_lower_one_encloses_under_a_key_that_it_did_not_advertise() -> None:
    trace = Trace()
    with pytest.raises(RoundAborted):
        secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_server=half_a_lie(trace, LOW, x25519=True)), trace)
    assert trace.refusals == dict.fromkeys(FOUR.names[1:], ("mask", "pair"))


def with_masking_key(site: str, advert: bytes, key: bytes) -> bytes:
    """A site's own advert with another masking key, signed by that site."""
    body = advert[:-64].replace(read_advert(advert).masking_key, key)
    return body + sign_transcript(FOUR.identities[site], b"advert", body)


@pytest.mark.parametrize("key", [b"\xff" * 1216, b"\x09" + bytes(31), b"\x09" * 1215], ids=["range", "32", "1215"])
def test_an_advert_with_a_key_that_nobody_could_use_is_left_out_alone(key: bytes) -> None:
    trace = Trace()

    def lie(stage: str, site: str, reply: Message) -> Message:
        return (with_masking_key(LOW, reply[0], key),) if (stage, site) == ("advertise", LOW) else reply

    secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_server=lie), trace)
    assert trace.view is not None
    assert dict(trace.view.left_out) == {LOW: "advert"}
    assert trace.refusals == {}
    assert_exact(trace, FOUR.names[1:])


# A part that was taken away.


def adverts_of(session: mask.Session) -> dict[str, tuple[mask.SiteRound, bytes]]:
    return {
        name: mask.advertise(session, identity, {"fusion": 9}, institution=name, k_min=3)
        for name, identity in FOUR.identities.items()
    }


@pytest.mark.parametrize(("own", "others"), [(POST_QUANTUM, SESSION), (SESSION, POST_QUANTUM)], ids=["down", "up"])
def test_a_site_refuses_a_round_of_another_version_than_it_agreed_to(own: mask.Session, others: mask.Session) -> None:
    mine, theirs = adverts_of(own), adverts_of(others)
    state, advert = mine[LOW]
    for adverts, code in (
        ([advert, *(theirs[name][1] for name in FOUR.names[1:])], "session"),
        ([*(mine[name][1] for name in FOUR.names[:3]), theirs["site-003"][1]], "session"),
        ([theirs[name][1] for name in FOUR.names], "own-advert"),
    ):
        with pytest.raises(mask.ProtocolError) as caught:
            mask.share(state, adverts, 3, FOUR.roster, 3)
        assert caught.value.code == code


def test_a_site_of_another_version_than_the_most_is_left_out_by_the_coordinator() -> None:
    def downgrade(stage: str, site: str, reply: Message) -> Message:
        return (adverts_of(SESSION)[LOW][1],) if (stage, site) == ("advertise", LOW) else reply

    trace = secure_sum(FOUR, VECTORS, Script(session=POST_QUANTUM, to_server=downgrade))
    assert trace.view is not None
    assert dict(trace.view.left_out) == {LOW: "session"}
    assert_exact(trace, FOUR.names[1:])


def test_an_adverts_keys_cannot_be_cut_to_those_of_version_01_under_its_signature() -> None:
    state, advert = adverts_of(POST_QUANTUM)[LOW]
    own, session = state.own, replace(state.own.session, post_quantum=False)
    shorter = replace(own, session=session, sharing_key=own.sharing_key[:32], masking_key=own.masking_key[:32])
    cut = sign_advert(shorter, Identity(b"x" * 32))[:-64] + advert[-64:]
    with pytest.raises(mask.ProtocolError) as caught:
        read_advert(cut)
    assert caught.value.code == "signature"
