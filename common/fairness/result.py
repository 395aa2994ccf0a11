"""What the audit found, as released: every figure with its interval, every suppressed group by name."""

from __future__ import annotations

from dataclasses import dataclass

from common.metrics.figure import Figure


@dataclass(frozen=True)
class GroupFigures:
    """How the model serves one group under one modality condition.

    Attributes:
        n: number of subjects, noised.
        figures: by metric (common/fairness/figures.py).
        suppressed: why the whole group is not shown; empty where it is shown.
    """

    attribute: str
    group: str
    condition: str
    n: Figure
    figures: dict[str, Figure]
    suppressed: str = ""


@dataclass(frozen=True)
class Gap:
    """The largest difference of a metric between two groups of an attribute under one condition.

    Attributes:
        metric: demographic_parity, equal_opportunity, equalized_odds, auroc, accuracy, balanced_accuracy,
            mean_absolute_error or mean_error.
        size: its interval is simultaneous over the pairs of groups.
        of: the metric that differs most, where there is a choice: tpr or fpr for equalized_odds.
        higher: the group that `of` is larger for.
        lower: the group that `of` is smaller for.
        claim: the gap is told from zero at 95 % over all gaps of this audit together (Holm).
        smallest_visible: about the gap that this much data and this much noise would have shown in 8 of 10 audits;
            None: not even the largest that there can be.
    """

    attribute: str
    condition: str
    metric: str
    size: Figure
    of: str = ""
    higher: str = ""
    lower: str = ""
    claim: bool = False
    smallest_visible: float | None = None


@dataclass(frozen=True)
class ModalityGain:
    """What a modality brings to a group: the metric with all modalities minus the metric without this one."""

    attribute: str
    group: str
    modality: str
    metric: str
    size: Figure


@dataclass(frozen=True)
class AuditResult:
    """A whole audit.

    Attributes:
        threshold: score from which a subject counts as positive: an edge between two bins.
        noise_std: standard deviation of the noise in one cell of the released table.
        bins: number of score bins (multiclass: classes).
        confidence: of each interval.
        comparisons: how many gaps the claims stand against, together.
    """

    task: str
    threshold: float
    min_cell: int
    noise_std: float
    bins: int
    confidence: float
    comparisons: int
    groups: tuple[GroupFigures, ...]
    gaps: tuple[Gap, ...]
    gains: tuple[ModalityGain, ...] = ()
