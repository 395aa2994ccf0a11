"""How far apart the groups are: the largest difference of a metric, with intervals that hold together."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from statistics import NormalDist

from common.fairness.result import Gap, GroupFigures
from common.fairness.table import TableLayout
from common.metrics.figure import Figure
from common.metrics.interval import CONFIDENCE, Z95, combine, spread, z_of

# A gap's name and the metrics whose differences it is the largest of (Hardt, Price, Srebro 2016; Fairlearn's names).
_CALLED: dict[str, tuple[str, ...]] = {
    "equal_opportunity": ("tpr",),
    "equalized_odds": ("tpr", "fpr"),
    "demographic_parity": ("selection_rate",),
    "auroc": ("auroc",),
}
_GAPS: dict[str, dict[str, tuple[str, ...]]] = {
    "binary": _CALLED,
    "multilabel": _CALLED,
    "multiclass": {"accuracy": ("accuracy",), "balanced_accuracy": ("balanced_accuracy",)},
    "regression": {"mean_absolute_error": ("mae",), "mean_error": ("bias",)},
}
_POWER = 0.8
# The gaps with all modalities are what most readers come for: they get most of the error that claims may make.
_FIRST_SHARE = 0.8


@dataclass(frozen=True)
class _Tested:
    """A gap with its p-value, the standard deviation behind its widest interval, and the pairs it is the largest of."""

    gap: Gap
    p_value: float = 1.0
    deviation: float = 0.0
    pairs: int = 1


def gaps_of(layout: TableLayout, groups: tuple[GroupFigures, ...]) -> tuple[Gap, ...]:
    """Every gap of the table: by attribute, condition and metric.

    Guarantees:
        simultaneous: a gap's interval holds over all pairs of its groups together (Bonferroni).
        claims: over all gaps of a table without any true gap, some claim is made in at most 5 % (Holm 1979).
    """
    found: list[_Tested] = []
    for attribute, condition in itertools.product(layout.attributes, layout.conditions):
        members = [g for g in groups if g.attribute == attribute and g.condition == condition.name]
        found += [_tested(members, name, metrics, most=_most(layout)) for name, metrics in _GAPS[layout.kind].items()]
    return _with_claims(found, layout.conditions[0].name, most=_most(layout))


def _most(layout: TableLayout) -> float:
    """The largest difference that two groups can have: of shares 1, of errors twice the range of what is predicted."""
    return 2 * (layout.limits[1] - layout.limits[0]) if layout.kind == "regression" else 1.0


def _tested(members: list[GroupFigures], name: str, metrics: tuple[str, ...], *, most: float) -> _Tested:
    attribute, condition = members[0].attribute, members[0].condition
    pairs = [
        (metric, one, other)
        for metric in metrics
        for one, other in itertools.combinations([member for member in members if _said(member, metric)], 2)
    ]
    if {metric for metric, _, _ in pairs} != set(metrics):
        reason = "fewer than two groups of this attribute can be shown"
        return _Tested(Gap(attribute, condition, name, Figure(None, reason=reason)))
    wider = z_of(len(pairs)) / Z95
    differences = [
        combine((1.0, -1.0), (_widened(one.figures[metric], wider), _widened(other.figures[metric], wider)))
        for metric, one, other in pairs
    ]
    lows, highs, values = zip(*(_absolute(difference) for difference in differences), strict=True)
    widest = values.index(max(values))
    metric, one, other = pairs[widest]
    higher, lower = (one, other) if spread(differences[widest])[0] > 0 else (other, one)
    size = Figure(max(values), max(lows), min(max(highs), most))
    return _Tested(
        Gap(attribute, condition, name, size, metric, higher.group, lower.group),
        p_value=min(min(_p_value(difference, wider * Z95) for difference in differences) * len(pairs), 1.0),
        deviation=max((spread(d)[2] - spread(d)[1]) / (2 * wider * Z95) for d in differences),
        pairs=len(pairs),
    )


def _said(member: GroupFigures, metric: str) -> bool:
    return metric in member.figures and member.figures[metric].value is not None


def _widened(figure: Figure, factor: float) -> Figure:
    """Stretch an interval around its value, as a higher quantile would."""
    value, low, high = spread(figure)
    return Figure(value, value - factor * (value - low), value + factor * (high - value))


def _absolute(difference: Figure) -> tuple[float, float, float]:
    """Low, high and value of a difference's size."""
    value, low, high = spread(difference)
    return max(low, -high, 0.0), max(abs(low), abs(high)), abs(value)


def _p_value(difference: Figure, z: float) -> float:
    """Chance of so large a difference without any, by the interval's own half-width on the side of zero."""
    value, low, high = spread(difference)
    half = value - low if value > 0 else high - value
    return 1.0 if half <= 0 else math.erfc(abs(value) / (half / z) / math.sqrt(2))


def _with_claims(found: list[_Tested], first: str, *, most: float) -> tuple[Gap, ...]:
    """Mark the gaps that Holm's procedure tells from zero; the first condition and the rest share the error."""
    said = [index for index, tested in enumerate(found) if tested.gap.size.value is not None]
    main = [index for index in said if found[index].gap.condition == first]
    rest = [index for index in said if found[index].gap.condition != first]
    error = 1 - CONFIDENCE
    gaps = [tested.gap for tested in found]
    for family, allowed in ((main, error * (_FIRST_SHARE if rest else 1.0)), (rest, error * (1 - _FIRST_SHARE))):
        claims = _holm(found, family, allowed)
        for index in family:
            visible = _visible(found[index], allowed / len(family), most)
            gaps[index] = replace(gaps[index], claim=index in claims, smallest_visible=visible)
    return tuple(gaps)


def _holm(found: list[_Tested], family: list[int], error: float) -> set[int]:
    claims: set[int] = set()
    for rank, index in enumerate(sorted(family, key=lambda index: found[index].p_value)):
        if found[index].p_value > error / (len(family) - rank):
            break
        claims.add(index)
    return claims


def _visible(tested: _Tested, error: float, most: float) -> float | None:
    """About the smallest gap that the procedure's first step finds with 80 % power; None: not even the largest."""
    normal = NormalDist()
    quantile = normal.inv_cdf(1 - error / (2 * tested.pairs)) + normal.inv_cdf(_POWER)
    return quantile * tested.deviation if quantile * tested.deviation < most else None
