"""From the audit's summed, noised table to released figures: groups, gaps, and what each modality brings to each group.

Everything here is post-processing of one released vector: it costs no budget, and needs nobody's records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.fairness.figures import figures_of
from common.fairness.gaps import gaps_of
from common.fairness.result import AuditResult, GroupFigures, ModalityGain
from common.fairness.table import TableLayout, cell_noise, subjects_by_label, unflatten
from common.metrics.figure import Figure
from common.metrics.interval import CONFIDENCE, Z95, combine

_NEEDS_POSITIVES = {"tpr", "auroc", "average_precision", "f1", "balanced_accuracy", "ppv"}
_NEEDS_NEGATIVES = {"fpr", "auroc", "average_precision", "balanced_accuracy"}
_GAINED = ("auroc", "tpr", "fpr", "accuracy", "mae")


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
    edge = layout.score_bins.edge_of(threshold)
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
        threshold=layout.score_bins.score_at(edge),
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
    by_label = (subjects_by_label(table.layout, table.counts[:, group]) * weights[:, None]).sum(axis=0) / weights.sum()
    cells = table.layout.cells_per_label
    return by_label, float((weights**2 * cells * table.noise**2).sum() / weights.sum() ** 2)


def _number(table: _Table, group: int) -> tuple[float, float]:
    """A group's subjects, and the noise's variance in it; of a multilabel task, the mean over its labels."""
    by_label, variance = _sizes(table, group)
    answers = table.layout.answers
    return float(by_label.sum()) / answers, len(by_label) * variance / answers**2


def _suppressed(table: _Table) -> dict[int, str]:
    """Name the groups that are not shown, by index, with the reason."""
    reasons: dict[int, str] = {}
    for attribute in table.layout.attributes:
        members = [index for index, (name, _) in enumerate(table.layout.groups) if name == attribute]
        sizes = {index: _number(table, index)[0] for index in members}
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
    total, variance = _number(table, group)
    half = Z95 * float(np.sqrt(variance))
    size = Figure(total, max(total - half, 0.0), total + half)
    found = figures_of(table.layout, table.counts[condition, group], float(table.noise[condition]), table.edge)
    by_label, _ = _sizes(table, group)
    return GroupFigures(attribute, level, name, size, {key: _shown(key, found[key], by_label, table) for key in found})


def _shown(metric: str, figure: Figure, by_label: NDArray[np.float64], table: _Table) -> Figure:
    """Withhold a figure that rests on too few with a class, or with one class of a label."""
    if table.layout.kind not in ("binary", "multilabel"):
        return figure
    name, _, label = metric.partition("/")
    for place in reversed(range(len(by_label))):
        what, needing = table.layout.labels[place], _NEEDS_POSITIVES if place % 2 else _NEEDS_NEGATIVES
        if name in needing and what.startswith(f"{label} = " if label else "") and by_label[place] < table.min_cell:
            said = what if table.layout.kind == "multilabel" else f"{table.layout.task} = {what}"
            return Figure(None, reason=f"fewer than {table.min_cell} subjects with {said}: cannot be said")
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
