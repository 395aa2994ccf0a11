"""What a record is asked to tell: a text that it was not shown, or pieces of a modality that were hidden from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config import ModelConfig
from common.data.modalities import ModalitySpec
from common.data.pieces import Pieces, answer_width, num_pieces
from common.data.readings import BEGIN, END, FIRST_BYTE, NUM_TOKENS
from common.models.attention import Block, Memory
from common.models.outputs import Told

_GIVEN = 2  # places before a text's second token: the record's vector, what stands before a text, and BEGIN


class Teller(nn.Module):
    """A small causal transformer that tells a text, one byte after the other, from one vector a record."""

    def __init__(self, size: ModelConfig, *, layers: int, length: int) -> None:
        """Build it for texts of up to `length` bytes."""
        super().__init__()
        self._length = length
        self.begin = nn.Linear(size.width, size.width)
        self.byte = nn.Embedding(NUM_TOKENS, size.width)
        self.place = nn.Embedding(length + 1, size.width)
        self.layers = nn.ModuleList(Block(size) for _ in range(layers))
        self.norm = nn.LayerNorm(size.width)
        self.next = nn.Linear(size.width, NUM_TOKENS)

    def forward(self, fused: Tensor, text: Tensor, mask: Tensor) -> Told:
        """Say each byte of a text [batch, byte], and where it ends, from a vector [batch, width] and the bytes before.

        A text that is not there has nothing to be said.
        """
        last = mask & ~functional.pad(mask[:, 1:], (0, 1))
        end = functional.pad(last[:, :-1], (1, 0))
        return Told(self.following(fused, text[:, :-1]), text.masked_fill(end, END), mask | end)

    def following(self, fused: Tensor, text: Tensor) -> Tensor:
        """Logits of the first byte, and of the one after each of text [batch, byte]: [batch, byte + 1, token]."""
        first: Tensor = self.begin(fused).unsqueeze(1)
        tokens = torch.cat([first, self.byte(functional.pad(text, (1, 0), value=BEGIN))], dim=1)
        rows, length, _ = tokens.shape
        tokens = tokens + self.place(torch.arange(length, device=text.device).repeat(rows, 1))
        may_read = torch.ones(length, length, dtype=torch.bool, device=text.device).tril().expand(rows, -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, may_read)
        logits: Tensor = self.next(self.norm(tokens[:, 1:]))
        return logits

    def write(self, fused: Tensor) -> Tensor:
        """Write a text for each vector [batch, width], always the likeliest byte next: int64 [batch, token].

        Guarantees:
            even: every text is the same work, wherever it ends, so that the time it takes tells nothing of it; what
                stands after the first END means nothing.
        """
        first = torch.full((len(fused), 1), BEGIN, device=fused.device)
        memories: list[Memory | None] = [None] * len(self.layers)
        token, text = self.begin(fused).unsqueeze(1), [first]
        for place in range(self._length + 1):
            token = token + self.place.weight[place]
            for number, layer in enumerate(self.layers):
                token, memories[number] = cast("Block", layer).one_more(token, memories[number])
            if place >= _GIVEN:
                logits = self.next(self.norm(token[:, 0]))
                ends, byte = logits[:, END : END + 1], logits[:, FIRST_BYTE:]
                choice = torch.cat([ends, byte], dim=1).argmax(dim=1, keepdim=True)
                text.append(torch.where(choice == 0, END, choice - 1 + FIRST_BYTE))
            token = self.byte(text[-1])
        return torch.cat(text, dim=1)


class Restorer(nn.Module):
    """Asks, for every piece of a modality, what it held; every modality's tokens are read for the answer."""

    def __init__(self, spec: ModalitySpec, size: ModelConfig) -> None:
        """Build it for one modality."""
        super().__init__()
        self.place = nn.Embedding(num_pieces(spec), size.width)
        self.read = Block(size)
        self.norm = nn.LayerNorm(size.width)
        self.answer = nn.Linear(size.width, answer_width(spec))

    def forward(self, tokens: Sequence[Tensor], masks: Sequence[Tensor], pieces: Pieces, hidden: Tensor) -> Told:
        """Answer for all pieces from tokens [batch, token, width] of each modality; those count that were hidden."""
        rows, number = hidden.shape
        asked = self.place(torch.arange(number, device=hidden.device).repeat(rows, 1))
        seen = torch.cat([*masks, torch.zeros_like(hidden)], dim=1)
        may_read = seen.unsqueeze(1) | torch.eye(seen.shape[1], dtype=torch.bool, device=hidden.device)
        read = self.read(torch.cat([*tokens, asked], dim=1), may_read)[:, -number:]
        return Told(self.answer(self.norm(read)), pieces.target, pieces.there & hidden)
