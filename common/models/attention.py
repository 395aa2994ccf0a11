"""Attention as plain linear maps, so that per-example gradients are exact."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config import ModelConfig
from common.models.encoders.options import BytesOptions, VitOptions

Size = ModelConfig | BytesOptions | VitOptions


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
        normed = self.before_attention(tokens)
        query, key, value = (self._split(part(normed)) for part in (self.query, self.key, self.value))
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=may_read.unsqueeze(1))
        tokens = tokens + self.out(read.transpose(1, 2).reshape(tokens.shape))
        wide = functional.gelu(self.widen(self.before_feedforward(tokens)))
        return torch.add(tokens, self.narrow(wide))

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.view(batch, length, self._heads, width // self._heads).transpose(1, 2)


def allowed(policy: np.ndarray, key_mask: Tensor) -> Tensor:
    """Join policy [token, token] and key mask [batch, token]: bool [batch, token, token].

    Guarantees:
        never empty: every token reads itself, so that no softmax runs over nothing (which would be NaN).
    """
    itself = torch.eye(len(policy), dtype=torch.bool, device=key_mask.device)
    return (torch.from_numpy(policy).to(key_mask.device) & key_mask.unsqueeze(1)) | itself


class Layers(nn.Module):
    """Some layers in which all tokens of one modality read each other, and a last norm."""

    def __init__(self, size: Size) -> None:
        """Build the layers."""
        super().__init__()
        self.layers = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Change tokens [batch, token, width], of which those are read that the mask [batch, token] has."""
        may_read = allowed(np.ones((tokens.shape[1],) * 2, dtype=np.bool_), mask)
        for layer in self.layers:
            tokens = layer(tokens, may_read)
        return torch.as_tensor(self.norm(tokens))
