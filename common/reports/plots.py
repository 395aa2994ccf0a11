"""From a record to its pictures."""

from __future__ import annotations

import math

from common.fairness.result import AuditResult, GroupFigures
from common.metrics.figure import Figure
from common.reports.headline import NUMBERS, TITLES, headline, is_share, measured
from common.reports.palette import EXACT, RED, RELEASED, SECOND
from common.reports.pictures import Column, Dot, Line, curve_chart, dot_chart
from common.reports.record import RunRecord
from common.reports.spend import LedgerRecord

_NOTHING = Figure(None)
_FEWEST_RUNS = 2
_METRIC_TITLES = {
    "tpr": ("Found, of those with {task}", "true positive rate"),
    "fpr": ("Falsely alarmed, of those without", "false positive rate"),
    "mae": ("Mean absolute error", "in the unit of {task}"),
    "bias": ("Predicted minus true, on average", "in the unit of {task}"),
}
_GAP_TITLES = {
    "equal_opportunity": "Gap in share found",
    "equalized_odds": "Gap in found or falsely alarmed",
    "demographic_parity": "Gap in share called positive",
    "auroc": "Gap in AUROC",
    "accuracy": "Gap in accuracy",
    "balanced_accuracy": "Gap in balanced accuracy",
    "mean_absolute_error": "Gap in mean absolute error",
    "mean_error": "Gap in mean error",
}


def training_picture(record: RunRecord) -> str:
    """Test accuracy and AUROC, or error, over the rounds, as the simulator measured them; empty where it did not."""
    lines = []
    for label, field, colour, dashed in (
        ("AUROC", "test_auroc", EXACT, False),
        ("accuracy", "test_accuracy", SECOND, True),
        ("mean absolute error", "test_error", EXACT, False),
    ):
        known = [(item.number, getattr(item, field)) for item in record.rounds if getattr(item, field) is not None]
        if known:
            x, y = zip(*known, strict=True)
            lines.append(Line(label, tuple(map(float, x)), y, colour, dashed))
    if not lines:
        return ""
    return curve_chart(lines, name="training", x_label="round", y_label="on held-out people")


def update_picture(record: RunRecord) -> str:
    """Size of the released mean update over the rounds: what a federation without a simulator can watch."""
    known = [(float(item.number), item.update_norm) for item in record.rounds if item.update_norm is not None]
    if not known:
        return ""
    x, y = zip(*known, strict=True)
    line = Line("update", x, y, RELEASED)
    return curve_chart([line], name="updates", x_label="round", y_label="L2 norm of the released update")


def spend_picture(ledger: LedgerRecord) -> str:
    """What was spent after each run of a site's ledger, against what may be; empty for a single run."""
    # Rounded up like every epsilon of a page, so that the picture and the table say the same.
    after = {line.run: math.ceil(line.spent_after * 100) / 100 for line in ledger.runs if line.spent_after is not None}
    if len(after) < _FEWEST_RUNS:
        return ""
    places = tuple(float(place) for place in range(len(after) + 1))
    spent = Line("spent", places, (0.0, *after.values()), RELEASED)
    budget = Line("budget", (places[0], places[-1]), (ledger.lifetime_epsilon,) * 2, RED, dashed=True)
    return curve_chart([spent, budget], name="spend", x_label="runs, in the order of the ledger", y_label="epsilon")


def conditions_picture(record: RunRecord) -> str:
    """AUROC (accuracy or error where there is none) under every condition: released with interval, and measured."""
    released = record.released.conditions if record.released else {}
    exact = record.test.conditions if record.test else {}
    names = tuple(released or exact)
    if not names:
        return ""
    ranked = any("auroc" in figures for figures in released.values()) or any(
        measured(one, "auroc") is not None for one in exact.values()
    )
    metric = "auroc" if ranked else headline(record.kind)[0]
    dots = tuple(
        Dot(released.get(name, {}).get(metric, _NOTHING), measured(exact[name], metric) if name in exact else None)
        for name in names
    )
    title = "AUROC: 0.5 is guessing, 1 is perfect" if ranked else TITLES[metric]
    limits = _reach(dots) if metric == "mae" else (_floor(dots), 1.0)
    column = Column("", title, dots, limits, mark=0.5 if ranked else None)
    return dot_chart([condition_title(name) for name in names], [column], name="conditions", separate=_separate(names))


def groups_picture(audit: AuditResult, condition: str = "all") -> str:
    """Share found and share falsely alarmed, by group, with intervals; a suppressed group says so."""
    members = [group for group in audit.groups if group.condition == condition]
    metrics = [metric for metric in _METRIC_TITLES if any(metric in group.figures for group in members)] or ["accuracy"]
    columns = []
    for metric in metrics:
        title, label = _METRIC_TITLES.get(metric, (metric, metric))
        dots = tuple(Dot(group.figures.get(metric, _NOTHING)) for group in members)
        limits = (0.0, 1.0) if is_share(metric) else _reach(dots)
        title, label = (text.format(task=audit.task) for text in (title, label))
        columns.append(Column(title, label, dots, limits, percent=is_share(metric)))
    rows = [f"{group.attribute}: {group.group}" for group in members]
    return dot_chart(rows, columns, name=f"groups-{condition.replace(':', '-')}", separate=_breaks(members))


def gaps_picture(audit: AuditResult) -> str:
    """How far apart the groups are, by attribute and modality condition."""
    metrics = list(dict.fromkeys(gap.metric for gap in audit.gaps))
    shown = [metric for metric in ("equal_opportunity", "auroc") if metric in metrics] or metrics[:2]
    keys = list(dict.fromkeys((gap.attribute, gap.condition) for gap in audit.gaps))
    by_place = {(gap.attribute, gap.condition, gap.metric): gap for gap in audit.gaps}
    columns = []
    for metric in shown:
        dots = tuple(Dot(by_place[attribute, condition, metric].size) for attribute, condition in keys)
        label = {"auroc": "AUROC"}.get(metric, f"in the unit of {audit.task}" if metric in NUMBERS else "points")
        limits = _reach(dots) if metric in NUMBERS - {"auroc"} else (0.0, 1.0)
        columns.append(Column(_GAP_TITLES.get(metric, metric), label, dots, limits, percent=metric not in NUMBERS))
    first = [index for index in range(1, len(keys)) if keys[index][0] != keys[index - 1][0]]
    rows = [f"{attribute}, {condition_title(condition)}" for attribute, condition in keys]
    return dot_chart(rows, columns, name="gaps", separate=first) if keys else ""


def gains_picture(audit: AuditResult) -> str:
    """What each modality brings to each group, as AUROC or accuracy gained, or error added."""
    found = {gain.metric for gain in audit.gains}
    metric = next((name for name in ("auroc", "mae") if name in found), "accuracy")
    gains = [gain for gain in audit.gains if gain.metric == metric]
    if not gains:
        return ""
    modalities = list(dict.fromkeys(gain.modality for gain in gains))
    groups = list(dict.fromkeys((gain.attribute, gain.group) for gain in gains))
    by_place = {(gain.modality, gain.attribute, gain.group): gain.size for gain in gains}
    rows = [f"{modality}, {attribute}: {group}" for modality in modalities for attribute, group in groups]
    dots = tuple(Dot(by_place[modality, *group]) for modality in modalities for group in groups)
    name = TITLES[metric]
    limits = _reach(dots) if metric == "mae" else (-0.6, 0.6)
    title = f"{name} with all modalities minus {name} without this one"
    column = Column(title, f"{name} {'added' if metric == 'mae' else 'gained'}", dots, limits, mark=0.0)
    return dot_chart(rows, [column], name="gains", separate=[n * len(groups) for n in range(1, len(modalities))])


def condition_title(name: str) -> str:
    """A modality condition in words."""
    kind, _, modality = name.partition(":")
    return {"all": "all modalities", "only": f"only {modality}", "without": f"without {modality}"}.get(kind, name)


def _reach(dots: tuple[Dot, ...]) -> tuple[float, float]:
    """From the lowest number shown, or zero, to the highest, for figures that have a unit."""
    ends = [(dot.figure.low, dot.figure.high, dot.exact) for dot in dots]
    known = [value for end in ends for value in end if value is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    return low - 0.02 * (high - low), high + 0.02 * (high - low) or 1.0


def _floor(dots: tuple[Dot, ...]) -> float:
    """The smallest value shown, down to the next tenth, but at most 0.4."""
    known = [value for dot in dots for value in (dot.figure.low, dot.exact) if value is not None]
    return max(min([0.4, *known]) // 0.1 / 10, 0.0)


def _separate(names: tuple[str, ...]) -> list[int]:
    return [n for n in range(1, len(names)) if names[n].partition(":")[0] != names[n - 1].partition(":")[0]]


def _breaks(members: list[GroupFigures]) -> list[int]:
    return [n for n in range(1, len(members)) if members[n].attribute != members[n - 1].attribute]
