"""The one integer table that evaluation and audit release: condition x group x label x score bin, or x sum.

Where a model writes texts, the evaluation's table ends with sums of how well: condition x modality x sum (texts.py).

Server and sites build the same layout from the public schema, so a table travels as a bare vector. Everything that the
server later says about the model's quality is post-processing of such a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.data.schema import Schema, TaskSpec
from common.metrics.bins import ScoreBins
from common.metrics.moments import NUM_MOMENTS, REACH, UNIT, moments_of
from common.metrics.texts import NUM_SUMS, TEXT_REACH

EVERYONE = ("", "everyone")
# The condition `all` is the one that most is read off. Counting it twice halves its noise relative to its counts, and
# costs the other conditions little: with 10 others, noise / weight is 1.9 instead of 3.3, theirs 3.7 instead of 3.3.
_WEIGHT_OF_ALL = 2


@dataclass(frozen=True)
class Condition:
    """Which modalities the model may see; `weight` is how much one subject counts in this condition's cells."""

    name: str
    keep: tuple[str, ...]
    weight: int = 1


@dataclass(frozen=True)
class TableLayout:
    """What the cells of a table are.

    Attributes:
        groups: (attribute, level) pairs; the levels of one attribute stand together.
        labels: the task's classes; multilabel task: the two classes of every label, label by label; regression: one
            entry for all.
        bins: binary and multilabel task: score bins (common/metrics/bins.py); multiclass task: the predicted class;
            regression: sums over the subjects, in fixed point (common/metrics/moments.py).
        limits: regression: the public range of the true number.
        base_rate: binary and multilabel task: what the score bins lie around.
        told: modalities whose texts the model writes, in the evaluation's table.
    """

    task: str
    kind: str
    conditions: tuple[Condition, ...]
    groups: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    bins: int
    limits: tuple[float, float] = (0.0, 1.0)
    base_rate: float = 0.5
    told: tuple[str, ...] = ()

    @property
    def score_bins(self) -> ScoreBins:
        """How scores are counted."""
        return ScoreBins(self.bins, self.base_rate)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the table: condition, group, label, bin."""
        return len(self.conditions), len(self.groups), len(self.labels), self.bins

    @property
    def size(self) -> int:
        """Number of cells; those about the task come first."""
        return math.prod(self.shape) + len(self.conditions) * len(self.told) * NUM_SUMS

    @property
    def answers(self) -> int:
        """How many questions are asked about one subject: the labels of a multilabel task, else 1."""
        return len(self.labels) // 2 if self.kind == "multilabel" else 1

    @property
    def unit(self) -> int:
        """What one subject counts in a cell about the task, before a condition's weight."""
        return UNIT if self.kind == "regression" or self.told else 1

    @property
    def cells_per_label(self) -> int:
        """How many cells have to be added up for the number of subjects with a label."""
        return 1 if self.kind == "regression" else self.bins

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that subjects are grouped by, in order."""
        return tuple(dict.fromkeys(attribute for attribute, _ in self.groups))


def conditions_of(modalities: Sequence[str], *, alone: bool = True) -> tuple[Condition, ...]:
    """Name the modality conditions: all, each one alone (where asked), each one left out.

    With a single modality there is only `all`; with two, leaving one out is having the other alone, not repeated.
    """
    everything = tuple(sorted(modalities))
    found = [Condition("all", everything, _WEIGHT_OF_ALL if len(everything) > 1 else 1)]
    if len(everything) == 1:
        return tuple(found)
    if alone:
        found += [Condition(f"only:{name}", (name,)) for name in everything]
    seen = {condition.keep for condition in found}
    for name in everything:
        rest = tuple(other for other in everything if other != name)
        if rest not in seen:
            found.append(Condition(f"without:{name}", rest))
    return tuple(found)


def evaluation_layout(schema: Schema, *, task: str, bins: int, told: tuple[str, ...] = ()) -> TableLayout:
    """The evaluation's table: everyone together, under every condition of what the model reads, the schema's."""
    conditions = conditions_of(tuple(schema.modalities))
    return replace(_layout(schema, task=task, bins=bins, conditions=conditions, groups=(EVERYONE,)), told=told)


def audit_layout(schema: Schema, *, task: str, attributes: Sequence[str], bins: int) -> TableLayout:
    """The audit's table: the groups of each attribute, with all modalities and with each one left out.

    Each modality alone is not asked for here: every further condition makes all cells noisier.

    Raises:
        ValueError: an attribute is named twice or is not in the schema.
    """
    for attribute in attributes:
        if attribute not in schema.attributes:
            raise ValueError(f"audit.attributes names {attribute!r}; the sites have {sorted(schema.attributes)}")
    if len(set(attributes)) != len(attributes):
        raise ValueError(f"audit.attributes names an attribute twice: {list(attributes)}")
    groups = tuple((name, level) for name in attributes for level in schema.attributes[name].levels)
    conditions = conditions_of(tuple(schema.modalities), alone=False)
    return _layout(schema, task=task, bins=bins, conditions=conditions, groups=groups)


def l2_sensitivity(layout: TableLayout) -> float:
    """The most that adding or removing one subject moves the table, in L2 norm.

    Guarantees:
        exact: a subject with every attribute known adds `weight` times the layout's unit to exactly one cell per
            condition, attribute and label of a multilabel task.
        bounded: to a regression's table it adds `weight` times a row of sums whose norm is at most moments.REACH; to
            the sums of each text the same with texts.TEXT_REACH.
    """
    about_task = REACH if layout.kind == "regression" else layout.unit * math.sqrt(layout.answers)
    per_condition = len(layout.attributes) * about_task**2 + len(layout.told) * TEXT_REACH**2
    return math.sqrt(per_condition * sum(one.weight**2 for one in layout.conditions))


def fill(
    layout: TableLayout,
    scores: Mapping[str, NDArray[np.floating]],
    labels: NDArray[np.integer] | NDArray[np.floating],
    groups: Mapping[str, NDArray[np.int64]],
    subjects: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Count a site's subjects into the cells that are about the task.

    Args:
        layout: what the cells are.
        scores: by condition, [row, 1, class or label], as `loss.scores` gives them.
        labels: [row] or [row, label], as a model learns from them (labels.model_labels).
        groups: by attribute, [row] index of the level; negative: unknown.
        subjects: [row] index of the row's subject.

    Returns:
        [cell] integer counts.

    Guarantees:
        one contribution: a subject counts once per condition and attribute, whatever its number of rows: the mean of
        its rows' scores, and its last row's label and level. A subject whose label or score is not known counts
        nowhere, one whose level is not known does not count in that attribute.
    """
    table = np.zeros(math.prod(layout.shape), dtype=np.int64)
    last_row = {int(subject): row for row, subject in enumerate(subjects)}
    distinct, rows = (
        np.array(sorted(last_row), dtype=np.int64),
        np.array([last_row[s] for s in sorted(last_row)], dtype=int),
    )
    if not distinct.size:
        return table
    label = labels[rows]
    for number, condition in enumerate(layout.conditions):
        means = mean_by_subject(np.asarray(scores[condition.name], dtype=np.float64), subjects, distinct)
        finite = np.asarray(np.isfinite(means).all(axis=1))
        for part in _PARTS[layout.kind](layout, np.where(finite[:, None], means, 0.0), label):
            for attribute, offset, count in _spans(layout):
                everyone = attribute == EVERYONE[0]
                level: NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64) if everyone else groups[attribute][rows]
                counted = np.flatnonzero(finite & part.known & (level >= 0) & (level < count))
                cells = (number, offset + level[counted], part.label[counted], part.bins[counted])
                flat = np.ravel_multi_index(np.broadcast_arrays(*cells), layout.shape)
                np.add.at(table, flat, condition.weight * part.amount[counted])
    return table


def unflatten(layout: TableLayout, vector: NDArray[np.int64]) -> NDArray[np.float64]:
    """Read the cells about the task as subjects: float64 [condition, group, label, bin or sum]; noise may be < 0.

    Raises:
        ValueError: the vector's length is not the layout's.
    """
    if vector.shape != (layout.size,):
        raise ValueError(f"a table of {layout.size} cells was expected, got an array of shape {vector.shape}")
    weights = np.array([layout.unit * condition.weight for condition in layout.conditions], dtype=np.float64)
    counts = vector[: math.prod(layout.shape)].astype(np.float64)
    return counts.reshape(layout.shape) / weights[:, None, None, None]


def cell_noise(layout: TableLayout, noise_std: float) -> NDArray[np.float64]:
    """The noise's standard deviation in subjects, [condition], of cells about the task; `noise_std` is the vector's."""
    return noise_std / np.array([layout.unit * condition.weight for condition in layout.conditions], dtype=np.float64)


def subjects_by_label(layout: TableLayout, table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count the subjects in cells [..., label, bin or sum]: [..., label]."""
    return table[..., 0] if layout.kind == "regression" else np.asarray(table.sum(axis=-1))


def _layout(
    schema: Schema, *, task: str, bins: int, conditions: tuple[Condition, ...], groups: tuple[tuple[str, str], ...]
) -> TableLayout:
    if task not in schema.tasks:
        raise ValueError(f"objective.task is {task!r}; the sites have {sorted(schema.tasks)}")
    spec = schema.tasks[task]
    labels, width = _AXES[spec.kind](spec, bins)
    return TableLayout(task, spec.kind, conditions, groups, labels, width, spec.limits)


_AXES: dict[str, Callable[[TaskSpec, int], tuple[tuple[str, ...], int]]] = {
    "binary": lambda spec, bins: (spec.classes, bins),
    "multiclass": lambda spec, _bins: (spec.classes, len(spec.classes)),
    "multilabel": lambda spec, bins: (tuple(f"{c} = {there}" for c in spec.columns for there in spec.classes), bins),
    "regression": lambda spec, _bins: ((spec.named_columns[0],), NUM_MOMENTS),
}


def _spans(layout: TableLayout) -> list[tuple[str, int, int]]:
    """Each attribute with the index of its first group and its number of groups."""
    names = [attribute for attribute, _ in layout.groups]
    return [(name, names.index(name), names.count(name)) for name in layout.attributes]


def mean_by_subject(
    scores: NDArray[np.float64], subjects: NDArray[np.int64], distinct: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Average rows' scores [row, score] over those of each distinct subject, in order: [subject, score]."""
    place = np.searchsorted(distinct, subjects)
    total = np.zeros((len(distinct), scores.shape[1]))
    np.add.at(total, place, scores)
    return np.asarray(total / np.bincount(place, minlength=len(distinct))[:, None])


@dataclass(frozen=True)
class _Part:
    """One cell of every subject: [subject] label, bin, how much it counts there, and whether it is known at all."""

    label: NDArray[np.int64]
    bins: NDArray[np.int64]
    amount: NDArray[np.int64]
    known: NDArray[np.bool_]


def _chosen(layout: TableLayout, means: NDArray[np.float64], label: NDArray[np.int64]) -> Iterator[_Part]:
    """One cell a subject: its class, and the bin of its chance or the class that the model chose."""
    bins = layout.score_bins.of(means[:, 0]) if layout.kind == "binary" else means.argmax(axis=1)
    known = (label >= 0) & (label < len(layout.labels))
    yield _Part(label, np.asarray(bins, dtype=np.int64), np.full_like(label, layout.unit), known)


def _one_by_one(layout: TableLayout, means: NDArray[np.float64], label: NDArray[np.int64]) -> Iterator[_Part]:
    """A cell for each label that is known."""
    for place in range(layout.answers):
        own = label[:, place]
        known = (own >= 0) & (own <= 1)
        yield _Part(2 * place + own, layout.score_bins.of(means[:, place]), np.full_like(own, layout.unit), known)


def _summed(_layout: TableLayout, means: NDArray[np.float64], label: NDArray[np.float64]) -> Iterator[_Part]:
    """A cell for each moment."""
    known = np.isfinite(label)
    for place, amount in enumerate(moments_of(means[:, 0], np.where(known, label, 0.0)).T):
        yield _Part(np.zeros_like(amount), np.full_like(amount, place), amount, known)


_PARTS: dict[str, Callable[..., Iterator[_Part]]] = {
    "binary": _chosen,
    "multiclass": _chosen,
    "multilabel": _one_by_one,
    "regression": _summed,
}
