"""A site takes part only with adverts that are whole, signed, of its roster and of the round that it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from client import mask
from common.secagg.identity import new_identity
from common.secagg.roster import sign_roster
from common.secagg.table import read_table
from common.secagg.transcript import (
    Advert,
    BlockAdvert,
    check_signature,
    read_advert,
    sign_advert,
    sign_transcript,
)
from tests.secagg_round import SESSION, consortium_of

CONSORTIUM = consortium_of(4)
LENGTHS = {"encoder/labs": 4, "fusion": 9}


def advertised(session: mask.Session = SESSION) -> dict[str, tuple[mask.SiteRound, bytes]]:
    return {
        name: mask.advertise(session, identity, LENGTHS, institution=name, k_min=3)
        for name, identity in CONSORTIUM.identities.items()
    }


ROUND = advertised()
ADVERTS = [advert for _, advert in ROUND.values()]


def refusal(adverts: list[bytes], *, threshold: int = 3, site: str = "site-000", k_min: int = 3) -> str:
    """The code with which a site refuses these adverts."""
    with pytest.raises(mask.ProtocolError) as caught:
        mask.share(ROUND[site][0], adverts, threshold, CONSORTIUM.roster, k_min)
    return caught.value.code


def test_untouched_adverts_are_accepted() -> None:
    _, boxes, _ = mask.share(ROUND["site-000"][0], ADVERTS, 3, CONSORTIUM.roster, 3)
    assert tuple(sorted(boxes)) == CONSORTIUM.names


def test_the_order_of_the_adverts_does_not_matter() -> None:
    assert read_table(ADVERTS, 3) == read_table(ADVERTS[::-1], 3)


@pytest.mark.parametrize("bit", [1, 128])
def test_every_changed_byte_of_a_peers_advert_is_refused(bit: int) -> None:
    for position in range(len(ADVERTS[2])):
        changed = bytearray(ADVERTS[2])
        changed[position] ^= bit
        assert refusal([*ADVERTS[:2], bytes(changed), ADVERTS[3]]) in {"version", "advert", "signature"}


def test_every_shortened_advert_is_refused() -> None:
    for length in range(0, len(ADVERTS[2]), 7):
        assert refusal([*ADVERTS[:2], ADVERTS[2][:length], ADVERTS[3]]) in {"version", "advert", "signature"}


CHANGES: dict[str, tuple[Callable[[Advert], Advert], str]] = {
    "run": (lambda a: replace(a, session=replace(a.session, run="run-2")), "session"),
    "round": (lambda a: replace(a, session=replace(a.session, round=4)), "session"),
    "purpose": (lambda a: replace(a, session=replace(a.session, purpose="audit")), "session"),
    "model": (lambda a: replace(a, session=replace(a.session, model_hash=b"M" * 32)), "session"),
    "plan": (lambda a: replace(a, session=replace(a.session, plan_hash=b"P" * 32)), "session"),
    "institution": (lambda a: replace(a, institution="site-009"), "roster"),
    "another's name": (lambda a: replace(a, institution="site-001"), "duplicate"),
    "length": (lambda a: replace(a, blocks=(replace(a.blocks[0], length=5), *a.blocks[1:])), "blocks"),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_an_advert_that_its_own_site_signed_wrongly_is_refused(name: str) -> None:
    change, code = CHANGES[name]
    signed = sign_advert(change(read_advert(ADVERTS[2])), CONSORTIUM.identities["site-002"])
    assert refusal([*ADVERTS[:2], signed, ADVERTS[3]]) == code


@pytest.mark.parametrize("field", ["identity_key", "signing_key", "sharing_key", "masking_key", "k_min", "blocks"])
def test_the_server_cannot_change_a_field_under_the_old_signature(field: str) -> None:
    advert, other = read_advert(ADVERTS[2]), read_advert(advertised()["site-002"][1])
    other = replace(other, identity_key=new_identity().public_key, k_min=1)
    values: dict[str, Any] = {field: getattr(other, field)}
    unsigned = sign_advert(replace(advert, **values), CONSORTIUM.identities["site-002"])[:-64]
    assert refusal([*ADVERTS[:2], unsigned + ADVERTS[2][-64:], ADVERTS[3]]) == "signature"


def test_a_stranger_is_refused() -> None:
    stranger = mask.advertise(SESSION, new_identity(), LENGTHS, institution="site-009", k_min=3)[1]
    assert refusal([*ADVERTS, stranger], threshold=4) == "roster"


def test_a_members_name_under_a_strangers_key_is_refused() -> None:
    impostor = mask.advertise(SESSION, new_identity(), LENGTHS, institution="site-002", k_min=3)[1]
    assert refusal([*ADVERTS[:2], impostor, ADVERTS[3]]) == "roster"


def test_a_site_listed_twice_is_refused() -> None:
    assert refusal([*ADVERTS, ADVERTS[2]], threshold=4) == "duplicate"


def test_a_roster_of_another_consortium_is_refused() -> None:
    keys = {name: new_identity().public_key for name in CONSORTIUM.names}
    with pytest.raises(mask.ProtocolError) as caught:
        mask.share(ROUND["site-000"][0], ADVERTS, 3, sign_roster(keys, new_identity()), 3)
    assert caught.value.code == "roster"


def test_ones_own_advert_must_come_back_as_it_was_sent() -> None:
    other = advertised()["site-000"][1]
    assert refusal([other, *ADVERTS[1:]]) == "own-advert"
    assert refusal(ADVERTS[1:]) == "own-advert"


def test_adverts_of_another_round_are_refused_even_where_they_agree() -> None:
    later = [advert for _, advert in advertised(replace(SESSION, round=4)).values()]
    assert refusal([ADVERTS[0], *later[1:]]) == "session"
    assert refusal(later) == "own-advert"


@pytest.mark.parametrize("threshold", [-1, 0, 1, 2, 5])
def test_a_threshold_below_two_thirds_or_above_all_is_refused(threshold: int) -> None:
    assert refusal(ADVERTS, threshold=threshold) == "threshold"


def test_a_higher_threshold_is_accepted() -> None:
    state, _, _ = mask.share(ROUND["site-000"][0], ADVERTS, 4, CONSORTIUM.roster, 3)
    assert state.threshold == 4


def test_too_few_sites_are_refused() -> None:
    assert refusal(ADVERTS[:2], threshold=2) == "cohort"


def test_a_minimum_that_grew_after_the_advert_is_refused() -> None:
    """The others know only the advertised one, and would not respect the new one."""
    assert refusal(ADVERTS, k_min=4) == "k-min"


def test_an_advert_of_a_later_version_is_refused() -> None:
    assert refusal([*ADVERTS[:3], b"\x03" + ADVERTS[3][1:]]) == "version"


@pytest.mark.parametrize(
    "blocks",
    [(), (BlockAdvert("fusion", 0, b"c" * 32),), (BlockAdvert("", 3, b"c" * 32),), (BlockAdvert("f", 3, b"c"),)],
)
def test_a_site_cannot_advertise_nonsense(blocks: tuple[BlockAdvert, ...]) -> None:
    advert = replace(read_advert(ADVERTS[0]), blocks=blocks)
    with pytest.raises((mask.ProtocolError, ValueError)):
        sign_advert(advert, CONSORTIUM.identities["site-000"])


def test_a_site_without_blocks_or_with_nonsense_names_does_not_advertise() -> None:
    identity = CONSORTIUM.identities["site-000"]
    for lengths, institution, k_min in (({}, "a", 3), ({"": 3}, "a", 3), ({"f": 3}, "", 3), ({"f": 3}, "a", 0)):
        with pytest.raises(mask.ProtocolError) as caught:
            mask.advertise(SESSION, identity, lengths, institution=institution, k_min=k_min)
        assert caught.value.code == "advert"


def test_a_signature_of_one_stage_is_none_of_another() -> None:
    signer, digest = new_identity(), b"d" * 32
    signature = sign_transcript(signer, b"T1", digest)
    check_signature(signer.public_key, b"T1", digest, signature)
    with pytest.raises(mask.ProtocolError) as caught:
        check_signature(signer.public_key, b"T3", digest, signature)
    assert caught.value.code == "signature"
