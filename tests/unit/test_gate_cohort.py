"""With too few of the roster a site shares nothing, also where the adverts themselves are sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from common.messages import Refusal, ShareRequest, Shares, pack
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
