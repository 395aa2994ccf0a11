"""Small models of every layer that has a rule, calls of every kind, and the float64 twin of the engine's sum."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.bookkeeping.engine import clipped_sum
from common.bookkeeping.rows import NO_ROW, RowIndex, chunks_of, for_rows, take_rows
from common.bookkeeping.rules import Tokens

ROWS, TIME, WIDTH, IMAGE = 8, 5, 6, 9


class Wide(nn.Module):
    """Token-rich: LoRA over a frozen base, a learnt token, norms, a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.down, self.up = (nn.Linear(a, b) for a, b in ((WIDTH, WIDTH), (WIDTH, 2), (2, WIDTH)))
        self.token, self.layer_norm, self.rms_norm = Tokens(2, WIDTH), nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)
        self.frozen.requires_grad_(False)

    def forward(self, values: Tensor) -> Tensor:
        mixed = self.frozen(values) + self.up(self.down(input=values))
        mixed = torch.cat([mixed, self.token(len(values))], dim=1)
        return torch.as_tensor(self.head(functional.gelu(self.rms_norm(self.layer_norm(mixed))).mean(dim=1)))


class Images(nn.Module):
    """Convolutions of all kinds over values seen as images and as series."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2)
        self.dilated = nn.Conv2d(6, 4, (2, 3), dilation=2, padding="same", bias=False)
        self.group_norm = nn.GroupNorm(2, 4)
        self.series = nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular", groups=4)
        self.head = nn.Linear(4, 3)

    def forward(self, values: Tensor) -> Tensor:
        image = values.repeat(1, 6, 1)[:, :27].reshape(len(values), 2, -1)[..., : IMAGE * IMAGE]
        image = image.reshape(len(values), 2, IMAGE, -1)
        seen = functional.relu(self.group_norm(self.dilated(self.strided(image))), inplace=True)
        return torch.as_tensor(self.head(torch.tanh(self.series(seen.flatten(2))).mean(dim=2)))


class Shared(nn.Module):
    """One encoder called twice, of one token, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.words = nn.Linear(WIDTH, WIDTH), nn.Embedding(4, WIDTH, padding_idx=1)
        self.head = nn.Linear(WIDTH, 4)
        self.head.weight = self.words.weight

    def forward(self, values: Tensor) -> Tensor:
        words = self.words((values[..., 0] > 0).long() * 2 + (values[..., 1] > 0).long())
        first, last = self.encoder(values[:, 0]), self.encoder(torch.tanh(values[:, -1]) * words.mean(dim=1))
        return torch.as_tensor(self.head(torch.tanh(first) + last))


class Missing(nn.Module):
    """Encoders that are called on those rows only which have their modality, in chunks of 2."""

    def __init__(self, *, token_rich: bool) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.token_rich, self.seen = token_rich, 0

    def forward(self, values: Tensor) -> Tensor:
        present = values[:, 0, 0] > 0
        padded = values.new_zeros(len(values) + 1, WIDTH)
        for rows in chunks_of(present, 2):
            with for_rows(rows):
                taken = take_rows(values, rows)
                self.seen += len(taken)
                taken = self.encoder(taken).mean(dim=1) if self.token_rich else self.encoder(taken.mean(dim=1))
            padded = padded.index_add(
                0, torch.where(rows == NO_ROW, len(values), rows), torch.tanh(taken).to(padded.dtype)
            )
        return torch.as_tensor(self.head(padded[:-1]))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "wide": Wide,
    "images": Images,
    "shared": Shared,
    "missing": lambda: Missing(token_rich=False),
    "missing tokens": lambda: Missing(token_rich=True),
}


def layer_model(name: str, *, seed: int = 0) -> nn.Module:
    """A model with no weight at a special place."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = LAYERS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) / 2)
    return model


def values_of(rows: int = ROWS, *, seed: int = 0) -> Tensor:
    """Values [row, time, width]; padding is zero."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, TIME + 1, (rows, 1, 1), generator=random)
    return torch.randn(rows, TIME, WIDTH, generator=random) * (torch.arange(TIME).view(1, -1, 1) < lengths)


def losses_of(model: nn.Module, values: Tensor) -> Tensor:
    """One loss a row."""
    return torch.as_tensor(model(values).square().sum(dim=1))


def summed(model: nn.Module, values: Tensor, subjects: Tensor, clip_norm: float) -> Tensor:
    """The engine's sum as one vector: float64 [coordinate]."""
    found = clipped_sum(model, lambda: losses_of(model, values), RowIndex(subjects), clip_norm=clip_norm)
    return torch.cat([part.ravel() for part in found.values()])


def one_at_a_time(model: nn.Module, values: Tensor, subjects: Tensor, clip_norm: float) -> Tensor:
    """The same, a subject at a time in float64 with plain autograd: [subject, coordinate]."""
    twin = deepcopy(model).double()
    parameters = [part for part in twin.parameters() if part.requires_grad]
    found = []
    for subject in sorted(set(subjects.tolist()) - {-1}):
        mean = losses_of(twin, values[subjects == subject].double()).mean()
        parts = torch.autograd.grad(mean, parameters, materialize_grads=True)
        gradient = torch.cat([part.ravel() for part in parts])
        found.append(gradient * min(1.0, clip_norm / float(gradient.norm().clamp(min=1e-300))))
    return torch.stack(found)
