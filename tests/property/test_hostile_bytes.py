"""Whatever bytes a server sends at whatever stage: the protocol's own refusal, or what an honest request gets.

`failed` is the code for something that broke; no request may bring a site there. How many examples are tried is
`FEDMOSAIC_FUZZ_EXAMPLES` a stage.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.messages import Refusal, pack
from tests.hostile_requests import STAGES, Scene, changed_bytes, changed_request, encoded, film

EXAMPLES = int(os.environ.get("FEDMOSAIC_FUZZ_EXAMPLES", "60"))
FUZZ = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    return film(tmp_path_factory.mktemp("film"))


def test_the_film_has_every_stage(scenes: dict[str, Scene]) -> None:
    assert set(scenes) == set(STAGES)
    for scene in scenes.values():
        assert not isinstance(scene.play(pack(scene.request)), Refusal), scene.reason()


@pytest.mark.parametrize("stage", STAGES)
def test_changed_fields_get_an_answer_of_the_protocol(scenes: dict[str, Scene], stage: str) -> None:
    scene = scenes[stage]

    @FUZZ
    @given(data=st.data())
    def fuzz(data: st.DataObject) -> None:
        body = encoded(data.draw(changed_request(scene.request)))
        if body is None:
            return
        reply = scene.play(body)
        assert not (isinstance(reply, Refusal) and reply.code == "failed"), scene.reason()

    fuzz()


@pytest.mark.parametrize("stage", STAGES)
def test_changed_bytes_get_an_answer_of_the_protocol(scenes: dict[str, Scene], stage: str) -> None:
    scene, body = scenes[stage], pack(scenes[stage].request)

    @FUZZ
    @given(data=st.data())
    def fuzz(data: st.DataObject) -> None:
        reply = scene.play(data.draw(changed_bytes(body)))
        assert not (isinstance(reply, Refusal) and reply.code == "failed"), scene.reason()

    fuzz()
