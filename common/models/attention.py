"""Attention as plain linear maps, so that per-example gradients are exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from common.config import ModelConfig
from common.models.encoders.options import BytesOptions, VitOptions

Size = ModelConfig | BytesOptions | VitOptions
Given = TypeVarTuple("Given")
Found = TypeVar("Found")
Memory = tuple[Tensor, Tensor]
"""Keys and values of the tokens so far, [batch, head, token, part of width] each."""


@dataclass(frozen=True)
class Reading:
    """Some tokens read some: places int64 [query] and [key], and who may read whom, bool [batch, query, key]."""

    asking: Tensor
    asked: Tensor
    may_read: Tensor


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, size: Size) -> None:
        """Build one layer."""
        super().__init__()
        self._heads = size.heads
        self.before_attention = nn.LayerNorm(size.width)
        self.query = nn.Linear(size.width, size.width)
        self.key = nn.Linear(size.width, size.width, bias=False)  # a key's bias cancels in the softmax
        self.value = nn.Linear(size.width, size.width)
        self.out = nn.Linear(size.width, size.width)
        self.before_feedforward = nn.LayerNorm(size.width)
        self.widen = nn.Linear(size.width, size.feedforward)
        self.narrow = nn.Linear(size.feedforward, size.width)

    def forward(self, tokens: Tensor, may_read: Tensor) -> Tensor:
        """Let tokens [batch, token, width] read each other where bool [batch, token, token] says so."""
        everyone = torch.arange(tokens.shape[1], device=tokens.device)
        return self.by_group(tokens, (Reading(everyone, everyone, may_read),))

    def by_group(self, tokens: Tensor, readings: Sequence[Reading]) -> Tensor:
        """Let some of the tokens [batch, token, width] read, each group its own: what no group asks costs no query.

        Returns:
            [batch, query, width]: the tokens that asked, as they are now, in the order of their places.
        """
        normed = self.before_attention(tokens)
        key, value = self._split(self.key(normed)), self._split(self.value(normed))
        asking = torch.cat([reading.asking for reading in readings])
        query = self._split(self.query(normed[:, asking]))
        parts = zip(torch.split(query, [len(reading.asking) for reading in readings], dim=2), readings, strict=True)
        read = torch.cat([_attend(part, key, value, reading) for part, reading in parts], dim=2)
        tokens = tokens[:, asking] + self.out(read.transpose(1, 2).flatten(2))
        wide = functional.gelu(self.widen(self.before_feedforward(tokens)))
        return torch.add(tokens, self.narrow(wide))[:, torch.argsort(asking)]

    def one_more(self, token: Tensor, before: Memory | None) -> tuple[Tensor, Memory]:
        """Let one more token [batch, 1, width] read itself and those before it, of which only keys and values are kept.

        Returns:
            the token as it is now, and the memory with it.
        """
        normed = self.before_attention(token)
        key, value = self._split(self.key(normed)), self._split(self.value(normed))
        if before is not None:
            key, value = torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)
        read = functional.scaled_dot_product_attention(self._split(self.query(normed)), key, value)
        token = token + self.out(read.transpose(1, 2).flatten(2))
        return token + self.narrow(functional.gelu(self.widen(self.before_feedforward(token)))), (key, value)

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.view(batch, length, self._heads, width // self._heads).transpose(1, 2)


class Layers(nn.Module):
    """Some layers in which all tokens of one modality read each other, and a last norm."""

    def __init__(self, size: Size) -> None:
        """Build the layers."""
        super().__init__()
        self.layers = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Change tokens [batch, token, width], of which those are read that the mask [batch, token] has."""
        everyone = torch.arange(tokens.shape[1], device=tokens.device)
        may_read = or_itself(mask.unsqueeze(1), everyone, everyone)
        for layer in self.layers:
            tokens = layer(tokens, may_read)
        return torch.as_tensor(self.norm(tokens))


def recomputed(part: Callable[[Unpack[Given]], Found], *given: *Given, again: bool) -> Found:
    """Run a part; `again` keeps nothing of it for the way back but what went in, and computes the rest once more."""
    if not again:
        return part(*given)
    found: Found = checkpoint(part, *given, use_reentrant=False, preserve_rng_state=False)
    return found


def or_itself(may_read: Tensor, asking: Tensor, asked: Tensor) -> Tensor:
    """Add that every token reads itself, so that no softmax runs over nothing (which would be NaN).

    Args:
        may_read: bool [batch, query or 1, key].
        asking: int64 [query], places of the tokens that read.
        asked: int64 [key], places of the tokens that are read.

    Returns:
        bool [batch, query, key].
    """
    return may_read | (asking.unsqueeze(1) == asked)


def _attend(query: Tensor, key: Tensor, value: Tensor, reading: Reading) -> Tensor:
    key, value = key[:, :, reading.asked], value[:, :, reading.asked]
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=reading.may_read.unsqueeze(1))
