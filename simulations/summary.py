"""A finished run in one JSON object, and in one table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from common.metrics.figure import Figure
from common.metrics.texts import SCORES
from common.reports.headline import TITLES, headline, measured
from common.reports.record import RunRecord, SiteRecord
from common.reports.sentences import red_boxes
from common.secagg.roster import too_many_colluders
from server.audit import short_form

Json = dict[str, object]
_SHORT = {"average_precision": "AP", "mae": "MAE", "rmse": "RMSE"}  # a line of a terminal is short
_PAGES = {"Report": "report.html", "Budgets": "budget/", "Audit": "fairness.html"}


def summary(record: RunRecord, folder: str) -> Json:
    """The object that `simulate --json` prints.

    `test` was measured by the simulator, exactly; `released` and `audit` are what the protocol released.
    """
    return {
        "run": folder,
        "experiment": record.experiment,
        "rounds": len(record.rounds),
        "seconds": round(record.seconds, 3),
        "test": _test(record),
        "released": _released(record),
        "privacy": {"kind": record.promise.kind, "sites": {site.name: _privacy(record, site) for site in record.sites}},
        "audit": short_form(record.audit) if record.audit else {},
        "warnings": [box.code for box in red_boxes(record)],
    }


def table(record: RunRecord, folder: str) -> Group:
    """The closing table, its red lines, and where the reports are."""
    deltas = sorted({f"{cohort.delta:g}" for site in record.sites for cohort in site.cohorts})
    at = f", δ {' and '.join(deltas)}" if deltas else ""
    title = f"{record.experiment}: {record.rounds_planned} rounds in {record.seconds:.1f} s{at}"
    quality = Table(title=title, title_justify="left")
    shown = headline(record.kind)
    titles = (_SHORT.get(metric, TITLES[metric]) for metric in shown)
    for name in ("site", "subjects", *titles, "ε\ntraining", "ε\nheld out"):
        quality.add_column(name, justify="left" if name == "site" else "right", no_wrap=True)
    for site in record.sites:
        quality.add_row(site.name, *_quality(record, site.name, shown), *_epsilons(site))
    if record.test is not None:
        quality.add_section()
        together = (_number(measured(record.test, metric)) for metric in shown)
        quality.add_row("all together", str(record.test.num_subjects), *together, "", "")
    lines = [Text(f"{box.title}: {box.text}", style="bold red") for box in red_boxes(record)]
    if record.promise.kind == "distributed":
        limit = too_many_colluders(len(record.sites))
        lines.append(Text(f"Noise shared out: ε holds while fewer than {limit} sites collude with whoever looks."))
    lines += _texts(record)
    lines.append(Text("All of held-out subjects, exact: measured by the simulator, released by nobody.", style="dim"))
    if record.released is not None:
        found = record.released.conditions["all"]
        said = ", ".join(f"{name} {_interval(found[name])}" for name in shown if name in found)
        lines.append(Text(f"Released by the protocol, with its noise: {said}", style="dim"))
    if record.honesty:
        lines.append(Text(f"The data: {record.honesty}", style="dim"))
    pages = [name for name in _PAGES if name != "Audit" or record.audit is not None]
    lines += [Text(f"{name}: {folder}/{_PAGES[name]}") for name in pages]
    return Group(quality, *lines)


def _texts(record: RunRecord) -> list[Text]:
    """How well the texts of each modality that a caption tells were written."""
    figures = record.test.figures if record.test else {}
    names = [name.removeprefix("bleu/") for name in figures if name.startswith("bleu/")]
    said = [", ".join(f"{TITLES[score]} {figures[f'{score}/{name}']:.3f}" for score in SCORES) for name in names]
    return [Text(f"Texts written, {name}: {scores}") for name, scores in zip(names, said, strict=True)]


def _test(record: RunRecord) -> Json:
    if record.test is None:
        return {}
    return {
        "measured_by": "the simulator, exactly",
        "subjects": record.test.num_subjects,
        "pooled_accuracy": record.test.pooled_accuracy,
        "site_mean_accuracy": record.test.site_mean_accuracy,
        "auroc": record.test.auroc,
        **record.test.figures,
        "sites": {
            name: {"accuracy": site.accuracy, "auroc": site.auroc, "subjects": site.num_subjects, **site.figures}
            for name, site in record.test.sites.items()
        },
        "conditions": {
            name: {"auroc": item.auroc, "accuracy": item.accuracy, **item.figures}
            for name, item in record.test.conditions.items()
        },
    }


def _released(record: RunRecord) -> Json:
    if record.released is None:
        return {}
    return {
        "subjects": record.released.num_subjects.value,
        "conditions": {
            condition: {name: _figure(figure) for name, figure in figures.items()}
            for condition, figures in record.released.conditions.items()
        },
    }


def _figure(figure: Figure) -> Json:
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def _privacy(record: RunRecord, site: SiteRecord) -> Json:
    """The figures of the subject who pays most; epsilon is the PLD figure."""
    promise = record.promise
    if not site.cohorts:
        return {"epsilon": None, "delta": None}
    worst = max(site.cohorts, key=lambda cohort: cohort.pld or 0.0)
    return {
        "epsilon": worst.pld,
        "delta": worst.delta,
        "pld": worst.pld,
        "prv": worst.prv,
        "rdp": worst.rdp,
        "replace_one": worst.replace_one,
        "steps": promise.steps,
        "sampling_rate": promise.sampling_rate,
        "noise_multiplier": promise.noise_multiplier,
        "cohorts": {
            cohort.cohort: {"pld": cohort.pld, "prv": cohort.prv, "rdp": cohort.rdp} for cohort in site.cohorts
        },
        "lifetime": {"spent": site.ledger.spent, "left": site.ledger.left} if site.ledger else {},
    }


def _quality(record: RunRecord, name: str, shown: tuple[str, ...]) -> tuple[str, ...]:
    if record.test is None or name not in record.test.sites:
        return ("",) * (1 + len(shown))
    site = record.test.sites[name]
    return str(site.num_subjects), *(_number(measured(site, metric)) for metric in shown)


def _epsilons(site: SiteRecord) -> tuple[str, str]:
    by_cohort = {cohort.cohort: cohort for cohort in site.cohorts}
    if not by_cohort:
        return "no DP", "no DP"
    shown = [f"{by_cohort[name].pld:.3f}" if name in by_cohort else "" for name in ("train", "test")]
    return shown[0], shown[1]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(figure: Figure) -> str:
    if figure.value is None:
        return "cannot be said"
    return f"{figure.value:.3f} ({_number(figure.low)} to {_number(figure.high)})"
