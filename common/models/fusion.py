"""One transformer over all tokens; a policy says who may attend to whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.config import FusionConfig, ModelConfig
from common.models.attention import Block, allowed

_LATENT = -1


@dataclass(frozen=True)
class Segments:
    """Whose each token is: [token], index of the modality, or -1 for a latent; and what the policies need to know."""

    owner: np.ndarray
    query: int
    hybrid_layers: int

    @property
    def same(self) -> np.ndarray:
        """[token, token] True within one modality, and among latents."""
        return np.asarray(self.owner[:, None] == self.owner[None, :])

    @property
    def latent_rows(self) -> np.ndarray:
        """[token, 1] True where a latent asks."""
        return np.asarray(self.owner == _LATENT)[:, None]

    @property
    def latent_columns(self) -> np.ndarray:
        """[1, token] True where a latent is asked."""
        return np.asarray(self.owner == _LATENT)[None, :]


Policy = Callable[[int, Segments], np.ndarray]


def _early(_layer: int, segments: Segments) -> np.ndarray:
    return np.ones_like(segments.same)


def _late(_layer: int, segments: Segments) -> np.ndarray:
    return segments.same


def _hybrid(layer: int, segments: Segments) -> np.ndarray:
    return segments.same if layer < segments.hybrid_layers else np.ones_like(segments.same)


def _bottleneck(_layer: int, segments: Segments) -> np.ndarray:
    return np.asarray(segments.same | segments.latent_rows | segments.latent_columns)


def _perceiver(_layer: int, segments: Segments) -> np.ndarray:
    return np.asarray(segments.same | segments.latent_rows)


def _cross(_layer: int, segments: Segments) -> np.ndarray:
    reads_all = (segments.owner == segments.query) | (segments.owner == _LATENT)
    return np.asarray(segments.same | reads_all[:, None])


# (layer, segments) -> bool [token, token]: may the row's token read the column's? Source of bottleneck: Nagrani et al.
# 2021, arXiv:2107.00135; of perceiver: Jaegle et al. 2021, arXiv:2103.03206.
POLICIES: dict[str, Policy] = {
    "early": _early,
    "late": _late,
    "hybrid": _hybrid,
    "bottleneck": _bottleneck,
    "perceiver": _perceiver,
    "cross": _cross,
}
# Tokens of the model's own, from which the answer is read. Without any, the modalities' pooled tokens are averaged.
_OWN_LATENTS = {"early": 0, "cross": 1, "late": 0, "hybrid": 0}


class Fusion(nn.Module):
    """The fusion transformer."""

    def __init__(self, config: FusionConfig, model: ModelConfig, modalities: tuple[str, ...]) -> None:
        """Build it for these modalities, in the order in which their tokens will come.

        Raises:
            ValueError: fusion.query names no modality of the schema.
        """
        super().__init__()
        if config.query is not None and config.query not in modalities:
            raise ValueError(f"fusion.query must be one of {', '.join(modalities)}, got {config.query!r}")
        self._policy = POLICIES[config.kind]
        self._query = modalities.index(config.query) if config.query else 0
        self._hybrid_layers = config.hybrid_layers
        self._modalities = modalities
        self.num_latents = _OWN_LATENTS.get(config.kind, config.latents)
        if self.num_latents:
            self.latents = nn.Embedding(self.num_latents, model.width)
        self.layers = nn.ModuleList(Block(model) for _ in range(model.layers))
        self.norm = nn.LayerNorm(model.width)

    def forward(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """Fuse tokens [batch, token, width] of every modality into one vector a row: [batch, width].

        A row in which nothing is present still gets an answer: what the model says about nobody in particular.
        """
        first = tokens[self._modalities[0]]
        parts, seen = [tokens[name] for name in self._modalities], [masks[name] for name in self._modalities]
        owner = [np.full(part.shape[1], place) for place, part in enumerate(parts)]
        if self.num_latents:
            ids = torch.arange(self.num_latents, device=first.device).repeat(len(first), 1)
            parts.append(self.latents(ids))
            seen.append(torch.ones_like(ids, dtype=torch.bool))
            owner.append(np.full(self.num_latents, _LATENT))
        together: Tensor = torch.cat(parts, dim=1)
        key_mask = torch.cat(seen, dim=1)
        segments = Segments(np.concatenate(owner), self._query, self._hybrid_layers)
        for layer, block in enumerate(self.layers):
            together = block(together, allowed(self._policy(layer, segments), key_mask))
        together = self.norm(together)
        if self.num_latents:
            return together[:, -self.num_latents :].mean(dim=1)
        lengths = [part.shape[1] for part in parts]
        return mean_of_modalities(torch.split(together, lengths, dim=1), seen)


def pooled(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average tokens [batch, token, width] where the mask [batch, token] allows: [batch, width]; none: zeros."""
    weight = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)


def mean_of_modalities(parts: tuple[Tensor, ...], masks: list[Tensor]) -> Tensor:
    """Average the pooled tokens of the modalities that a row has: [batch, width]; none: zeros."""
    each = torch.stack([pooled(part, mask) for part, mask in zip(parts, masks, strict=True)], dim=1)
    return pooled(each, torch.stack([mask.any(dim=1) for mask in masks], dim=1))
