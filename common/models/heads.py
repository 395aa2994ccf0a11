"""Heads: from a vector a row to answers."""

from __future__ import annotations

from torch import Tensor, nn

from common.data.schema import TaskSpec


class TaskHead(nn.Module):
    """A linear map to what a task asks for: a logit, one per class or label, or a scaled number."""

    def __init__(self, task: TaskSpec, width: int) -> None:
        """Build the head of one task."""
        super().__init__()
        self.project = nn.Linear(width, task.num_logits)

    def forward(self, vector: Tensor) -> Tensor:
        """Map [batch, width] to [batch, 1, class or label]."""
        return self.project(vector)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
