"""What privacy, masks and Flower cost, as ratios in one run: each variant alone in a process, all in turn."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass

from simulations.bench.one import OVERRIDES

_REPEATS = 3
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
    """Measure every variant, in turn, so that a machine that slows down slows all of them."""
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in OVERRIDES}
    for repeat in range(_REPEATS):
        for variant, results in found.items():
            sys.stderr.write(f"{repeat + 1} of {_REPEATS}: {variant}\n")
            command = [sys.executable, "-m", "simulations.bench.one", variant, experiment]
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            results.append(json.loads(done.stdout))
    medians = {variant: _medians(results) for variant, results in found.items()}
    seconds, memory = medians[_REFERENCE]
    return [Cost(name, one, one / seconds, peak, peak / memory) for name, (one, peak) in medians.items()]


def _medians(results: list[dict[str, float]]) -> tuple[float, float]:
    return (
        statistics.median(result["seconds_a_round"] for result in results),
        statistics.median(result["peak_megabytes"] for result in results),
    )
