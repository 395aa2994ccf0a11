"""What a roster bears: a site shares nothing with too few of it, with another one, or what it could never sum."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from client.enrolment import open_ledger
from client.gate import answer
from client.policy import read_policy
from common.messages import Refusal, ShareRequest, Shares, pack
from common.secagg.identity import new_identity
from common.secagg.roster import guaranteed_honest, sign_roster
from tests.federation_run import prepare_toy
from tests.hostile_requests import film


def test_too_few_of_the_roster_are_refused_before_anything_is_shared(tmp_path: Path) -> None:
    scene = film(tmp_path)["ShareRequest"]
    request = scene.request
    assert isinstance(request, ShareRequest)
    assert isinstance(scene.play(pack(request)), Shares)
    own = (scene.site.state / "runs" / request.run / "000001-training" / "Task.entry").read_bytes()
    kept = [advert for advert in request.adverts if advert in _bytes_of(own)]
    others = [advert for advert in request.adverts if advert not in kept]
    for number in (0, 1):
        fewer = replace(request, adverts=sorted([*kept, *others[:number]]), threshold=number + 1)
        assert scene.play(pack(fewer)) == Refusal("cohort")
    three = replace(request, adverts=sorted([*kept, *others[:2]]), threshold=3)
    assert isinstance(scene.play(pack(three)), Shares)


def _bytes_of(entry: bytes) -> list[bytes]:
    """The advert in a stored reply."""
    from common.messages import Advert, unpack  # noqa: PLC0415

    reply = unpack(entry[32:])
    assert isinstance(reply, Advert)
    return [reply.advert]


def test_a_roster_that_was_pinned_anew_does_not_serve_a_run_that_was_agreed_to_before(tmp_path: Path) -> None:
    """Shares of noise are sized by the roster at the start of a round, sums are checked against it later."""
    scenes = film(tmp_path)
    keys = {f"site-{number}": new_identity().public_key for number in range(7)}
    other = sign_roster(keys, new_identity()).to_bytes()
    for stage in ("Task", "ShareRequest", "MaskRequest", "CheckRequest", "RevealRequest"):
        scene = scenes[stage]
        roster = scene.kept / "roster.bin"
        old = roster.read_bytes()
        roster.write_bytes(other)
        assert scene.play(pack(scene.request)) == Refusal("roster")
        roster.write_bytes(old)
        assert not isinstance(scene.play(pack(scene.request)), Refusal)


def test_what_a_large_roster_can_never_sum_is_refused_before_a_reservation(tmp_path: Path) -> None:
    prepared = prepare_toy(tmp_path, "data.normalisation=none", "audit.attributes=[]")
    site = prepared.sites[0]
    others = {f"hospital-{number:03d}": new_identity().public_key for number in range(100)}
    site.roster_path.write_bytes(
        sign_roster({**others, site.name: new_identity().public_key}, new_identity()).to_bytes()
    )

    def code(run: str, **secagg: object) -> str:
        config = json.loads(prepared.config.model_dump_json())
        config["secagg"] |= secagg
        reply = answer(site, lambda: replace(prepared.request, run=run, config=json.dumps(config)))
        return reply.code if isinstance(reply, Refusal) else type(reply).__name__

    assert code("quantum", post_quantum=True) == "post-quantum"
    assert code("many", k_min=guaranteed_honest(101) + 1) == "cohort"
    assert code("enough", k_min=guaranteed_honest(101)) == "Enrolled"
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        assert {entry.run for entry in ledger.entries()} == {"", prepared.folder.name, "enough"}
