"""Labels as a model learns from them, task by task; an unknown one teaches nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.data.schema import TaskSpec

UNKNOWN = -1


def model_labels(labels: np.ndarray, task: TaskSpec) -> Tensor:
    """Bring a site's labels to what a model gets: classes as they are, numbers scaled from the task's range to [-1, 1].

    Returns:
        int64 [row], for a multilabel task [row, label], -1: unknown; for a regression task float32 [row], NaN: unknown.
    """
    if task.kind != "regression":
        return torch.from_numpy(labels)
    low, high = task.limits
    scaled = (np.clip(labels, low, high) - (low + high) / 2) / ((high - low) / 2)
    return torch.from_numpy(scaled.astype(np.float32))


def unknown_labels(task: TaskSpec, rows: int) -> np.ndarray:
    """The labels of a site that does not have the task."""
    if task.kind == "regression":
        return np.full(rows, np.nan)
    return np.full((rows, task.num_logits) if task.kind == "multilabel" else rows, UNKNOWN, dtype=np.int64)


def example_labels(task: TaskSpec, rows: int, random: torch.Generator) -> Tensor:
    """Labels of nobody, as a model gets them."""
    if task.kind == "regression":
        return 2 * torch.rand(rows, generator=random) - 1
    shape = (rows, task.num_logits) if task.kind == "multilabel" else (rows,)
    return torch.randint(len(task.classes), shape, generator=random)


def is_known(labels: Tensor) -> Tensor:
    """Which labels are known, as a model gets them: bool, shaped like `labels`."""
    return torch.isfinite(labels) if labels.is_floating_point() else labels >= 0


def is_labelled(labels: Tensor) -> Tensor:
    """Which rows have a known label, one at least: bool [row]."""
    known = is_known(labels)
    return known.any(dim=1) if known.dim() > 1 else known
