"""Run an experiment over several seeds and keep what it says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.compose import compose
from common.config import Config
from common.reports.record import RunRecord
from server.folder import RunFolder
from simulations.run import begin, run


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) over seeds."""

    mean: float
    std: float

    def __str__(self) -> str:
        """Three digits each."""
        return f"{self.mean:.3f} ± {self.std:.3f}"


def spread(values: Sequence[float]) -> Spread:
    """Summarise at least two values."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)))


def records(overrides: Iterable[str], seeds: Iterable[int]) -> Iterator[RunRecord]:
    """Run with each seed in a folder that is thrown away, and yield the records."""

    def silent(_folder: RunFolder, _config: Config) -> nullcontext[None]:
        return nullcontext()

    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="fedmosaic-bench-") as place:
            yield run(begin(compose([*overrides, f"seed={seed}"]), Path(place)), silent, pages=False)
