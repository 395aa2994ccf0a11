"""A record in pieces, kind by kind: what masked modelling hides and asks for. How many there are is public.

A text's pieces are its bytes, a table's its features, an image's squares of a grid, a recording's stretches of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from common.data.modalities import ModalitySpec, TabularSpec
from common.data.readings import MASKED, NUM_TOKENS, is_tokens, step_shape

GRID = 8
_MOST_STRETCHES = 64


@dataclass(frozen=True)
class Pieces:
    """A modality's records in pieces.

    Attributes:
        target: what each piece holds: a token, int64 [batch, piece], or numbers, float [batch, piece, number].
        there: bool [batch, piece].
    """

    target: Tensor
    there: Tensor


def num_pieces(spec: ModalitySpec) -> int:
    """Pieces of one record."""
    if isinstance(spec, TabularSpec):
        return spec.num_features
    return {"text": spec.num_steps, "image": GRID**2}.get(spec.kind, math.ceil(spec.num_steps / _stretch(spec)))


def answer_width(spec: ModalitySpec) -> int:
    """How many numbers a model answers with about one piece: a logit for each token, or what the piece holds."""
    if is_tokens(spec):
        return NUM_TOKENS
    if isinstance(spec, TabularSpec):
        return 1
    channels = step_shape(spec)[0] if step_shape(spec) else 1
    return channels if spec.kind == "image" else 2 * channels


def pieces_of(values: Tensor, mask: Tensor, spec: ModalitySpec) -> Pieces:
    """Take values [batch, time, ...] under mask [batch, time] to pieces.

    An image's square holds the mean of each channel, a recording's stretch mean and root mean square of each channel.
    """
    return _PIECES[spec.kind](values, mask, spec)


def hide_pieces(values: Tensor, hidden: Tensor, spec: ModalitySpec) -> Tensor:
    """Take pieces, bool [batch, piece], out of values [batch, time, ...]: what is hidden there says nothing any more.

    Guarantees:
        per row: what is hidden in a row depends on that row only.
    """
    return _HIDDEN[spec.kind](values, hidden, spec)


def _stretch(spec: ModalitySpec) -> int:
    return math.ceil(spec.num_steps / _MOST_STRETCHES)


def _text(values: Tensor, mask: Tensor, _spec: ModalitySpec) -> Pieces:
    return Pieces(values, mask)


def _table(values: Tensor, mask: Tensor, _spec: ModalitySpec) -> Pieces:
    features = values[:, 0]
    return Pieces(features.unsqueeze(2), mask[:, :1].expand(features.shape) & (features != 0))  # zero: not measured


def _image(values: Tensor, mask: Tensor, _spec: ModalitySpec) -> Pieces:
    down, across = (_squares(length, values) for length in values.shape[-2:])
    squares = torch.einsum("gh,bchw,kw->bgkc", down, values[:, 0], across).flatten(1, 2)
    return Pieces(squares, mask[:, :1].expand(squares.shape[:2]))


def _squares(length: int, like: Tensor) -> Tensor:
    """The mean over each of the grid's parts of a side: [part, pixel]."""
    part = torch.arange(length, device=like.device) * GRID // length
    members = (part == torch.arange(GRID, device=like.device).unsqueeze(1)).to(like.dtype)
    return members / members.sum(dim=1, keepdim=True)


def _recording(values: Tensor, mask: Tensor, spec: ModalitySpec) -> Pieces:
    size, channels = _stretch(spec), values.reshape(*mask.shape, -1)
    rest = -mask.shape[1] % size
    parts = functional.pad(channels, (0, 0, 0, rest)).view(len(mask), -1, size, channels.shape[2])
    there = functional.pad(mask, (0, rest)).view(len(mask), -1, size)
    count = there.sum(dim=2, keepdim=True).clamp(min=1).to(values.dtype)
    mean, square = parts.sum(dim=2) / count, (parts**2).sum(dim=2) / count
    return Pieces(torch.cat([mean, torch.sqrt(square)], dim=2), there.any(dim=2))


def _hidden_text(values: Tensor, hidden: Tensor, _spec: ModalitySpec) -> Tensor:
    return values.masked_fill(hidden, MASKED)


def _hidden_table(values: Tensor, hidden: Tensor, _spec: ModalitySpec) -> Tensor:
    return values.masked_fill(hidden.unsqueeze(1), 0.0)


def _hidden_image(values: Tensor, hidden: Tensor, _spec: ModalitySpec) -> Tensor:
    down, across = (torch.arange(length, device=hidden.device) * GRID // length for length in values.shape[-2:])
    pixels = hidden.view(-1, GRID, GRID)[:, down][:, :, across]
    return values.masked_fill(pixels[:, None, None], 0.0)


def _hidden_recording(values: Tensor, hidden: Tensor, spec: ModalitySpec) -> Tensor:
    steps = hidden.repeat_interleave(_stretch(spec), dim=1)[:, : values.shape[1]]
    return values.masked_fill(steps.view(*steps.shape, *(1,) * (values.dim() - 2)), 0.0)


_PIECES: dict[str, Callable[[Tensor, Tensor, ModalitySpec], Pieces]] = {
    "text": _text,
    "tabular": _table,
    "image": _image,
    "audio": _recording,
    "signal": _recording,
}
_HIDDEN: dict[str, Callable[[Tensor, Tensor, ModalitySpec], Tensor]] = {
    "text": _hidden_text,
    "tabular": _hidden_table,
    "image": _hidden_image,
    "audio": _hidden_recording,
    "signal": _hidden_recording,
}
