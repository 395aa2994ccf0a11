"""How fast secure aggregation is, each figure a ratio of two things that took turns on one core."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from common.secagg.keystream import CHUNK_BYTES, from_counter_two_by_ctr
from common.secagg.masks import WORD_BYTES, apply_masks
from server.accumulate import Accumulator
from server.unmask import close_masking
from simulations.bench import flower_sum, masked_sum

BLOCK = "model"


@dataclass(frozen=True)
class Ratio:
    """Medians in seconds; `ratio` is ours over the keystream's, and Flower's over ours."""

    ours: float
    other: float
    ratio: float


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and what it starts, on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def mask_against_keystream(length: int, peers: int, repeats: int) -> Ratio:
    """The mask loop over one vector against OpenSSL's AES-256-CTR of the same bytes into a buffer; ours over it."""
    keys = [os.urandom(32) for _ in range(peers + 1)]
    vector, zeros, target = np.zeros(length, np.uint32), bytes(CHUNK_BYTES), memoryview(bytearray(CHUNK_BYTES))

    def raw() -> None:
        for key in keys:
            stream = from_counter_two_by_ctr(key)
            for start in range(0, WORD_BYTES * length, CHUNK_BYTES):
                size = min(CHUNK_BYTES, WORD_BYTES * length - start)
                stream.update_into(memoryview(zeros)[:size], target[:size])

    half = len(keys) // 2
    ours, other = _in_turn(lambda: apply_masks(vector, plus=keys[:half], minus=keys[half:]), raw, repeats)
    return Ratio(ours, other, ours / other)


def site_against_flower(length: int, peers: int, repeats: int) -> Ratio:
    """Encoding and stage 2 of one site among its peers; Flower's over ours.

    Both sides open the shares of all peers, agree on keys with them, encode, mask, and write the reply's bytes.
    """
    vector = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    dealt = masked_sum.deal(peers + 1, {BLOCK: length + 1})
    own = dealt.routing.senders[0]

    def ours() -> None:
        dealt.mask(own, {BLOCK: masked_sum.encode(vector, peers + 1)})

    flower = flower_sum.set_up(peers + 1)
    ciphertexts = {nid: flower.share(nid)[1] for nid in flower.states if nid != 1}
    flower.share(1)
    return _faster(ours, lambda: flower.mask(1, ciphertexts, vector), repeats)


def share_against_flower(num_sites: int, blocks: int, repeats: int) -> Ratio:
    """Stage 1 of one site: ours checks all adverts and deals a secret for each block besides; Flower's over ours."""
    opened = masked_sum.open_sum(num_sites, {f"block-{number}": 1000 for number in range(blocks)})
    flower = flower_sum.set_up(num_sites)
    return _faster(lambda: opened.share(opened.view.sites[0]), lambda: flower.share(1), repeats)


def server_against_flower(length: int, num_sites: int, dropped: int, repeats: int) -> Ratio:
    """Sum and unmasking, from the replies' bytes to reals, ours with signatures and shares checked; Flower's over ours.

    Raises:
        ValueError: one of the two sums is wrong.
    """
    vector = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    ours, exact = _our_server(vector, num_sites, dropped)
    flowers = _flowers_server(vector, num_sites, dropped)
    reals, totals = ours()
    alive = num_sites - dropped
    if not np.array_equal(totals[BLOCK], exact) or not np.allclose(reals[BLOCK][:-1], alive * vector, atol=1e-3):
        raise ValueError("our sum is wrong")
    # Its quantiser's grid is 2^-18 wide, and it loses the mask bit that its generator cannot draw: 1e-3 is generous.
    if not np.allclose(flowers()[0], vector, atol=1e-3):
        raise ValueError("Flower's sum is wrong")
    return _faster(ours, flowers, repeats)


def _our_server(
    vector: np.ndarray, num_sites: int, dropped: int
) -> tuple[Callable[[], tuple[masked_sum.Vectors, masked_sum.Vectors]], np.ndarray]:
    dealt = masked_sum.deal(num_sites, {BLOCK: vector.size + 1})
    states, bodies, exact = {}, {}, np.zeros(vector.size + 1, np.uint32)
    for site in dealt.routing.senders[dropped:]:
        encoded = masked_sum.encode(vector, num_sites)
        exact += encoded
        states[site], bodies[site] = dealt.mask(site, {BLOCK: encoded})

    def accumulated() -> Accumulator:
        accumulator = Accumulator(dealt.routing)
        for site, body in bodies.items():
            masked_sum.add(accumulator, site, body)
        return accumulator

    revealed = masked_sum.settle(close_masking(accumulated()), states)
    return lambda: masked_sum.finish(accumulated(), revealed), exact


def _flowers_server(vector: np.ndarray, num_sites: int, dropped: int) -> Callable[[], list[np.ndarray]]:
    flower = flower_sum.set_up(num_sites)
    dealt = {nid: flower.share(nid) for nid in flower.states}
    dead, active = list(flower.states)[:dropped], list(flower.states)[dropped:]
    bodies = [
        flower.mask(nid, {peer: boxes[nid] for peer, boxes in dealt.items() if peer != nid}, vector) for nid in active
    ]
    revealed = [flower.reveal(nid, active, dead) for nid in active]
    shares = {nid: [held[nid] for held in revealed] for nid in flower.states}
    return lambda: flower.serve(bodies, shares, active)


def _faster(ours: Callable[[], object], other: Callable[[], object], repeats: int) -> Ratio:
    mine, others = _in_turn(ours, other, repeats)
    return Ratio(mine, others, others / mine)


def _in_turn(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Medians of both in seconds of processor time, which a busy machine disturbs least.

    They take turns. Each runs twice and the second run counts, so that neither pays for the memory and the caches that
    the other has just given back.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for found, work in zip(times, (first, second), strict=True):
            work()
            started = time.process_time()
            work()
            found.append(time.process_time() - started)
    return statistics.median(times[0]), statistics.median(times[1])
