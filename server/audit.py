"""From the audit's summed, noised table to its figures, and their short form for programs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.config import AuditConfig
from common.fairness.groups import audit_figures
from common.fairness.result import AuditResult
from common.fairness.table import TableLayout

Short = dict[str, dict[str, dict[str, float | None]]]


def audit(layout: TableLayout, counts: NDArray[np.int64], *, noise_std: float, config: AuditConfig) -> AuditResult:
    """Read the audit off the released table, as the configuration asks."""
    return audit_figures(layout, counts, noise_std=noise_std, threshold=config.threshold, min_cell=config.min_cell)


def short_form(result: AuditResult) -> Short:
    """By attribute and group, with all modalities: n, tpr with its interval (low, high), fpr; None where suppressed."""
    short: Short = {}
    for group in result.groups:
        if group.condition != "all":
            continue
        tpr, fpr = group.figures.get("tpr"), group.figures.get("fpr")
        short.setdefault(group.attribute, {})[group.group] = {
            "n": group.n.value,
            "tpr": tpr.value if tpr else None,
            "low": tpr.low if tpr else None,
            "high": tpr.high if tpr else None,
            "fpr": fpr.value if fpr else None,
        }
    return short
