"""A server that lies, splits the sites' views, repeats or mixes up stages gets refusals and no secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from client import mask
from common.secagg.shamir import SECRET_BYTES
from tests.secagg_round import Consortium, Message, Script, Trace, Vectors, consortium_of, secure_sum

CONSORTIUM = consortium_of(5)
NAMES = CONSORTIUM.names
BLOCKS = ("encoder/labs", "fusion")
VECTORS: dict[str, Vectors] = {
    name: {block: np.arange(6, dtype=np.uint32) for block in BLOCKS} for name in CONSORTIUM.names
}
del VECTORS["site-003"]["encoder/labs"], VECTORS["site-004"]["encoder/labs"]


@dataclass(frozen=True)
class Shared:
    """All sites after stage 1, with what they sent."""

    states: dict[str, mask.SiteRound]
    boxes: dict[str, dict[str, bytes]]
    signatures: dict[str, bytes]

    def inbox(self, site: str, senders: Sequence[str] = NAMES) -> dict[str, bytes]:
        return {sender: self.boxes[sender][site] for sender in senders}

    def signed(self, signers: Sequence[str] = NAMES) -> dict[str, bytes]:
        return {signer: self.signatures[signer] for signer in signers}

    def mask(self, site: str, senders: Sequence[str] = NAMES) -> mask.SiteRound:
        return mask.mask(self.states[site], self.inbox(site, senders), self.signed(senders), VECTORS[site])[0]


def advertised(consortium: Consortium = CONSORTIUM, number: int = 3) -> dict[str, tuple[mask.SiteRound, bytes]]:
    session = mask.Session("run-1", number, "training", b"m" * 32, b"p" * 32)
    lengths = {name: {block: vector.size for block, vector in VECTORS[name].items()} for name in NAMES}
    return {
        name: mask.advertise(session, consortium.identities[name], lengths[name], institution=name, k_min=3)
        for name in consortium.names
    }


def shared(rounds: Mapping[str, tuple[mask.SiteRound, bytes]], adverts_for: Callable[[str], list[bytes]]) -> Shared:
    results = {
        name: mask.share(state, adverts_for(name), 4, CONSORTIUM.roster, 3) for name, (state, _) in rounds.items()
    }
    return Shared(*({name: result[part] for name, result in results.items()} for part in range(3)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def honest() -> Shared:
    rounds = advertised()
    return shared(rounds, lambda _name: [advert for _, advert in rounds.values()])


@pytest.fixture(scope="module")
def masked(honest: Shared) -> dict[str, mask.SiteRound]:
    return {name: honest.mask(name) for name in NAMES}


def code_of(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(mask.ProtocolError) as caught:
        call(*arguments)
    return caught.value.code


def test_sites_that_saw_different_adverts_refuse_each_other() -> None:
    first, second = advertised(), advertised()
    mixed = {**first, "site-004": second["site-004"]}
    split = shared(
        {name: first[name] for name in NAMES[:4]},
        lambda name: [(mixed if name in NAMES[:2] else first)[peer][1] for peer in NAMES],
    )
    for name in NAMES[:4]:
        assert code_of(split.mask, name, NAMES[:4]) == "signature"


def test_a_signature_of_another_round_is_refused(honest: Shared) -> None:
    rounds = advertised(number=4)
    later = shared(rounds, lambda _name: [advert for _, advert in rounds.values()])
    signatures = {**honest.signed(), "site-001": later.signatures["site-001"]}
    state = honest.states["site-000"]
    assert code_of(mask.mask, state, honest.inbox("site-000"), signatures, VECTORS["site-000"]) == "signature"


def test_too_few_sharers_missing_boxes_and_strangers_are_refused(honest: Shared) -> None:
    state, vectors = honest.states["site-000"], VECTORS["site-000"]
    few = NAMES[:3]
    for boxes, signatures in (
        (honest.inbox("site-000", few), honest.signed(few)),
        (honest.inbox("site-000", NAMES[:4]), honest.signed()),
        (honest.inbox("site-000"), honest.signed(NAMES[:4])),
        (honest.inbox("site-000", NAMES[1:]), honest.signed(NAMES[1:])),
        ({**honest.inbox("site-000"), "x": b""}, {**honest.signed(), "x": b""}),
    ):
        assert code_of(mask.mask, state, boxes, signatures, vectors) == "senders"


def test_a_changed_misdirected_or_swapped_box_is_refused(honest: Shared) -> None:
    state, vectors, inbox = honest.states["site-000"], VECTORS["site-000"], honest.inbox("site-000")
    box = inbox["site-001"]
    changed = [box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :] for at in range(0, len(box), 5)]
    for wrong in (*changed, b"", box[:-1], honest.boxes["site-001"]["site-002"], inbox["site-002"]):
        assert code_of(mask.mask, state, {**inbox, "site-001": wrong}, honest.signed(), vectors) == "ciphertext"


def test_vectors_other_than_advertised_are_not_masked(honest: Shared) -> None:
    good, state, inbox = VECTORS["site-000"], honest.states["site-000"], honest.inbox("site-000")
    for vectors in (
        {"fusion": good["fusion"]},
        {**good, "fusion": good["fusion"][:-1]},
        {**good, "fusion": good["fusion"].astype(np.int64)},
        {**good, "head": good["fusion"]},
    ):
        assert code_of(mask.mask, state, inbox, honest.signed(), vectors) == "vector"


@pytest.mark.parametrize(
    ("survivors", "blocks", "code"),
    [
        (NAMES[:3], ("fusion",), "survivors"),
        (NAMES[1:], ("fusion",), "survivors"),
        ((*NAMES, "site-000"), ("fusion",), "survivors"),
        ((*NAMES, "stranger"), ("fusion",), "survivors"),
        (NAMES, (), "blocks"),
        (NAMES, ("fusion", "fusion"), "blocks"),
        (NAMES, ("head",), "blocks"),
        ((*NAMES[:2], *NAMES[3:]), ("fusion", "encoder/labs"), "cohort"),
    ],
)
def test_a_view_that_the_protocol_does_not_allow_is_not_signed(
    masked: dict[str, mask.SiteRound], survivors: tuple[str, ...], blocks: tuple[str, ...], code: str
) -> None:
    assert code_of(lambda: mask.check(masked["site-000"], survivors, blocks)) == code


def test_a_survivor_who_did_not_share_is_refused(honest: Shared) -> None:
    state = honest.mask("site-000", NAMES[:4])
    assert code_of(mask.check, state, NAMES, ("fusion",)) == "survivors"


def test_split_views_of_the_survivors_reveal_nothing(masked: dict[str, mask.SiteRound]) -> None:
    """Three sites are told that site-004 dropped, two that all survived: neither view has four signatures."""
    views = {name: NAMES[:4] if name in NAMES[:3] else NAMES for name in NAMES}
    checked = {name: mask.check(masked[name], views[name], ("fusion",)) for name in NAMES}
    signatures = {name: signature for name, (_, signature) in checked.items()}
    for name in NAMES:
        assert code_of(mask.reveal, checked[name][0], signatures) == "agreement"


def test_split_views_of_the_sharers_reveal_nothing_at_the_site_that_is_alone(honest: Shared) -> None:
    states = {name: honest.mask(name, NAMES[:4] if name == "site-000" else NAMES) for name in NAMES}
    checked = {name: mask.check(states[name], NAMES[:4], ("fusion",)) for name in NAMES[:4]}
    signatures = {name: signature for name, (_, signature) in checked.items()}
    for name in NAMES[:4]:
        assert code_of(mask.reveal, checked[name][0], signatures) == "agreement"


def test_split_views_of_the_blocks_reveal_nothing(masked: dict[str, mask.SiteRound]) -> None:
    checked = {name: mask.check(masked[name], NAMES, ("fusion",) if name in NAMES[:2] else BLOCKS) for name in NAMES}
    signatures = {name: signature for name, (_, signature) in checked.items()}
    assert code_of(mask.reveal, checked["site-000"][0], signatures) == "agreement"


def test_signatures_are_counted_by_survivor_not_by_number(masked: dict[str, mask.SiteRound]) -> None:
    checked = {name: mask.check(masked[name], NAMES, ("fusion",)) for name in NAMES}
    sound = {name: signature for name, (_, signature) in checked.items()}
    state = checked["site-000"][0]
    own = sound["site-000"]
    assert code_of(mask.reveal, state, dict.fromkeys(NAMES, own)) == "agreement"
    assert code_of(mask.reveal, state, {name: sound[name] for name in NAMES[:3]}) == "agreement"
    assert code_of(mask.reveal, state, {**{n: sound[n] for n in NAMES[:3]}, "x": own}) == "agreement"
    assert mask.reveal(state, {name: sound[name] for name in NAMES[:4]}) == mask.reveal(state, sound)


def test_a_signature_on_the_adverts_does_not_count_as_one_on_the_survivors(
    honest: Shared, masked: dict[str, mask.SiteRound]
) -> None:
    state, _ = mask.check(masked["site-000"], NAMES, ("fusion",))
    assert code_of(mask.reveal, state, honest.signed()) == "agreement"


def test_both_secrets_of_a_peer_are_never_revealed(masked: dict[str, mask.SiteRound]) -> None:
    """Once a site signed that a peer survived, no share of that peer's masking key is left; and the other way round."""
    before = masked["site-000"]
    held = dict(zip(before.senders, before.held, strict=True))
    masking = {name: held[name][:SECRET_BYTES] for name in NAMES}
    state, _ = mask.check(before, NAMES[:4], ("fusion",))
    kept = state.to_bytes()
    for name in NAMES[:4]:
        assert masking[name] in before.to_bytes()
        assert masking[name] not in kept
    assert masking["site-004"] in kept
    assert held["site-004"][-SECRET_BYTES:] not in kept
    assert code_of(mask.check, state, NAMES, ("fusion",)) == "order"
    assert code_of(mask.check, state, NAMES[:4], BLOCKS) == "order"


def test_a_block_that_is_not_summed_keeps_its_seed_unrevealed(masked: dict[str, mask.SiteRound]) -> None:
    before = masked["site-000"]
    state, _ = mask.check(before, NAMES, ("fusion",))
    labs = before.held[1][SECRET_BYTES : 2 * SECRET_BYTES]
    assert labs in before.to_bytes()
    assert labs not in state.to_bytes()


def test_a_site_keeps_no_key_of_a_mask_once_it_has_masked(honest: Shared) -> None:
    before = honest.states["site-000"]
    after = honest.mask("site-000").to_bytes()
    for secret in (before.secrets.masking_key, before.secrets.sharing_key, *before.secrets.seeds):
        assert secret in before.to_bytes()
        assert secret not in after


def test_stages_come_in_order_and_once(honest: Shared, masked: dict[str, mask.SiteRound]) -> None:
    fresh, _ = advertised()["site-000"]
    last, _ = mask.check(masked["site-000"], NAMES, ("fusion",))
    calls: dict[str, Callable[[mask.SiteRound], object]] = {
        "advertised": lambda state: mask.share(state, [], 4, CONSORTIUM.roster, 3),
        "shared": lambda state: mask.mask(state, {}, {}, {}),
        "masked": lambda state: mask.check(state, [], []),
        "checked": lambda state: mask.reveal(state, {}),
    }
    states = [fresh, honest.states["site-000"], masked["site-000"], last]
    for state in states:
        for stage, call in calls.items():
            assert (code_of(call, state) == "order") is (state.stage != stage)


def test_a_state_survives_its_byte_form_and_nothing_else_does(masked: dict[str, mask.SiteRound]) -> None:
    state = masked["site-002"]
    assert mask.SiteRound.from_bytes(state.to_bytes()) == state
    for wrong in (b"", b"junk", state.to_bytes()[:-1], state.to_bytes() + b"\0\0\0\0"):
        with pytest.raises(ValueError, match=r"bytes"):
            mask.SiteRound.from_bytes(wrong)


def test_a_printed_state_shows_no_secret(honest: Shared) -> None:
    state = honest.states["site-000"]
    assert "secrets" not in repr(state)
    assert repr(state.secrets.masking_key) not in repr(state.secrets)
    assert "private_key" not in repr(CONSORTIUM.identities["site-000"])


def test_a_sites_refusal_is_a_drop_out_for_the_others() -> None:
    def lie(stage: str, site: str, message: Message) -> Message:
        if (stage, site) != ("share", "site-002"):
            return message
        adverts, threshold = message
        return [*adverts[:-1], adverts[-1][:-1] + b"!"], threshold

    trace: Trace = secure_sum(CONSORTIUM, VECTORS, Script(to_site=lie))
    assert trace.refusals == {"site-002": ("share", "signature")}
    assert trace.sums["fusion"][1] == (*NAMES[:2], *NAMES[3:])
    np.testing.assert_array_equal(trace.sums["fusion"][0], 4 * np.arange(6, dtype=np.uint32))
