"""A wrong share names its culprit, whether it was revealed wrongly or dealt wrongly, and never spoils a sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client import mask
from common.secagg.keys import agree, derive, seal
from common.secagg.layout import join, split
from common.secagg.shamir import SECRET_BYTES, draw_secret
from common.secagg.table import read_table
from common.secagg.transcript import HASH_BYTES
from server.unmask import RoundAborted
from tests.secagg_round import Message, Script, Trace, Vectors, consortium_of, plain_sum, secure_sum

FOUR = consortium_of(4)
VECTORS: dict[str, Vectors] = {name: {"fusion": np.arange(9, dtype=np.uint32)} for name in FOUR.names}


def spoil_reveal(culprits: set[str], spoil: Callable[[bytes], bytes]) -> Callable[[str, str, Message], Message]:
    def change(stage: str, site: str, reply: Message) -> Message:
        return (spoil(reply[0]),) if stage == "reveal" and site in culprits else reply

    return change


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.parametrize("share", [0, 1, 2, 3])
def test_a_wrong_share_names_the_culprit_and_the_sum_is_exact_all_the_same(share: int) -> None:
    script = Script(to_server=spoil_reveal({"site-002"}, flip(HASH_BYTES + share * SECRET_BYTES + 5)))
    trace = secure_sum(FOUR, VECTORS, script)
    assert trace.blamed == {"site-002": "share"}
    np.testing.assert_array_equal(trace.sums["fusion"][0], plain_sum(VECTORS, "fusion", FOUR.names))


def test_a_wrong_share_of_a_dropped_sites_key_names_the_culprit() -> None:
    seven = consortium_of(7)
    vectors = dict.fromkeys(seven.names, VECTORS["site-000"])
    masking_key = HASH_BYTES + 6 * SECRET_BYTES  # after the seeds of the six survivors
    script = Script(drop={"site-006": "mask"}, to_server=spoil_reveal({"site-001"}, flip(masking_key)))
    trace = secure_sum(seven, vectors, script)
    assert trace.blamed == {"site-001": "share"}
    np.testing.assert_array_equal(trace.sums["fusion"][0], plain_sum(vectors, "fusion", seven.names[:6]))


def test_with_no_share_to_spare_the_round_aborts_and_names_the_culprit() -> None:
    trace = Trace()
    script = Script(drop={"site-003": "mask"}, to_server=spoil_reveal({"site-002"}, flip(HASH_BYTES)))
    with pytest.raises(RoundAborted) as caught:
        secure_sum(FOUR, VECTORS, script, trace)
    assert (caught.value.reason, caught.value.culprits) == ("reveals", ("site-002",))
    assert trace.blamed == {"site-002": "share"}


@pytest.mark.parametrize("spoil", [lambda body: body[:-1], lambda body: body + b"\0", lambda _: b"", flip(0)])
def test_a_malformed_reveal_names_the_culprit(spoil: Callable[[bytes], bytes]) -> None:
    trace = secure_sum(FOUR, VECTORS, Script(to_server=spoil_reveal({"site-000"}, spoil)))
    assert trace.blamed == {"site-000": "malformed"}
    assert trace.sums["fusion"][1] == FOUR.names


def test_honest_sites_are_not_blamed() -> None:
    assert secure_sum(FOUR, VECTORS).blamed == {}


@pytest.mark.parametrize("secret", ["seeds", "masking_key"])
def test_a_site_that_dealt_another_secret_than_it_advertised_is_named(secret: str) -> None:
    trace = Trace()

    def lie(stage: str, site: str, message: Message) -> Message:
        if (stage, site) == ("share", "site-001"):
            state = trace.states[site]
            secrets = replace(state.secrets, seeds=(draw_secret(),))
            if secret == "masking_key":  # noqa: S105  (a field's name)
                secrets = replace(state.secrets, masking_key=draw_secret())
            trace.states[site] = replace(state, secrets=secrets)
        return message

    drop = {"site-001": "mask"} if secret == "masking_key" else {}  # noqa: S105  (a field's name)
    with pytest.raises(RoundAborted) as caught:
        secure_sum(FOUR, VECTORS, Script(to_site=lie, drop=drop), trace)
    assert (caught.value.reason, caught.value.culprits) == ("dealer", ("site-001",))
    assert trace.sums == {}


def test_a_box_whose_shares_are_not_the_committed_ones_is_refused_by_its_receiver() -> None:
    """A dishonest dealer seals correctly what it did not commit to: the receiver sees it before it sends a vector."""
    trace = Trace()

    def lie(stage: str, site: str, reply: Message) -> Message:
        if (stage, site) != ("share", "site-001"):
            return reply
        boxes, signature = reply
        return {**boxes, "site-000": _sealed_anew(trace.states[site], "site-000", boxes["site-000"])}, signature

    secure_sum(FOUR, VECTORS, Script(to_server=lie), trace)
    assert trace.refusals == {"site-000": ("mask", "share")}
    assert trace.sums["fusion"][1] == FOUR.names[1:]


def _sealed_anew(dealer: mask.SiteRound, receiver: str, box: bytes) -> bytes:
    table = read_table(dealer.adverts, dealer.threshold)
    source, destination, commitments = dealer.own.institution.encode(), receiver.encode(), split(box)[0]
    agreed = agree(dealer.secrets.sharing_key, table.advert(receiver).sharing_key)
    key = derive(agreed, b"shares", table.transcript, source, destination)
    associated = join([table.transcript, source, destination, commitments])
    return join([commitments, seal(key, draw_secret() + draw_secret(), associated)])


def test_a_site_with_unsound_boxes_has_dropped_out_for_the_coordinator() -> None:
    def lose(stage: str, site: str, reply: Message) -> Message:
        if (stage, site) != ("share", "site-001"):
            return reply
        boxes, signature = reply
        return {peer: box for peer, box in boxes.items() if peer != "site-003"}, signature

    trace = secure_sum(FOUR, VECTORS, Script(to_server=lose))
    assert trace.routing is not None
    assert dict(trace.routing.left_out) == {"site-001": "shares"}
    assert trace.sums["fusion"][1] == ("site-000", "site-002", "site-003")


def test_a_site_with_a_wrong_signature_has_dropped_out_for_the_coordinator() -> None:
    def forge(stage: str, site: str, reply: Message) -> Message:
        return (reply[0], bytes(64)) if (stage, site) == ("share", "site-001") else reply

    trace = secure_sum(FOUR, VECTORS, Script(to_server=forge, server_knows_roster=False))
    assert trace.routing is not None
    assert dict(trace.routing.left_out) == {"site-001": "signature"}
