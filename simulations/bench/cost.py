"""What privacy, masks and Flower cost, as ratios in one run: each variant alone in a process, all in turn."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from simulations.bench.one import OVERRIDES

_REFERENCE = "bare loop"


@dataclass(frozen=True)
class Cost:
    """One variant: medians over the repeats, and ratios to the bare loop."""

    name: str
    seconds_a_round: float
    time_ratio: float
    peak_megabytes: float
    memory_ratio: float


def measure_cost(experiment: str) -> list[Cost]:
    """Measure every variant."""
    medians = measure_variants(tuple(OVERRIDES), experiment)
    seconds, memory = medians[_REFERENCE]
    return [Cost(name, one, one / seconds, peak, peak / memory) for name, (one, peak) in medians.items()]


def measure_variants(
    variants: Sequence[str], experiment: str, *, rounds: int = 20, repeats: int = 3
) -> dict[str, tuple[float, float]]:
    """Give each variant's seconds a round and peak in MB: in turn, so that a machine that slows down slows all."""
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for repeat in range(repeats):
        for variant, results in found.items():
            sys.stderr.write(f"{repeat + 1} of {repeats}: {variant}\n")
            command = [sys.executable, "-m", "simulations.bench.one", variant, experiment, str(rounds)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            results.append(json.loads(done.stdout))
    return {variant: _medians(results) for variant, results in found.items()}


def _medians(results: list[dict[str, float]]) -> tuple[float, float]:
    return (
        statistics.median(result["seconds_a_round"] for result in results),
        statistics.median(result["peak_megabytes"] for result in results),
    )
