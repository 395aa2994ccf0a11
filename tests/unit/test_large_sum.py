"""A large sum among honest sites and a few that cheat: exact, who is blamed, and what a site keeps after each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest

from client.neighbour_round import NeighbourRound
from client.site_round import Secrets, SiteRound
from common.large_messages import ChooseRequest, LargeCheckRequest, LargeMasked, LargeMaskRequest, LargeRevealRequest
from common.messages import Reply, Request, Revealed, pack
from common.secagg.shamir import draw_secret
from server.collect_large import collect_large
from server.link import Failure
from server.unmask import RoundAborted
from tests.large_round import BLOCKS, DEGREE, NUM_SITES, LyingCrowd, channel_of, large_sum, lying_crowd, plain_sums

VICTIM = 4
ALL = list(range(NUM_SITES))


def test_all_sites_give_the_exact_sum_of_every_block() -> None:
    crowd = lying_crowd()
    sums = large_sum(crowd)
    assert set(sums) == set(BLOCKS)
    for name, numbers in plain_sums(crowd, ALL).items():
        np.testing.assert_array_equal(sums[name][0], numbers)
        assert sums[name][1] == tuple(site.name for site in crowd.sites)


def test_what_leaves_a_site_is_not_what_it_masked() -> None:
    crowd = lying_crowd()
    large_sum(crowd)
    for node, site in enumerate(crowd.sites):
        masked = crowd.replies[node, "LargeMaskRequest"]
        assert isinstance(masked, LargeMasked)
        assert all((masked.vectors[name] != site.vectors[name]).sum() >= site.vectors[name].size - 1 for name in BLOCKS)


def test_the_graph_is_not_complete_and_every_site_draws_its_own() -> None:
    crowd = lying_crowd()
    large_sum(crowd)
    choices = {tuple(crowd.replies[node, "ChooseRequest"].places) for node in ALL}  # type: ignore[union-attr]
    assert len(choices) == NUM_SITES
    assert {len(set(chosen)) for chosen in choices} == {DEGREE}


def test_a_wrong_share_names_the_culprit_and_the_sum_is_exact_all_the_same() -> None:
    def twist_reply(node: int, reply: Reply) -> Reply:
        if node == VICTIM and isinstance(reply, Revealed):
            return Revealed(reply.shares[:-1] + bytes([reply.shares[-1] ^ 1]))
        return reply

    crowd = lying_crowd(twist_reply=twist_reply)
    channel = channel_of(crowd)
    sums = collect_large(channel, crowd.roster, crowd.k_min, crowd.promise)
    assert channel.lost == {crowd.sites[VICTIM].name: "Revealed: share"}
    for name, numbers in plain_sums(crowd, ALL).items():
        np.testing.assert_array_equal(sums[name][0], numbers)


def test_a_site_that_dealt_another_key_than_it_advertised_is_named_and_no_sum_comes_out() -> None:
    crowd = lying_crowd(silent={VICTIM: LargeMaskRequest})

    def twist(node: int, request: Request) -> Request:
        if node == VICTIM and isinstance(request, ChooseRequest):
            state = SiteRound.from_bytes(crowd.sites[VICTIM].state)
            lie = replace(state.secrets, masking_key=draw_secret())
            crowd.sites[VICTIM].state = replace(state, secrets=lie).to_bytes()
        return request

    crowd.twist = twist
    with pytest.raises(RoundAborted) as caught:
        large_sum(crowd)
    assert (caught.value.reason, caught.value.culprits) == ("dealer", (crowd.sites[VICTIM].name,))


def test_a_vector_that_is_not_as_advertised_is_left_out_and_the_rest_is_exact() -> None:
    def twist_reply(node: int, reply: Reply) -> Reply:
        if node == VICTIM and isinstance(reply, LargeMasked):
            return replace(reply, vectors={**reply.vectors, "fusion": reply.vectors["fusion"][:-1]})
        return reply

    crowd = lying_crowd(twist_reply=twist_reply)
    sums = large_sum(crowd)
    for name, numbers in plain_sums(crowd, [node for node in ALL if node != VICTIM]).items():
        np.testing.assert_array_equal(sums[name][0], numbers)


def test_a_site_keeps_only_what_the_next_stage_needs() -> None:
    states: dict[str, NeighbourRound] = {}

    crowd = lying_crowd()

    def twist(node: int, request: Request) -> Request:
        if node == VICTIM and isinstance(request, LargeMaskRequest | LargeCheckRequest | LargeRevealRequest):
            states[type(request).__name__] = NeighbourRound.from_bytes(crowd.sites[VICTIM].state)
        return request

    crowd.twist = twist
    large_sum(crowd)
    masked, checked = states["LargeCheckRequest"], states["LargeRevealRequest"]
    assert states["LargeMaskRequest"].secrets.seeds
    assert masked.secrets == Secrets(signing_key=masked.secrets.signing_key)
    assert not any(peer.tag for peer in masked.peers)
    assert (checked.secrets, checked.held, checked.dealer_tags) == (Secrets(), (), ())


def test_no_honest_reply_is_larger_than_the_server_allows() -> None:
    allowed: list[int] = []

    class Watching(LyingCrowd):
        def ask(
            self, requests: Mapping[int, Request], *, group: str, largest_bytes: int
        ) -> Iterator[tuple[int, Reply | Failure]]:
            for node, reply in super().ask(requests, group=group, largest_bytes=largest_bytes):
                if not isinstance(reply, Failure):
                    allowed.append(largest_bytes - len(pack(reply)))
                yield node, reply

    plain = lying_crowd()
    sites = [
        replace(site, vectors={f"block-{number:03d}": np.zeros(1, dtype=np.uint32) for number in range(120)})
        for site in plain.sites
    ]
    crowd = Watching(sites, plain.roster, promise=plain.promise)
    assert len(large_sum(crowd)) == 120
    assert len(allowed) == 6 * NUM_SITES
    assert min(allowed) > 0
    assert min(allowed) < 200_000  # the control: the limits are of the size of what they limit
