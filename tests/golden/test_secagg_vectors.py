"""The published rounds replay byte for byte: the protocol that this release speaks is the one that was published."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from client import mask
from client.boxes import open_box
from common.secagg.identity import Identity
from common.secagg.roster import Roster
from common.secagg.table import check_member, read_table
from common.secagg.transcript import read_advert, sign_advert, sign_transcript
from server.accumulate import Accumulator
from server.unmask import close_masking, collect_agreement, open_round, route_shares, unmask
from tests.secagg_vectors import FILES, FOLDER, GONE, plain, secrets_of, unhex


@pytest.fixture(params=sorted(FILES))
def published(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(json.loads((FOLDER / request.param).read_text()))


def shared_state(published: dict[str, Any], site: str) -> mask.SiteRound:
    """A site after stage 1, from what was recorded."""
    adverts, threshold = published["messages"]["share"][site]["asked"]
    entry = published["sites"][site]
    return mask.SiteRound(
        "shared",
        bytes.fromhex(entry["advert"]),
        secrets_of(entry["secrets"]),
        adverts=tuple(bytes.fromhex(raw) for raw in adverts),
        threshold=threshold,
    )


def vectors_of(entry: dict[str, list[int]]) -> dict[str, np.ndarray]:
    return {block: np.array(numbers, dtype=np.uint32) for block, numbers in entry.items()}


def test_published_adverts_are_what_their_sites_would_sign_today(published: dict[str, Any]) -> None:
    roster = Roster.from_bytes(bytes.fromhex(published["roster"]))
    for entry in published["sites"].values():
        advert = read_advert(bytes.fromhex(entry["advert"]))
        check_member(advert, roster)
        assert sign_advert(advert, Identity(bytes.fromhex(entry["identity_key"]))).hex() == entry["advert"]
        assert advert.signing_key == Identity(secrets_of(entry["secrets"]).signing_key).public_key


def test_published_boxes_open_to_shares_and_transcripts_are_signed_alike(published: dict[str, Any]) -> None:
    for site, message in published["messages"]["share"].items():
        state = shared_state(published, site)
        assert state.table.transcript.hex() == published["t1"]
        signature = sign_transcript(Identity(state.secrets.signing_key), b"T1", state.table.transcript)
        assert signature.hex() == message["answered"][1]
        for dealer, other in published["messages"]["share"].items():
            box = bytes.fromhex(other["answered"][0][site])
            assert open_box(state.secrets, state.table.edge(dealer, site), box)


def test_published_vectors_are_masked_checked_and_revealed_to_the_same_bytes(published: dict[str, Any]) -> None:
    messages = published["messages"]
    for site in sorted(set(published["sites"]) - {GONE}):
        state, (boxes, signatures) = shared_state(published, site), messages["mask"][site]["asked"]
        state, masked = mask.mask(
            state, unhex(boxes), unhex(signatures), vectors_of(published["sites"][site]["vectors"])
        )
        assert plain(masked) == messages["mask"][site]["answered"][0]
        state, signature = mask.check(state, *messages["check"][site]["asked"])
        assert signature.hex() == messages["check"][site]["answered"][0]
        (agreed,) = messages["reveal"][site]["asked"]
        assert mask.reveal(state, unhex(agreed)).hex() == messages["reveal"][site]["answered"][0]


def test_a_coordinator_gets_the_published_sums_from_the_published_messages(published: dict[str, Any]) -> None:
    messages, roster = published["messages"], Roster.from_bytes(bytes.fromhex(published["roster"]))
    view = open_round(unhex({name: entry["advert"] for name, entry in published["sites"].items()}), roster, 3)
    boxes = {site: unhex(message["answered"][0]) for site, message in messages["share"].items()}
    signed = {site: bytes.fromhex(message["answered"][1]) for site, message in messages["share"].items()}
    accumulator = Accumulator(route_shares(view, boxes, signed))
    for site, message in messages["mask"].items():
        assert accumulator.add(site, vectors_of(message["answered"][0]))
    survivors = close_masking(accumulator)
    assert survivors.digest.hex() == published["t3"]
    checked = {site: bytes.fromhex(message["answered"][0]) for site, message in messages["check"].items()}
    assert set(collect_agreement(survivors, checked)) == set(survivors.sites)
    revealed = {site: bytes.fromhex(message["answered"][0]) for site, message in messages["reveal"].items()}
    sums = unmask(survivors, accumulator, revealed)
    expected = {block: (entry["total"], tuple(entry["sites"])) for block, entry in published["sums"].items()}
    assert {block: (total.tolist(), sites) for block, (total, sites) in sums.items()} == expected
    for block, (total, sites) in expected.items():
        columns = zip(*(published["sites"][site]["vectors"][block] for site in sites), strict=True)
        assert total == [sum(column) % 2**32 for column in columns]


def test_the_two_files_are_of_the_two_versions() -> None:
    for name, post_quantum in FILES.items():
        published = json.loads((FOLDER / name).read_text())
        raws = [bytes.fromhex(entry["advert"]) for entry in published["sites"].values()]
        assert {advert.session.post_quantum for advert in read_table(raws, 3).adverts} == {post_quantum}
