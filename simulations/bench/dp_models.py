"""What `fedmosaic bench dp` trains: five models of the shapes that matter, and synthetic rows for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.bookkeeping.rows import chunks_of, for_rows, take_rows

CLASSES = 2
_CHUNK_ROWS = 8


@dataclass(frozen=True)
class Shape:
    """How large a workload is."""

    rows: int
    width: int = 128
    layers: int = 4
    tokens: int = 64


@dataclass(frozen=True)
class Workload:
    """A model and a batch: inputs [row, ...] and labels [row]; every row is a subject of its own."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor


class Layer(nn.Module):
    """One transformer layer of covered parts: attention between Linears, then two more of them."""

    def __init__(self, width: int, adapter: Callable[[int], nn.Module] | None = None) -> None:
        """Build a layer; `adapter` makes what is added behind either half (bottleneck adapters)."""
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.adapter = nn.Identity() if adapter is None else adapter(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [row, token, width]."""
        heads = [part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.mixed(self.before(tokens)).chunk(3, -1)]
        seen = functional.scaled_dot_product_attention(*heads)
        tokens = tokens + self.out(seen.transpose(1, 2).flatten(-2))
        changed: Tensor = self.adapter(tokens + self.narrow(functional.gelu(self.wide(self.after(tokens)))))
        return changed


class Bottleneck(nn.Module):
    """An adapter: down to a sixteenth of the width and up again, added to what it was given."""

    def __init__(self, width: int) -> None:
        """Build it so that it changes little at first."""
        super().__init__()
        self.down, self.up = nn.Linear(width, width // 16), nn.Linear(width // 16, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [row, token, width]."""
        changed: Tensor = tokens + self.up(functional.gelu(self.down(tokens)))
        return changed


class LowRank(nn.Module):
    """A frozen Linear and a trainable product of two thin ones beside it (LoRA: Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, frozen: nn.Linear, rank: int = 8) -> None:
        """Wrap a Linear."""
        super().__init__()
        self.frozen = frozen
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [row, token, width]."""
        mapped: Tensor = self.frozen(tokens) + self.up(self.down(tokens))
        return mapped


class Pooled(nn.Module):
    """A stack over tokens, their mean, a head."""

    def __init__(self, width: int, layers: list[Layer]) -> None:
        """Build the model of these layers."""
        super().__init__()
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Give logits [row, class]."""
        logits: Tensor = self.head(self.layers(tokens).mean(dim=1))
        return logits


def fusion(shape: Shape) -> Workload:
    """A fusion transformer, all of it trained."""
    return _tokens(Pooled(shape.width, [Layer(shape.width) for _ in range(shape.layers)]), shape)


def lora(shape: Shape) -> Workload:
    """Low-rank adapters on the attention of a frozen encoder, and a head."""
    model = _frozen(Pooled(shape.width, [Layer(shape.width) for _ in range(shape.layers)]))
    for layer in model.layers:
        for name in ("mixed", "out"):
            linear = getattr(layer, name)
            setattr(layer, name, LowRank(linear))
    return _tokens(model, shape)


def adapters(shape: Shape) -> Workload:
    """Bottleneck adapters in a frozen encoder, and a head."""
    model = _frozen(Pooled(shape.width, [Layer(shape.width) for _ in range(shape.layers)]))
    for layer in model.layers:
        layer.adapter = Bottleneck(shape.width)
    return _tokens(model, shape)


def cnn(shape: Shape) -> Workload:
    """A small convolutional network with group normalisation over images of 64 by 64 pixels."""
    parts: list[nn.Module] = []
    before = 3
    for channels in (shape.width // 4, shape.width // 2, shape.width):
        parts += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.GroupNorm(8, channels), nn.ReLU()]
        parts += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(8, channels), nn.ReLU()]
        before = channels
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))
    return Workload(model, torch.randn(shape.rows, 3, shape.tokens, shape.tokens), _labels(shape))


def head(shape: Shape) -> Workload:
    """A linear head on features that a frozen encoder gave once."""
    return Workload(nn.Linear(shape.width, CLASSES), torch.randn(shape.rows, shape.width), _labels(shape))


class TwoTowers(nn.Module):
    """Two modalities, a tower of layers for each; the second one runs for the rows that have it, and for no other."""

    def __init__(self, shape: Shape) -> None:
        """Build it."""
        super().__init__()
        self.first = nn.Sequential(*(Layer(shape.width) for _ in range(shape.layers // 2)))
        self.second = nn.Sequential(*(Layer(shape.width) for _ in range(shape.layers // 2)))
        self.head = nn.Linear(shape.width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Give logits [row, class] of tokens [row, token, width]: the second modality's half, or zeros, comes last."""
        one, two = tokens.chunk(2, dim=1)
        pooled = self.first(one).mean(dim=1)
        for rows in chunks_of(two[:, 0, 0] != 0, _CHUNK_ROWS):
            with for_rows(rows):
                more = self.second(take_rows(two, rows)).mean(dim=1)
            pooled = pooled.index_add(0, rows[rows >= 0], more[rows >= 0])
        logits: Tensor = self.head(pooled)
        return logits


def both(shape: Shape) -> Workload:
    """Two towers; every row has both modalities."""
    return _tokens(TwoTowers(shape), shape)


def half(shape: Shape) -> Workload:
    """The same; every other row lacks the second modality."""
    whole = both(shape)
    whole.inputs[1::2, shape.tokens // 2 :] = 0
    return whole


def row_losses(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """One cross-entropy a row."""
    return functional.cross_entropy(model(inputs), labels, reduction="none")


def _tokens(model: nn.Module, shape: Shape) -> Workload:
    return Workload(model, torch.randn(shape.rows, shape.tokens, shape.width), _labels(shape))


def _frozen(model: Pooled) -> Pooled:
    model.layers.requires_grad_(False)
    return model


def _labels(shape: Shape) -> Tensor:
    return torch.randint(0, CLASSES, (shape.rows,))


WORKLOADS: dict[str, tuple[Callable[[Shape], Workload], Shape]] = {
    "fusion transformer": (fusion, Shape(rows=32)),
    "LoRA": (lora, Shape(rows=16, width=384, layers=6)),
    "bottleneck adapters": (adapters, Shape(rows=16, width=384, layers=6)),
    "GroupNorm CNN": (cnn, Shape(rows=32)),
    "head on cached features": (head, Shape(rows=256, width=768)),
    "two modalities": (both, Shape(rows=32)),
    "two modalities, half of the rows lack one": (half, Shape(rows=32)),
}
