"""From the audit's summed, noised table to released figures: groups, gaps, and what each modality brings to each group.

Everything here is post-processing of one released vector: it costs no budget, and needs nobody's records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.fairness.gaps import gaps_of
from common.fairness.result import AuditResult, GroupFigures, ModalityGain
from common.fairness.table import TableLayout, cell_noise, unflatten
from common.metrics.bins import edge_of, score_at
from common.metrics.confusion import confusion_figures
from common.metrics.figure import Figure
from common.metrics.histogram import Histogram, figures
from common.metrics.interval import CONFIDENCE, Z95, combine

_METRICS = ("tpr", "fpr", "selection_rate", "auroc", "ppv", "accuracy", "balanced_accuracy", "calibration_gap")
_NEEDS_POSITIVES = {"tpr", "auroc", "balanced_accuracy", "ppv"}
_NEEDS_NEGATIVES = {"fpr", "auroc", "balanced_accuracy"}
_GAINED = ("auroc", "tpr", "fpr", "accuracy")


@dataclass(frozen=True)
class _Table:
    """The released table with what is needed to read it."""

    layout: TableLayout
    counts: NDArray[np.float64]
    noise: NDArray[np.float64]
    edge: int
    min_cell: int


def audit_figures(
    layout: TableLayout, counts: NDArray[np.int64], *, noise_std: float, threshold: float, min_cell: int
) -> AuditResult:
    """Read the audit off the released table.

    Args:
        layout: the table's layout.
        counts: [cell] the released sum.
        noise_std: standard deviation of the noise that is in every cell of that sum.
        threshold: score from which a subject counts as positive; moved to the nearest edge of a bin.
        min_cell: a group, or a group's subjects with or without the condition, of fewer than this is not shown.

    Guarantees:
        honest: every interval covers 95 % with the noise as with none.
        suppressed: a group below `min_cell` has no figures, nor has the one that would give it away by subtraction.
    """
    edge = edge_of(threshold, layout.bins)
    table = _Table(layout, unflatten(layout, counts), cell_noise(layout, noise_std), edge, min_cell)
    reasons = _suppressed(table)
    groups = tuple(
        _group(table, condition, group, reasons.get(group, ""))
        for condition in range(len(layout.conditions))
        for group in range(len(layout.groups))
    )
    gaps = gaps_of(layout, groups)
    return AuditResult(
        task=layout.task,
        threshold=score_at(edge, layout.bins),
        min_cell=min_cell,
        noise_std=noise_std,
        bins=layout.bins,
        confidence=CONFIDENCE,
        comparisons=sum(gap.size.value is not None for gap in gaps),
        groups=groups,
        gaps=gaps,
        gains=_gains(layout, groups),
    )


def _sizes(table: _Table, group: int) -> tuple[NDArray[np.float64], float]:
    """A group's subjects by label, and the noise's variance in each; pooled, as all conditions count the same ones."""
    weights = np.array([condition.weight**2 for condition in table.layout.conditions], dtype=np.float64)
    by_label = (table.counts[:, group].sum(axis=-1) * weights[:, None]).sum(axis=0) / weights.sum()
    return by_label, float((weights**2 * table.layout.bins * table.noise**2).sum() / weights.sum() ** 2)


def _suppressed(table: _Table) -> dict[int, str]:
    """Name the groups that are not shown, by index, with the reason."""
    reasons: dict[int, str] = {}
    for attribute in table.layout.attributes:
        members = [index for index, (name, _) in enumerate(table.layout.groups) if name == attribute]
        sizes = {index: float(_sizes(table, index)[0].sum()) for index in members}
        small = [index for index in members if sizes[index] < table.min_cell]
        reasons |= dict.fromkeys(small, f"fewer than {table.min_cell} subjects: cannot be said")
        rest = [index for index in members if index not in small]
        if len(small) == 1 and rest:
            shown = min(rest, key=lambda index: sizes[index])
            level = table.layout.groups[small[0]][1]
            reasons[shown] = f"not shown: with the total it would give away the small group {level!r}"
    return reasons


def _group(table: _Table, condition: int, group: int, suppressed: str) -> GroupFigures:
    attribute, level = table.layout.groups[group]
    name = table.layout.conditions[condition].name
    if suppressed:
        return GroupFigures(attribute, level, name, Figure(None, reason=suppressed), {}, suppressed)
    by_label, variance = _sizes(table, group)
    total, half = float(by_label.sum()), Z95 * float(np.sqrt(len(by_label) * variance))
    size = Figure(total, max(total - half, 0.0), total + half)
    counts, noise = table.counts[condition, group], float(table.noise[condition])
    if table.layout.kind != "binary":
        return GroupFigures(attribute, level, name, size, confusion_figures(counts, noise))
    found = figures(Histogram(counts, noise, table.edge))
    shown = {metric: _shown(metric, found[metric], by_label, table) for metric in _METRICS}
    return GroupFigures(attribute, level, name, size, shown)


def _shown(metric: str, figure: Figure, by_label: NDArray[np.float64], table: _Table) -> Figure:
    negatives, positives = (float(number) for number in by_label)
    for number, label, needing in (
        (positives, table.layout.labels[1], _NEEDS_POSITIVES),
        (negatives, table.layout.labels[0], _NEEDS_NEGATIVES),
    ):
        if metric in needing and number < table.min_cell:
            what = f"{table.layout.task} = {label}"
            return Figure(None, reason=f"fewer than {table.min_cell} subjects with {what}: cannot be said")
    return figure


def _gains(layout: TableLayout, groups: tuple[GroupFigures, ...]) -> tuple[ModalityGain, ...]:
    """What each modality brings to each group: the figure with all, minus the figure without it.

    Both conditions look at the same subjects, whose outcomes go together; the interval treats them as strangers, and is
    therefore too wide rather than too narrow.
    """
    everything = layout.conditions[0]
    by_place = {(group.condition, group.attribute, group.group): group for group in groups}
    without = {frozenset(everything.keep) - frozenset(other.keep): other.name for other in layout.conditions[1:]}
    found = []
    for modality in everything.keep:
        if frozenset({modality}) not in without:
            continue
        for attribute, level in layout.groups:
            full = by_place[everything.name, attribute, level]
            less = by_place[without[frozenset({modality})], attribute, level]
            for metric in _GAINED:
                if metric in full.figures:
                    gain = combine((1.0, -1.0), (full.figures[metric], less.figures[metric]))
                    found.append(ModalityGain(attribute, level, modality, metric, gain))
    return tuple(found)
