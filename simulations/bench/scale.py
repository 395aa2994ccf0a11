"""One secure sum over a thousand sites with drop-outs: is it exact, what does it cost, what is left to chance?"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

import numpy as np

from common.messages import Task
from common.secagg.graph import STANDARD, Bound, bound_of, choose_shape
from server.channel import Channel
from server.collect_large import collect_large
from simulations.bench.crowd import STAGES, Crowd, crowd_of

SIZES = (101, 300, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class GraphSize:
    """The graph among so many sites, and the logarithms, base 2, of what is left to chance; None: it cannot happen."""

    num_sites: int
    degree: int
    threshold: int
    secrets_log2: float | None
    split_log2: float | None
    silence_log2: float | None


@dataclass(frozen=True)
class Scale:
    """One sum, measured in a process that plays all sites and the server one after the other.

    `seconds` is by the clock on the wall; what a site and the server take is the processor's time, so that a machine
    that is busy with something else does not show. All but the bounds and `exact` is what this machine made of it.
    """

    sites: int
    parameters: int
    silent_sites: int
    summed_sites: int
    degree: int
    threshold: int
    secrets_log2: float | None
    split_log2: float | None
    silence_log2: float | None
    seconds: float
    cpu_milliseconds_a_site: float
    cpu_seconds_of_server: float
    bytes_from_a_site: float
    bytes_to_a_site: float
    most_bytes_of_a_site: int
    server_bytes: int
    exact: bool


def shapes() -> tuple[GraphSize, ...]:
    """The graphs that the standard promise asks for, where the whole roster takes part."""
    found = []
    for size in SIZES:
        shape, colluders = choose_shape(size, size), STANDARD.num_colluders(size)
        bound = bound_of(shape, colluders, math.floor(STANDARD.drop_outs * size))
        found.append(GraphSize(size, shape.degree, shape.threshold, *_chances(bound)))
    return tuple(found)


def measure_scale(num_sites: int = 1_000, num_parameters: int = 10_000, seed: int = 0) -> Scale:
    """Make one sum in which a tenth of the sites falls silent, each at a stage of its own.

    Raises:
        RoundAborted: so many neighbours of one site fell silent that the round had to stop.
        ValueError: the sum is not the exact one.
    """
    crowd = _crowd(num_sites, num_parameters, seed)
    channel = Channel(crowd, {site.name: node for node, site in enumerate(crowd.sites)}, Task("scale", 1, "training"))
    started, began = time.perf_counter(), time.process_time()
    total, names = collect_large(channel, crowd.roster, crowd.k_min)["fusion"]
    seconds, busy = time.perf_counter() - started, time.process_time() - began
    summed = set(names)
    expected = np.sum([site.vectors["fusion"] for site in crowd.sites if site.name in summed], axis=0, dtype=np.uint32)
    if not np.array_equal(total, expected):
        raise ValueError("the sum is not exact")
    present = num_sites - sum(stage is Task for stage in crowd.silent.values())
    shape = choose_shape(present, num_sites)
    bound = bound_of(shape, STANDARD.num_colluders(num_sites), math.floor(STANDARD.drop_outs * present))
    return Scale(
        *(num_sites, num_parameters, len(crowd.silent), len(names), shape.degree, shape.threshold),
        *_chances(bound),
        *(seconds, 1000 * crowd.seconds / num_sites, busy - crowd.seconds - crowd.packing_seconds),
        *(sum(crowd.sent.values()) / num_sites, sum(crowd.received.values()) / num_sites),
        most_bytes_of_a_site=max(crowd.sent.get(node, 0) + crowd.received.get(node, 0) for node in crowd.nodes()),
        server_bytes=sum(crowd.sent.values()) + sum(crowd.received.values()),
        exact=True,
    )


def _chances(bound: Bound) -> tuple[float | None, float | None, float | None]:
    secrets, split, silence = (
        figure if math.isfinite(figure) else None for figure in (bound.secrets, bound.split, bound.silence)
    )
    return secrets, split, silence


def _crowd(num_sites: int, num_parameters: int, seed: int) -> Crowd:
    rng, chance = np.random.default_rng(seed), random.Random(seed)  # noqa: S311  (which sites fall silent is no secret)
    vectors = [{"fusion": rng.integers(0, 2**32, num_parameters, dtype=np.uint32)} for _ in range(num_sites)]
    silent = {node: chance.choice(STAGES) for node in chance.sample(range(num_sites), num_sites // 10)}
    return crowd_of(vectors, silent=silent)
