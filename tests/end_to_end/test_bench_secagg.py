"""`fedmosaic bench secagg`: its JSON has every figure, and what is timed gives the right sums."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from server.accumulate import Accumulator
from server.unmask import close_masking
from simulations.bench import flower_sum, masked_sum
from simulations.bench.secagg import QUICK
from simulations.bench.secagg_size import server_megabytes
from simulations.cli import app


def _numbers(value: object) -> list[float]:
    if isinstance(value, Mapping):
        return [number for part in value.values() for number in _numbers(part)]
    assert isinstance(value, float)
    return [value]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("bench")
    before = os.sched_getaffinity(0)
    done = CliRunner().invoke(app, ["bench", "secagg", "--quick", "--json", "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    assert os.sched_getaffinity(0) == before
    said: dict[str, Any] = json.loads(done.stdout)
    assert json.loads((out / "secagg.json").read_text()) == said
    return said


@pytest.mark.slow
def test_every_figure_is_there(figures: dict[str, Any]) -> None:
    assert set(figures) == {
        *("mask_vs_keystream", "site_vs_flower", "share_vs_flower", "server_vs_flower"),
        *("wire_extra_megabytes", "server_memory", "heart_share", "ten_sites_ten_million"),
    }
    assert set(figures["site_vs_flower"]) == {str(length) for length in QUICK.parameters}
    assert set(figures["share_vs_flower"]) == {str(number) for number in QUICK.blocks}
    assert set(figures["server_memory"]) == {str(number) for number in QUICK.memory_sites}
    assert all(np.isfinite(number) for number in _numbers(figures))
    assert all(number > 0 for name, value in figures.items() if name != "heart_share" for number in _numbers(value))


def test_the_coordinators_memory_does_not_grow_with_the_sites() -> None:
    few, many = (server_megabytes(number, 200_000) for number in (4, 12))
    assert many < 1.05 * few
    assert few > 2 * 4 * 200_000 / 1e6  # the accumulator and the vector in flight at least: it does measure something


def test_what_is_measured_is_the_exact_sum_of_the_survivors() -> None:
    dealt, generator = masked_sum.deal(6, {"model": 301}), np.random.default_rng(3)
    sent = {site: masked_sum.encode(generator.normal(size=300).astype(np.float32), 6) for site in dealt.routing.senders}
    accumulator, states = Accumulator(dealt.routing), {}
    for site in dealt.routing.senders[1:]:
        states[site], body = dealt.mask(site, {"model": sent[site]})
        masked_sum.add(accumulator, site, body)
    _, totals = masked_sum.finish(accumulator, masked_sum.settle(close_masking(accumulator), states))
    survivors = [sent[site] for site in states]
    np.testing.assert_array_equal(totals["model"], np.sum(survivors, axis=0, dtype=np.uint32))
    assert not np.array_equal(totals["model"], np.sum(list(sent.values()), axis=0, dtype=np.uint32))


def test_what_flower_is_measured_at_is_the_mean_of_the_survivors() -> None:
    flower, generator = flower_sum.set_up(4), np.random.default_rng(4)
    dealt = {nid: flower.share(nid) for nid in flower.states}
    vectors = {nid: generator.uniform(-1, 1, 50).astype(np.float32) for nid in (2, 3, 4)}
    bodies = [
        flower.mask(nid, {peer: boxes[nid] for peer, boxes in dealt.items() if peer != nid}, vector)
        for nid, vector in vectors.items()
    ]
    revealed = [flower.reveal(nid, list(vectors), [1]) for nid in vectors]
    shares = {nid: [held[nid] for held in revealed] for nid in flower.states}
    (mean,) = flower.serve(bodies, shares, list(vectors))
    np.testing.assert_allclose(mean, np.mean(list(vectors.values()), axis=0), atol=1e-4)
