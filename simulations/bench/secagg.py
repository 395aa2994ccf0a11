"""What secure aggregation costs: every figure of `fedmosaic bench secagg`, its target, and how it is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from simulations.bench.secagg_size import LargeSum, extra_megabytes, heart_share, large_sum, server_megabytes
from simulations.bench.secagg_speed import (
    Ratio,
    mask_against_keystream,
    one_core,
    server_against_flower,
    share_against_flower,
    site_against_flower,
)


@dataclass(frozen=True)
class Sizes:
    """How large everything is; `QUICK` shows that it works, and its figures mean nothing."""

    parameters: tuple[int, int] = (1_000_000, 10_000_000)
    peers: int = 10
    dealing_sites: int = 50
    blocks: tuple[int, ...] = (1, 5)
    server_sites: int = 20
    dropped: int = 6
    wire_sites: tuple[int, ...] = (10, 50)
    memory_sites: tuple[int, ...] = (5, 20, 50)
    large_sites: int = 10
    repeats: int = 7
    rounds: int = 20
    runs: int = 3


QUICK = Sizes(
    parameters=(2_000, 20_000),
    peers=3,
    dealing_sites=4,
    server_sites=6,
    dropped=1,
    wire_sites=(4,),
    memory_sites=(4, 6),
    large_sites=3,
    repeats=1,
    rounds=1,
    runs=1,
)


@dataclass(frozen=True)
class Figures:
    """All figures, by the names that the JSON has. Keys of the dicts: parameters, blocks, or sites."""

    mask_vs_keystream: Ratio
    site_vs_flower: dict[str, Ratio]
    share_vs_flower: dict[str, Ratio]
    server_vs_flower: Ratio
    wire_extra_megabytes: dict[str, float]
    server_memory: dict[str, float]
    heart_share: float
    ten_sites_ten_million: LargeSum


def measure_secagg(sizes: Sizes) -> Figures:
    """Measure everything, on one core.

    Raises:
        ValueError: a sum is not what it must be.
    """
    small, large = sizes.parameters
    with one_core():
        _say("the mask loop")
        masks = mask_against_keystream(small, sizes.peers, sizes.repeats)
        _say("a site against Flower's")
        sites = {str(length): site_against_flower(length, sizes.peers, sizes.repeats) for length in sizes.parameters}
        _say("dealing shares against Flower's")
        shares = {
            str(number): share_against_flower(sizes.dealing_sites, number, sizes.repeats) for number in sizes.blocks
        }
        _say("the server against Flower's")
        server = server_against_flower(small, sizes.server_sites, sizes.dropped, sizes.repeats)
        _say("bytes and memory")
        wire = {str(number): extra_megabytes(number, max(sizes.blocks)) for number in sizes.wire_sites}
        memory = {str(number): server_megabytes(number, small) for number in sizes.memory_sites}
        _say("a long vector")
        long = large_sum(sizes.large_sites, large)
        _say("whole rounds of heart")
        heart = heart_share(sizes.rounds, sizes.runs)
    return Figures(masks, sites, shares, server, wire, memory, heart, long)


def rows(figures: Figures, sizes: Sizes) -> Iterator[tuple[str, str, str]]:
    """What, target and measured, for a table."""
    yield "mask loop over the raw AES-256-CTR keystream of as many bytes", "<= 1.6", _times(figures.mask_vs_keystream)
    for length, ratio in figures.site_vs_flower.items():
        what = f"encoding and masking, {sizes.peers} peers, {int(length):,} parameters, Flower's over ours"
        yield what, ">= 6", _times(ratio)
    for number, ratio in figures.share_vs_flower.items():
        what = f"dealing shares, {sizes.dealing_sites} sites, blocks: {number}, Flower's over ours"
        yield what, ">= 20", _times(ratio)
    dropped = f"{sizes.server_sites} sites, {sizes.dropped} dropped, {sizes.parameters[0]:,} parameters"
    yield f"sum and unmasking, {dropped}, Flower's over ours", ">= 20", _times(figures.server_vs_flower)
    for number, megabytes in figures.wire_extra_megabytes.items():
        what = f"one site and round beyond 4 bytes a parameter, {number} sites, {max(sizes.blocks)} blocks"
        yield what, "<= 0.15 MB", f"{megabytes:.3f} MB"
    memory = ", ".join(f"{megabytes:.1f} MB ({number})" for number, megabytes in figures.server_memory.items())
    yield f"server's peak, {sizes.parameters[0]:,} parameters (sites)", "the same for all", memory
    yield "part of a round of heart, 4 sites after one another", "", f"{figures.heart_share:.0%}"
    long = figures.ten_sites_ten_million
    each = f"{long.site_seconds:.2f} s a site, {long.server_seconds:.2f} s at the server"
    what = f"{sizes.large_sites} sites, {sizes.parameters[1]:,} parameters, all stages"
    yield what, "", f"{long.seconds:.2f} s: {each}; in clear {long.plain_seconds:.2f} s"
    yield "the same, as a part of a round of ten steps of SGD", "", f"{long.share:.0%}"


def _times(ratio: Ratio) -> str:
    return f"{ratio.ratio:.2f} (ours {ratio.ours * 1000:.2f} ms, {ratio.other * 1000:.2f} ms)"


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")
