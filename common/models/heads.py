"""Heads: from a vector a row to logits."""

from __future__ import annotations

from torch import Tensor, nn

from common.data.schema import TaskSpec


class ClassificationHead(nn.Module):
    """A linear map to one logit (binary) or one per class (multiclass)."""

    def __init__(self, task: TaskSpec, width: int) -> None:
        """Build the head of one task."""
        super().__init__()
        self.project = nn.Linear(width, task.num_logits)

    def forward(self, vector: Tensor) -> Tensor:
        """Map [batch, width] to logits [batch, 1 or class]."""
        return self.project(vector)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
