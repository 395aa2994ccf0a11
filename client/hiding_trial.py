"""What a step hides, tried on nobody's records: drawn for each anew, from the noise's own secret stream, or refused."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from client.hiding import Hiding
from client.step_audit import fresh
from client.train import LocalTraining, draw_sample
from client.trial import Broken, Trial
from common.data.batch import Batch

_ROWS, _EVEN = 400, 0.5


def check_hiding(trial: Trial, training: LocalTraining) -> None:
    """Nobody outside can tell what a step hides: two secrets, two steps and two records alike hide differently.

    Tried with even chances, where two draws are the same with a chance below 2^-100.

    Raises:
        Broken: they do not.
    """
    pieces = tuple((name, number, _EVEN) for name, number, _ in training.hiding.pieces)
    dropout, told = _EVEN if training.modality_dropout else 0.0, training.hiding.told
    even = replace(trial.training, modality_dropout=dropout, hiding=Hiding(pieces, told))
    seen, nothing = torch.ones(_ROWS, 1, dtype=torch.bool), torch.zeros(_ROWS, 1)
    values, mask = dict.fromkeys(trial.rows.mask, nothing), dict.fromkeys(trial.rows.mask, seen)
    rows = Batch(values, mask, values, {}, {}, torch.arange(_ROWS))  # thin: what records hold makes no difference
    first, secret, step = (
        _hidden(draw_sample(rows, even, fresh(number), place), even) for number, place in ((0, 0), (1, 0), (0, 1))
    )
    for what, drawn in first.items():
        if torch.equal(drawn, secret[what]):
            raise Broken(f"{what} is hidden as somebody without the noise's secret could draw it")
        if not _like_fair_coins(drawn, step[what]) or not _like_fair_coins(drawn, drawn.roll(1, dims=0)):
            raise Broken(f"{what} is hidden alike in several steps or records")


def _hidden(sample: Batch, training: LocalTraining) -> dict[str, Tensor]:
    """What was hidden, [row, ...], by a name for it; a lone modality is never hidden as a whole."""
    read = [name for name in sample.mask if name not in training.hiding.told]
    found = {f"a piece of {name}": sample.hidden[name] for name, *_ in training.hiding.pieces}
    if training.modality_dropout and len(read) > 1:
        found["a modality"] = torch.stack([~sample.mask[name].any(dim=1) for name in read], dim=1)
    return found


def _like_fair_coins(one: Tensor, other: Tensor) -> bool:
    """Whether two draws differ about as often as independent ones; each row is looked at as a whole once."""
    differ = (one != other).any(dim=1).double().mean()
    return bool(differ > _EVEN / 4)
