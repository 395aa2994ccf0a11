"""Variants of one experiment beside each other, over several seeds: modalities, fusion, missing, privacy.

Runs are independent, and go through as many processes as the machine has cores, one thread each.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from common.compose import compose
from common.models.fusion import POLICIES
from simulations.bench.runs import Spread, records, spread
from simulations.federation import prepare

MISSING = (0.0, 0.1, 0.3, 0.5)
EPSILONS = (8.0, 3.0, 1.0)


@dataclass(frozen=True)
class Variant:
    """A row of a table: what it is called, and what it changes."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What the runs of one variant measured, exactly, on all sites' held-out records.

    Attributes:
        figures: by metric, mean and standard deviation over the seeds.
        epsilon: the dearest subject's, after the dearest run; None: no privacy.
        step: what a single step was charged with, and what the sites' canaries showed of one (mean of 95 % bounds), as
            epsilon; None: no privacy.
        parameters: trained by all sites together.
        seconds: mean length of a run's rounds.
    """

    name: str
    overrides: tuple[str, ...]
    seeds: int
    figures: dict[str, Spread]
    epsilon: float | None
    step: tuple[float, float] | None
    parameters: int
    seconds: float


@dataclass(frozen=True)
class _Run:
    figures: dict[str, float]
    epsilon: float | None
    steps: tuple[tuple[float, float], ...]
    parameters: int
    seconds: float


def variants_of(table: str, modalities: Sequence[str]) -> tuple[Variant, ...]:
    """The rows of a table, of an experiment with these modalities."""
    private = (Variant(f"epsilon {one:g}", ("privacy=subject", f"privacy.epsilon={one:g}")) for one in EPSILONS)
    tables = {
        "modalities": (
            Variant("all", ()),
            *(Variant(f"{name} alone", (f"data.modalities=[{name}]",)) for name in modalities),
        ),
        "fusion": tuple(Variant(policy, (f"fusion={policy}",)) for policy in POLICIES),
        "missing": tuple(Variant(f"{chance:.0%} missing", (f"data.missing={chance}",)) for chance in MISSING),
        "privacy": (Variant("no privacy", ("privacy=none",)), *private),
    }
    return tables[table]


def modalities_of(base: Sequence[str]) -> tuple[str, ...]:
    """The modalities of an experiment's folders."""
    with tempfile.TemporaryDirectory(prefix="fedmosaic-bench-") as place:
        folder = Path(place)
        return tuple(prepare(compose(base), folder, folder).schema.modalities)


def measure(base: Sequence[str], variants: Sequence[Variant], seeds: Sequence[int]) -> Iterator[Row]:
    """Run every variant with every seed, and give the rows in order.

    Args:
        base: overrides of all runs, the experiment first.
        variants: what differs.
        seeds: two or more.
    """
    jobs = [(tuple(base), variant.overrides, seed) for variant in variants for seed in seeds]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), initializer=_alone) as pool:
        found = pool.map(_measure_one, jobs)
        for variant in variants:
            yield _row(variant, [next(found) for _ in seeds])


def _alone() -> None:
    """One thread a process: two processes with two threads each were seen to take seven times as long on two cores."""
    import torch  # noqa: PLC0415  (in the worker only)

    torch.set_num_threads(1)


def _measure_one(job: tuple[tuple[str, ...], tuple[str, ...], int]) -> _Run:
    base, changes, seed = job
    record = next(records([*base, *changes], [seed]))
    test, paid = record.test, [cohort.pld for site in record.sites for cohort in site.cohorts if cohort.pld is not None]
    if test is None:
        raise ValueError("a simulated run measures its model")
    named = {"accuracy": test.pooled_accuracy, "auroc": test.auroc, **test.figures}
    return _Run(
        {name: value for name, value in named.items() if value is not None},
        max(paid, default=None),
        tuple((tried.claimed_epsilon, tried.lower_epsilon) for site in record.sites if (tried := site.certificate)),
        sum(block.num_parameters for block in record.blocks),
        record.seconds,
    )


def _row(variant: Variant, runs: Sequence[_Run]) -> Row:
    steps = [step for run in runs for step in run.steps]
    names = [name for name in runs[0].figures if all(name in run.figures for run in runs)]
    return Row(
        variant.name,
        variant.overrides,
        len(runs),
        {name: spread([run.figures[name] for run in runs]) for name in names},
        max((run.epsilon for run in runs if run.epsilon is not None), default=None),
        (max(claimed for claimed, _ in steps), sum(shown for _, shown in steps) / len(steps)) if steps else None,
        runs[0].parameters,
        sum(run.seconds for run in runs) / len(runs),
    )
