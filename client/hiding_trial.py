"""What a step hides and alters, tried on nobody's records: drawn for each anew, from the noise's own secret stream."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from client.augment import NOTHING_ALTERED, Altering
from client.hiding import Hiding
from client.step_audit import fresh
from client.train import LocalTraining, draw_sample
from client.trial import Broken, Trial
from common.augmentation import Augmentation
from common.data.batch import Batch
from common.data.modalities import SignalSpec

_ROWS, _EVEN = 400, 0.5
_THIN = "\0"  # no modality has this name
_LOUDER = Altering(
    Augmentation(gain=_EVEN),  # type: ignore[call-arg]  # the fields have defaults
    {_THIN: SignalSpec(kind="signal", column=_THIN, sample_rate=1.0, channels=(_THIN,), seconds=1.0)},
)


def check_hiding(trial: Trial, training: LocalTraining) -> None:
    """Nobody outside can tell what a step hides and alters: two secrets, steps and records alike are not treated alike.

    Tried with even chances, and with how loud a signal is, where two draws are the same with a chance below 2^-100.

    Raises:
        Broken: they do not.
    """
    pieces = tuple((name, number, _EVEN) for name, number, _ in training.hiding.pieces)
    dropout, told = _EVEN if training.modality_dropout else 0.0, (*training.hiding.told, _THIN)
    altering = _LOUDER if training.altering.is_on else NOTHING_ALTERED
    even = replace(trial.training, modality_dropout=dropout, hiding=Hiding(pieces, told), altering=altering)
    seen, nothing = torch.ones(_ROWS, 1, dtype=torch.bool), torch.zeros(_ROWS, 1)
    values, mask = dict.fromkeys(trial.rows.mask, nothing), dict.fromkeys(trial.rows.mask, seen)
    if altering.is_on:
        values, mask = {**values, _THIN: torch.ones(_ROWS, 1, 1)}, {**mask, _THIN: seen}
    # Thin: what records hold makes no difference.
    rows = Batch(values, mask, dict.fromkeys(mask, nothing), {}, {}, torch.arange(_ROWS))
    first, secret, step = (
        _hidden(draw_sample(rows, even, fresh(number), place), even) for number, place in ((0, 0), (1, 0), (0, 1))
    )
    for what, drawn in first.items():
        if torch.equal(drawn, secret[what]):
            raise Broken(f"{what} is drawn as somebody without the noise's secret could draw it")
        if not _like_fair_coins(drawn, step[what]) or not _like_fair_coins(drawn, drawn.roll(1, dims=0)):
            raise Broken(f"{what} is drawn alike in several steps or records")


def _hidden(sample: Batch, training: LocalTraining) -> dict[str, Tensor]:
    """What was drawn, [row, ...], by a name for it; a lone modality is never hidden as a whole."""
    read = [name for name in sample.mask if name not in (*training.hiding.told, _THIN)]
    found = {f"a piece of {name}": sample.hidden[name] for name, *_ in training.hiding.pieces}
    if training.modality_dropout and len(read) > 1:
        found["a modality"] = torch.stack([~sample.mask[name].any(dim=1) for name in read], dim=1)
    if training.altering.is_on:
        found["how loud a record is"] = sample.values[_THIN][:, :, 0]
    return found


def _like_fair_coins(one: Tensor, other: Tensor) -> bool:
    """Whether two draws differ about as often as independent ones; each row is looked at as a whole once."""
    differ = (one != other).any(dim=1).double().mean()
    return bool(differ > _EVEN / 4)
