"""Whatever a server sends at a stage of a large sum: an answer or a refusal of the protocol, never something broken."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.neighbour_round import NeighbourRound
from common.messages import Refusal, Request, unpack
from simulations.bench.crowd import STAGES
from tests.hostile_requests import changed_request, encoded
from tests.large_round import LyingCrowd, large_sum, lying_crowd

VICTIM = 4
LARGE = STAGES[1:]


@pytest.fixture(scope="module")
def film() -> tuple[LyingCrowd, dict[str, tuple[bytes, Request]]]:
    """A crowd, and one site's state right before each of its stages, with the honest request."""
    crowd = lying_crowd()
    scenes: dict[str, tuple[bytes, Request]] = {}

    def keep(node: int, request: Request) -> Request:
        if node == VICTIM:
            scenes[type(request).__name__] = (crowd.sites[VICTIM].state, request)
        return request

    crowd.twist = keep
    large_sum(crowd)
    return crowd, scenes


@pytest.mark.parametrize("kind", LARGE)
def test_changed_fields_of_a_large_sum_get_an_answer_of_the_protocol(
    film: tuple[LyingCrowd, dict[str, tuple[bytes, Request]]], kind: type
) -> None:
    crowd, scenes = film
    site, (state, honest) = crowd.sites[VICTIM], scenes[kind.__name__]
    site.state = state
    assert not isinstance(crowd.answer(site, honest), Refusal)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def fuzz(data: st.DataObject) -> None:
        body = encoded(data.draw(changed_request(honest)))
        if body is None:
            return
        site.state = state
        try:
            request = unpack(body)
        except ValueError:
            return  # the gate refuses it before anything reads it
        crowd.answer(site, request)  # type: ignore[arg-type]  # raises where something broke that is no refusal

    fuzz()


def test_a_state_comes_back_from_its_bytes_and_says_no_secret(
    film: tuple[LyingCrowd, dict[str, tuple[bytes, Request]]],
) -> None:
    _, scenes = film
    for kind in LARGE[1:]:
        body = scenes[kind.__name__][0]
        state = NeighbourRound.from_bytes(body)
        assert state.to_bytes() == body
        secrets = (state.secrets.masking_key, state.secrets.sharing_key, state.answer, *state.held, *state.dealer_tags)
        assert not any(repr(secret) in repr(state) for secret in secrets if secret)
        with pytest.raises(ValueError, match=r"no state of a large sum|end within a field"):
            NeighbourRound.from_bytes(body[:-1] if state.answer else b"x" + body)
