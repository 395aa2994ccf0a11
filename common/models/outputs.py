"""What every model says about a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """Logits of a batch.

    Attributes:
        logits: [batch, 1] for a binary task, [batch, class or label] for a multiclass or multilabel one; for regression
            [batch, 1], the number scaled to [-1, 1].
        auxiliary: by modality, the same from that modality alone; empty where the model has no auxiliary heads.
        auxiliary_present: by modality, bool [batch]: does the row have that modality?
    """

    logits: Tensor
    auxiliary: dict[str, Tensor]
    auxiliary_present: dict[str, Tensor]
