"""What differential privacy costs a training step: every figure of `fedmosaic bench dp`, beside what others need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median

import torch

from simulations.bench.dp_models import Workload
from simulations.bench.dp_one import Measured, workload
from simulations.bench.dp_steps import VARIANTS, Found, quiet, row_by_row

# Ours against the step without privacy, as the design asks for.
TARGETS = {
    "fusion transformer": 1.25,
    "LoRA": 1.05,
    "bottleneck adapters": 1.05,
    "GroupNorm CNN": 1.5,
    "head on cached features": 3.0,
}
_AGREE = 1e-4
# functorch and Opacus have no rows in part of a layer's calls: these two are timed without them.
WHOLE, HALF = "two modalities", "two modalities, half of the rows lack one"
_MODALITY_VARIANTS = ("non-private", "ours")


@dataclass(frozen=True)
class Cell:
    """One way of a step: medians over its turns, and how far its clipped sum is from the one taken row by row."""

    cpu_seconds: float
    peak_megabytes: float
    difference: float | None


Table = dict[str, dict[str, Cell]]


def measure_dp(*, turns: int, steps: int) -> Table:
    """Measure every workload in every way, each alone in a process, in turn.

    Raises:
        ValueError: a way of a step is wrong about the clipped sum.
    """
    table: Table = {}
    for name in (*TARGETS, WHOLE, HALF):
        variants = tuple(VARIANTS) if name in TARGETS else _MODALITY_VARIANTS
        sys.stderr.write(f"{name}\n")
        differences = _differences(name, variants)
        measured: dict[str, list[Measured]] = {variant: [] for variant in variants}
        for _ in range(turns):
            for variant in variants:
                measured[variant].append(_alone(name, variant, steps))
        table[name] = {
            variant: Cell(
                median(one.cpu_seconds for one in found),
                median(one.peak_megabytes for one in found),
                differences.get(variant),
            )
            for variant, found in measured.items()
        }
    return table


def rows(table: Table) -> Iterator[tuple[str, ...]]:
    """One line a workload: the target, then each variant's processor time as a ratio, then our memory as one."""
    for name, cells in table.items():
        base = cells["non-private"]
        ratios = (_ratio(cells, variant, base) for variant in VARIANTS if variant != "non-private")
        memory = f"{cells['ours'].peak_megabytes / base.peak_megabytes:.2f}"
        target = f"<= {TARGETS[name]:g}" if name in TARGETS else ""
        yield name, target, *ratios, memory, f"{base.cpu_seconds * 1000:.2f} ms"
    if WHOLE in table:
        part = table[HALF]["ours"].cpu_seconds / table[WHOLE]["ours"].cpu_seconds
        yield "our step with half of one modality, over the whole one", "<= 0.75", f"{part:.2f}", *[""] * 5


def as_json(table: Table) -> str:
    """The table for a program: by workload, by variant."""
    plain = {name: {variant: asdict(cell) for variant, cell in cells.items()} for name, cells in table.items()}
    return json.dumps(plain, indent=1) + "\n"


def _ratio(cells: Mapping[str, Cell], variant: str, base: Cell) -> str:
    return f"{cells[variant].cpu_seconds / base.cpu_seconds:.2f}" if variant in cells else ""


def _differences(name: str, variants: tuple[str, ...]) -> dict[str, float]:
    """How far each way's clipped sum is from the one of gradients taken row by row, relative."""
    torch.set_num_threads(1)
    exact, found = row_by_row(workload(name)), {}
    for variant in variants[1:]:
        found[variant] = float((_sum(workload(name), variant) - exact).norm() / exact.norm())
        if not found[variant] <= _AGREE:
            raise ValueError(f"{name}: the clipped sum of {variant} is off by {found[variant]:.2g}")
    return found


def _sum(work: Workload, variant: str) -> torch.Tensor:
    with quiet(), VARIANTS[variant](work) as found:
        return _flat(found)


def _flat(found: Found) -> torch.Tensor:
    return torch.cat([part.detach().double().ravel() for part in found().values()])


def _alone(name: str, variant: str, steps: int) -> Measured:
    command = [sys.executable, "-m", "simulations.bench.dp_one", name, variant, str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  (our own module)
    return Measured(**json.loads(done.stdout))
