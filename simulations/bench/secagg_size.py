"""What secure aggregation adds to the wire, what the coordinator holds in memory, and what is left of a round."""

from __future__ import annotations

import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from common.messages import (
    Advert,
    Checked,
    CheckRequest,
    MaskRequest,
    Plain,
    Reply,
    Request,
    Revealed,
    RevealRequest,
    ShareRequest,
    Shares,
    pack,
    unpack,
)
from server.accumulate import Accumulator
from server.unmask import close_masking
from simulations.bench import masked_sum
from simulations.bench.cost import measure_variants

_MEGABYTE = 1e6
_BLOCK = "model"
_BATCH, _STEPS = 32, 10


@dataclass(frozen=True)
class LargeSum:
    """Seconds of processor time of one secure sum, all sites after one another, and of what stands beside it.

    `plain_seconds` sends and adds the same vectors in clear, as float64. `training_seconds` is what ten steps of plain
    SGD, 32 records each, through one layer of as many weights take at all sites; `share` is of the two together.
    """

    seconds: float
    site_seconds: float
    server_seconds: float
    plain_seconds: float
    training_seconds: float
    share: float


def extra_megabytes(num_sites: int, blocks: int) -> float:
    """All messages of one site and round, both ways, less 4 bytes a parameter; the model itself is not among them."""
    vectors = {f"block-{number}": np.zeros(2, np.uint32) for number in range(blocks)}
    opened = masked_sum.open_sum(num_sites, {name: vector.size for name, vector in vectors.items()})
    shares = {site: opened.share(site) for site in opened.view.sites}
    dealt = opened.route(shares)
    masked = {site: dealt.mask(site, vectors) for site in shares}
    accumulator = Accumulator(dealt.routing)
    for site, (_, body) in masked.items():
        masked_sum.add(accumulator, site, body)
    survivors = close_masking(accumulator)
    revealed = masked_sum.settle(survivors, {site: state for site, (state, _) in masked.items()})
    own, sites = opened.view.sites[0], list(opened.view.sites)
    where = (masked_sum.SESSION.run, masked_sum.SESSION.round, masked_sum.SESSION.purpose)
    _, boxes, signature = shares[own]
    inbox, signatures = dealt.routing.inbox[own], dealt.routing.signatures
    messages: list[Request | Reply] = [
        Advert(opened.states[own].advert),
        ShareRequest(*where, opened.view.threshold, list(opened.view.adverts)),
        Shares(list(boxes), list(boxes.values()), signature),
        MaskRequest(*where, list(inbox), list(inbox.values()), list(signatures), list(signatures.values())),
        CheckRequest(*where, sites, list(survivors.blocks)),
        Checked(revealed.signatures[own]),
        RevealRequest(*where, list(revealed.agreed), list(revealed.agreed.values())),
        Revealed(revealed.shares[own]),
    ]
    parameters = sum(vector.size - 1 for vector in vectors.values())
    return (sum(len(pack(message)) for message in messages) + len(masked[own][1]) - 4 * parameters) / _MEGABYTE


def server_megabytes(num_sites: int, length: int) -> float:
    """The peak of what the coordinator allocates from the first vector that arrives to the sum as reals.

    The sites' masked vectors wait in files, so that nothing of theirs is in this figure.
    """
    dealt = masked_sum.deal(num_sites, {_BLOCK: length + 1})
    encoded = masked_sum.encode(np.zeros(length, np.float32), num_sites)
    states = {}
    with TemporaryDirectory(prefix="fedmosaic-bench-") as place:
        for site in dealt.routing.senders:
            states[site], body = dealt.mask(site, {_BLOCK: encoded})
            (Path(place) / site).write_bytes(body)
        del body
        tracemalloc.start()
        accumulator = Accumulator(dealt.routing)
        for site in dealt.routing.senders:
            masked_sum.add(accumulator, site, (Path(place) / site).read_bytes())
        held, adding = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    revealed = masked_sum.settle(close_masking(accumulator), states)
    tracemalloc.start()
    masked_sum.finish(accumulator, revealed)
    _, finishing = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return max(adding, held + finishing) / _MEGABYTE


def heart_share(rounds: int, repeats: int) -> float:
    """The part of a round's wall time that secure aggregation takes: four hospitals, one process, one core."""
    whole, without = "whole", "without secure aggregation"
    medians = measure_variants((whole, without), "heart", rounds=rounds, repeats=repeats)
    return 1 - medians[without][0] / medians[whole][0]


def large_sum(num_sites: int, length: int) -> LargeSum:
    """One secure sum of long vectors, every stage of every site and of the coordinator, and the same sum in clear.

    Raises:
        ValueError: the secure sum is not the plain one.
    """
    vector = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    spent: dict[str, float] = defaultdict(float)
    with _counted(spent, "sites"):
        dealt = masked_sum.deal(num_sites, {_BLOCK: length + 1})
    accumulator, exact, states = Accumulator(dealt.routing), np.zeros(length + 1, np.uint32), {}
    for site in dealt.routing.senders:
        with _counted(spent, "sites"):
            encoded = masked_sum.encode(vector, num_sites)
            states[site], body = dealt.mask(site, {_BLOCK: encoded})
        with _counted(spent, "server"):
            masked_sum.add(accumulator, site, body)
        exact += encoded
    with _counted(spent, "sites"):
        revealed = masked_sum.settle(close_masking(accumulator), states)
    with _counted(spent, "server"):
        _, totals = masked_sum.finish(accumulator, revealed)
    if not np.array_equal(totals[_BLOCK], exact):
        raise ValueError("the secure sum is not the plain one")
    seconds = spent["sites"] + spent["server"]
    training = num_sites * _STEPS * _step_seconds(length)
    plain = num_sites * _plain_seconds(vector)
    return LargeSum(
        seconds, spent["sites"] / num_sites, spent["server"], plain, training, seconds / (seconds + training)
    )


def _plain_seconds(vector: np.ndarray) -> float:
    """One site's vector in clear, from the update to the sum."""
    spent: dict[str, float] = defaultdict(float)
    total = np.zeros(vector.size + 1)
    with _counted(spent, "plain"):
        reply = unpack(pack(Plain("site-000", {_BLOCK: np.append(vector.astype(np.float64), 1.0)})))
        if isinstance(reply, Plain):
            np.add(total, reply.vectors[_BLOCK], out=total)
    return spent["plain"]


def _step_seconds(length: int) -> float:
    spent: dict[str, float] = defaultdict(float)
    threads, width = torch.get_num_threads(), round(length**0.5)
    torch.set_num_threads(1)
    layer, records = torch.nn.Linear(width, width, bias=False), torch.ones(_BATCH, width)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for name in ("first", "second"):  # the first makes the memory ready
        with _counted(spent, name):
            optimizer.zero_grad()
            layer(records).square().mean().backward()
            optimizer.step()
    torch.set_num_threads(threads)
    return spent["second"]


@contextmanager
def _counted(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the processor time of what is inside, in seconds."""
    started = time.process_time()
    yield
    spent[name] += time.process_time() - started
