"""What every model says about a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Paired:
    """Two sides of the same rows, unit vectors [batch, width] each, and which rows have both: bool [batch].

    `strangers` are unit vectors [stranger, width] on the second side that belong to nobody; none where the batch's own
    rows are each other's strangers.
    """

    query: Tensor
    target: Tensor
    both: Tensor
    strangers: Tensor | None = None


@dataclass(frozen=True)
class Told:
    """What a model says of pieces that it was not shown.

    Attributes:
        answers: [batch, piece, token], logits; or [batch, piece, number].
        target: int64 [batch, piece], tokens; or [batch, piece, number].
        counted: bool [batch, piece]: which pieces were asked for.
    """

    answers: Tensor
    target: Tensor
    counted: Tensor


Heard = tuple[Paired, ...] | Told | None


@dataclass(frozen=True)
class Outputs:
    """What a model says of a batch.

    Attributes:
        logits: [batch, 1] for a binary task, [batch, class or label] for a multiclass or multilabel one; for regression
            [batch, 1], the number scaled to [-1, 1].
        auxiliary: by modality, the same from that modality alone; empty where the model has no auxiliary heads.
        auxiliary_present: by modality, bool [batch]: does the row have that modality?
        parts: in training, for each part of the objective, in order, what its loss looks at; None: nothing here.
    """

    logits: Tensor
    auxiliary: dict[str, Tensor]
    auxiliary_present: dict[str, Tensor]
    parts: tuple[Heard, ...] = ()
