"""Quality of a multiclass model from its confusion table: [label, predicted class] counts that may carry noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.metrics.figure import Figure
from common.metrics.interval import Z95, combine, share


def confusion_figures(counts: NDArray[np.float64], noise_std: float, z: float = Z95) -> dict[str, Figure]:
    """Accuracy and balanced accuracy (mean of the classes' recalls) with their intervals."""
    classes = len(counts)
    var = noise_std**2
    right = float(np.trace(counts))
    wrong = float(counts.sum()) - right
    recalls = tuple(
        share(float(row[label]), float(row.sum() - row[label]), inside_var=var, outside_var=(classes - 1) * var, z=z)
        for label, row in enumerate(counts)
    )
    return {
        "accuracy": share(right, wrong, inside_var=classes * var, outside_var=classes * (classes - 1) * var, z=z),
        "balanced_accuracy": combine((1.0 / classes,) * classes, recalls),
    }
