"""What `fedmosaic bench` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.compose import ConfigError


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the name: the curve's points, how to print, whether small sizes will do.

    `settings` are overrides of all runs of a comparison, and `seeds` how many runs each of its rows has; `checkout` is
    the source tree of the system to be compared with.
    """

    epsilons: tuple[float, ...] = ()
    as_json: bool = False
    quick: bool = False
    settings: tuple[str, ...] = ()
    seeds: int = 5
    checkout: Path | None = None


def run_bench(name: str, experiment: str, out: Path, asked: Asked) -> None:
    """Run one measurement.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in _BENCHES:
        raise ConfigError(f"bench: there are {', '.join(_BENCHES)}, got {name!r}")
    out.mkdir(parents=True, exist_ok=True)
    _BENCHES[name](experiment, out, asked)


def _curve(experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench.curve import EPSILONS, measure, write_curve  # noqa: PLC0415

    points = []
    for point in measure(experiment, asked.epsilons or EPSILONS):
        points.append(point)
        said = "no privacy" if point.epsilon is None else f"epsilon {point.epsilon:g}"
        sys.stderr.write(f"{said}, {point.normalisation} statistics: sites' mean {point.site_mean_accuracy}\n")
    written = write_curve(points, experiment, out)
    if asked.as_json:
        sys.stdout.write(json.dumps([asdict(point) for point in points]) + "\n")
        return
    table = Table("epsilon", "statistics", "pooled accuracy", "sites' mean accuracy", "AUROC")
    for point in points:
        epsilon = "none" if point.epsilon is None else f"{point.epsilon:g}"
        spreads = (str(point.pooled_accuracy), str(point.site_mean_accuracy), str(point.auroc))
        table.add_row(epsilon, point.normalisation, *spreads)
    by_condition = Table("AUROC", *("none" if point.epsilon is None else f"{point.epsilon:g}" for point in points))
    for name in points[0].conditions:
        by_condition.add_row(name, *(str(point.conditions[name]) for point in points))
    Console().print(table, by_condition, *written)


def _cost(experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench.cost import measure_cost  # noqa: PLC0415

    rows = measure_cost(experiment)
    (out / f"{experiment}-cost.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if asked.as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        return
    table = Table("what", "seconds a round", "ratio", "peak memory, MB", "ratio")
    for row in rows:
        time = (f"{row.seconds_a_round:.3f}", f"{row.time_ratio:.2f}")
        table.add_row(row.name, *time, f"{row.peak_megabytes:.0f}", f"{row.memory_ratio:.2f}")
    Console().print(table)


def _secagg(_experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench.secagg import QUICK, Sizes, measure_secagg, rows  # noqa: PLC0415

    sizes = QUICK if asked.quick else Sizes()
    figures = measure_secagg(sizes)
    body = json.dumps(asdict(figures), indent=1) + "\n"
    (out / "secagg.json").write_text(body)
    if asked.as_json:
        sys.stdout.write(json.dumps(asdict(figures)) + "\n")
        return
    table = Table("what", "target", "measured")
    for row in rows(figures, sizes):
        table.add_row(*row)
    Console().print(table)


def _scale(_experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench.scale import measure_scale, shapes  # noqa: PLC0415

    sizes, measured = shapes(), measure_scale()
    body = json.dumps({"graphs": [asdict(size) for size in sizes], "measured": asdict(measured)}, indent=1) + "\n"
    (out / "scale.json").write_text(body)
    if asked.as_json:
        sys.stdout.write(json.dumps(json.loads(body)) + "\n")
        return
    graphs = Table("sites", "degree", "threshold", "secrets, log2", "split, log2", "silence, log2")
    for size in sizes:
        chances = (size.secrets_log2, size.split_log2, size.silence_log2)
        said = ("never" if chance is None else f"{chance:.1f}" for chance in chances)
        graphs.add_row(f"{size.num_sites:,}", str(size.degree), str(size.threshold), *said)
    run = Table("one sum in this process", "")
    for name, value in asdict(measured).items():
        run.add_row(name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else str(value))
    Console().print(graphs, run)


def _audit(_experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench import step_audit as bench  # noqa: PLC0415

    shown = bench.measure_audit(bench.QUICK_OBSERVATIONS if asked.quick else bench.OBSERVATIONS)
    costs = bench.measure_noise(bench.QUICK_SIZES if asked.quick else bench.SIZES)
    body = json.dumps({"shown": [asdict(one) for one in shown], "noise": [asdict(one) for one in costs]}, indent=1)
    (out / "audit.json").write_text(body + "\n")
    if asked.as_json:
        sys.stdout.write(json.dumps(json.loads(body)) + "\n")
        return
    audited = Table("claimed epsilon", "steps with canaries", "shown with 95 % confidence", "seconds")
    for one in shown:
        figures = (f"{one.claimed_epsilon:g}", f"{one.observations:,}", f"{one.shown_epsilon:.2f}")
        audited.add_row(*figures, f"{one.seconds:.1f}")
    timed = Table("trained parameters", "noise of a step, ns a value", "numpy, ns", "torch float32, ns")
    for cost in costs:
        timed.add_row(f"{cost.values:,}", f"{cost.step:.1f}", f"{cost.numpy_normal:.1f}", f"{cost.torch_randn:.1f}")
    Console().print(audited, timed)


def _dp(_experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench.dp import as_json, measure_dp, rows  # noqa: PLC0415

    table = measure_dp(turns=1 if asked.quick else 3, steps=1 if asked.quick else 7)
    (out / "dp.json").write_text(as_json(table))
    if asked.as_json:
        sys.stdout.write(json.dumps(json.loads(as_json(table))) + "\n")
        return
    shown = Table("CPU time of a step over non-private", "target", "ours", "Opacus hooks", "Opacus ghost", "torch.func")
    for name in ("our memory", "non-private"):
        shown.add_column(name)
    for row in rows(table):
        shown.add_row(*row)
    Console().print(shown)


def _ledger(_experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench.ledger import measure_ledger  # noqa: PLC0415

    speed = measure_ledger(*(300, 3) if asked.quick else (10_000, 50))
    (out / "ledger.json").write_text(json.dumps(asdict(speed), indent=1) + "\n")
    if asked.as_json:
        sys.stdout.write(json.dumps(asdict(speed)) + "\n")
        return
    table = Table(f"{speed.entries:,} entries", "target", "measured")
    table.add_row("a charge: entry and receipt on disk, open ledger", "< 20 ms", f"{speed.charge_milliseconds:.1f} ms")
    table.add_row("the same, ledger opened and closed", "< 20 ms", f"{speed.door_milliseconds:.1f} ms")
    table.add_row("opening it in a process that has not read it", "", f"{speed.cold_seconds:.2f} s")
    table.add_row("verified by the independent reader, processor time", "< 10 s", f"{speed.verified_seconds:.1f} s")
    Console().print(table)


def _compare(table: str, experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench.compare import measure, modalities_of, variants_of  # noqa: PLC0415

    base = (f"experiment={experiment}", *asked.settings)
    rows = []
    for row in measure(base, variants_of(table, modalities_of(base)), range(asked.seeds)):
        rows.append(row)
        said = ", ".join(f"{name} {figure}" for name, figure in row.figures.items())
        sys.stderr.write(f"{row.name}: {said}\n")
    body = [asdict(row) for row in rows]
    (out / f"{experiment}-{table}.json").write_text(json.dumps(body, indent=1) + "\n")
    if asked.as_json:
        sys.stdout.write(json.dumps(body) + "\n")
        return
    names = list(rows[0].figures)
    shown = Table(f"{experiment}, {asked.seeds} seeds", *names, "epsilon", "trained parameters", "seconds")
    for row in rows:
        cells = (str(row.figures[name]) if name in row.figures else "" for name in names)
        epsilon = "" if row.epsilon is None else f"{row.epsilon:.2f}"
        shown.add_row(row.name, *cells, epsilon, f"{row.parameters:,}", f"{row.seconds:.0f}")
    Console().print(shown)


def _contrastive(_experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench.compare import measure  # noqa: PLC0415
    from simulations.bench.contrastive import REFUSED, base_of, variants  # noqa: PLC0415

    rows = []
    for row in measure(
        (*base_of(quick=asked.quick), *asked.settings), variants(), range(2 if asked.quick else asked.seeds)
    ):
        rows.append(row)
        sys.stderr.write(f"{row.name}: {row.seconds:.0f} s a run\n")
    body = {"rows": [asdict(row) for row in rows], "refused": REFUSED}
    (out / "contrastive.json").write_text(json.dumps(body, indent=1) + "\n")
    if asked.as_json:
        sys.stdout.write(json.dumps(body) + "\n")
        return
    directions = ("scan>cough", "cough>scan")
    shown = Table(
        f"recall at 1, {rows[0].seeds} seeds", *directions, "by chance", "epsilon", "a step: charged", "shown"
    )
    for row in rows:
        recalls = (str(row.figures[f"recall@1/{name}"]) for name in directions)
        chance = f"{1 / row.figures[f'gallery/{directions[0]}'].mean:.3f}"
        paid = (f"{one:.2f}" for one in (row.epsilon, *row.step)) if row.step and row.epsilon else ("", "", "")
        shown.add_row(row.name, *recalls, chance, *paid)
    shown.add_row(REFUSED, *("refused",) * 2, *("",) * 4)
    Console().print(shown)


def _fedmultimodal(experiment: str, out: Path, asked: Asked) -> None:
    from simulations.bench.fedmultimodal import compare, export  # noqa: PLC0415

    base = (f"experiment={experiment}", *asked.settings)
    exported = export(base, out)
    body: dict[str, object] = asdict(exported)
    shown = Table(f"{experiment} as {exported.dataset}", "")
    shown.add_row("written for its trainer: --data_dir", str(out))
    shown.add_row("records of clients, dev and test", ", ".join(f"{name} {n}" for name, n in exported.records.items()))
    if asked.checkout is None:
        said = "skipped: --checkout names no source tree of FedMultimodal to run on these files"
        body["compared"] = None
    else:
        both = compare(base, exported, out, asked.checkout, seeds=asked.seeds)
        said = f"fedmosaic {both.ours} over {asked.seeds} seeds, FedMultimodal {both.theirs:.3f}, mean of its five"
        body["compared"] = asdict(both)
    shown.add_row("accuracy on the same held-out records", said)
    (out / f"{experiment}-fedmultimodal.json").write_text(json.dumps(body, indent=1) + "\n")
    if asked.as_json:
        sys.stdout.write(json.dumps(body) + "\n")
        return
    Console().print(shown)


_BENCHES: dict[str, Callable[[str, Path, Asked], None]] = {
    "curve": _curve,
    "cost": _cost,
    "secagg": _secagg,
    "scale": _scale,
    "dp": _dp,
    "ledger": _ledger,
    "audit": _audit,
    "contrastive": _contrastive,
    "fedmultimodal": _fedmultimodal,
    **{name: partial(_compare, name) for name in ("modalities", "fusion", "missing", "privacy")},
}
