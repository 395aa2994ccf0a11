"""What every model says about a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """Logits of a batch.

    Attributes:
        logits: [batch, 1] for a binary task, else [batch, class].
        auxiliary: by modality, the same from that modality alone; empty where the model has no auxiliary heads.
        auxiliary_present: by modality, bool [batch]: does the row have that modality?
    """

    logits: Tensor
    auxiliary: dict[str, Tensor]
    auxiliary_present: dict[str, Tensor]
