"""Quality over the true epsilon: the table and the picture of the README."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.files import PUBLIC, write_whole
from common.reports.record import RunRecord
from simulations.bench.runs import Spread, records, spread

SEEDS = range(5)
EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
# FLamby, figure 3 and its result files: mean of the four sites' accuracies; the claimed epsilon is not the true one.
PUBLISHED_CLAIMED = {0.1: 0.606, 1.0: 0.685, 5.0: 0.704, 10.0: 0.700}
PUBLISHED_NO_DP = 0.712


@dataclass(frozen=True)
class Point:
    """One row of the table; epsilon None is no privacy."""

    epsilon: float | None
    normalisation: str
    pooled_accuracy: Spread
    site_mean_accuracy: Spread
    auroc: Spread
    true_epsilon: float | None
    conditions: dict[str, Spread]


def measure(experiment: str, epsilons: Sequence[float]) -> Iterator[Point]:
    """Run the curve, a row at a time."""
    for epsilon in epsilons:
        found = list(records([f"experiment={experiment}", f"privacy.epsilon={epsilon}"], SEEDS))
        yield _point(epsilon, "federated", found)
    yield _point(None, "federated", list(records([f"experiment={experiment}", "privacy=none"], SEEDS)))
    overrides = [f"experiment={experiment}", "privacy=none", "data.normalisation=site"]
    yield _point(None, "site", list(records(overrides, SEEDS)))


def write_curve(points: list[Point], experiment: str, folder: Path) -> tuple[Path, Path]:
    """Write the points as JSON and the picture as SVG."""
    body = json.dumps([asdict(point) for point in points], indent=1) + "\n"
    data = write_whole(folder / f"{experiment}-curve.json", body, mode=PUBLIC)
    return data, write_whole(folder / f"{experiment}-curve.svg", _picture(points, experiment), mode=PUBLIC)


def _point(epsilon: float | None, normalisation: str, found: list[RunRecord]) -> Point:
    tests = [record.test for record in found if record.test is not None]
    cohorts = [cohort for record in found for site in record.sites for cohort in site.cohorts]
    paid = [cohort.pld for cohort in cohorts if cohort.pld is not None]
    return Point(
        epsilon,
        normalisation,
        spread([test.pooled_accuracy or 0.0 for test in tests]),
        spread([test.site_mean_accuracy or 0.0 for test in tests]),
        spread([test.auroc or 0.0 for test in tests]),
        max(paid) if paid else None,
        {name: spread([test.conditions[name].auroc or 0.0 for test in tests]) for name in tests[0].conditions},
    )


def _picture(points: list[Point], experiment: str) -> str:
    from matplotlib.figure import Figure  # noqa: PLC0415  (1 s: only where something is drawn)

    private = [point for point in points if point.epsilon is not None]
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    places = [point.epsilon or 0.0 for point in private]
    for name, colour, key in (
        ("mean of the sites' accuracies", "#1f5f8b", "site_mean_accuracy"),
        ("pooled accuracy", "#b4532a", "pooled_accuracy"),
    ):
        spreads: list[Spread] = [getattr(point, key) for point in private]
        errors = [item.std for item in spreads]
        means = [item.mean for item in spreads]
        axes.errorbar(places, means, yerr=errors, marker="o", color=colour, capsize=3, label=name)
        free = next(point for point in points if point.epsilon is None and point.normalisation == "federated")
        axes.axhline(getattr(free, key).mean, color=colour, linestyle=":", linewidth=1)
    if experiment == "heart_flamby":
        claimed = [epsilon for epsilon in PUBLISHED_CLAIMED if min(places) <= epsilon <= max(places) * 1.3]
        published = [PUBLISHED_CLAIMED[epsilon] for epsilon in claimed]
        axes.plot(claimed, published, "x", color="#666666", label="FLamby, sites' mean, at its claimed epsilon")
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.set_xlabel("true epsilon per subject at every site (delta 0.001, everything charged)")
    axes.set_ylabel("accuracy on held-out patients")
    axes.set_title("Dotted: without privacy. Bars: standard deviation over five seeds.", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="center right")
    axes.grid(visible=True, alpha=0.25)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
