"""One transformer over all tokens; a policy says who may attend to whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from common.config import FusionConfig, ModelConfig
from common.data.modalities import ModalitySpec
from common.data.readings import steps_per_second
from common.models.attention import Block, Reading, or_itself, recomputed

_LATENT = -1


@dataclass(frozen=True)
class Segments:
    """Whose each token is: [token], index of the modality, or -1 for a latent; and what the policies need to know.

    Policies tell tokens apart by their owner only, so that one entry for all tokens of an owner says as much.
    """

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

    def __init__(self, config: FusionConfig, model: ModelConfig, modalities: Mapping[str, ModalitySpec]) -> None:
        """Build it for these modalities, in the order in which their tokens will come.

        Raises:
            ValueError: fusion.query names no modality of the schema.
        """
        super().__init__()
        self._modalities = tuple(modalities)
        if config.query is not None and config.query not in modalities:
            raise ValueError(f"fusion.query must be one of {', '.join(modalities)}, got {config.query!r}")
        query = self._modalities.index(config.query) if config.query else 0
        self.num_latents = _OWN_LATENTS.get(config.kind, config.latents)
        owner = [*range(len(modalities)), *([_LATENT] if self.num_latents else [])]
        segments = Segments(np.array(owner), query, config.hybrid_layers)
        self._groups = [groups_of(POLICIES[config.kind](layer, segments)) for layer in range(model.layers)]
        if self.num_latents:
            # The answer is read from the latents, so nobody else need ask in the last layer.
            latent = len(modalities)
            self._groups[-1] = [((latent,), asked) for asking, asked in self._groups[-1] if latent in asking]
            self.latents = nn.Embedding(self.num_latents, model.width)
        self._window, self._recompute = config.window_seconds, model.recompute
        self._timed = [steps_per_second(spec) < float("inf") for spec in modalities.values()]
        self.layers = nn.ModuleList(Block(model) for _ in range(model.layers))
        self.norm = nn.LayerNorm(model.width)

    def forward(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor], seconds: Mapping[str, Tensor]
    ) -> Tensor:
        """Fuse tokens [batch, token, width] of every modality into one vector a row: [batch, width].

        A row in which nothing is present still gets an answer: what the model says about nobody in particular.

        Args:
            tokens: by modality.
            masks: which of them are there, bool [batch, token].
            seconds: when each was measured, [batch, token]; only a time window asks.
        """
        parts, seen, when = ([given[name] for name in self._modalities] for given in (tokens, masks, seconds))
        timed = [torch.full_like(mask[0], known) for mask, known in zip(seen, self._timed, strict=True)]
        if self.num_latents:
            rows, device = len(parts[0]), parts[0].device
            ids = torch.arange(self.num_latents, device=device).repeat(rows, 1)
            parts.append(self.latents(ids))
            seen.append(torch.ones_like(ids, dtype=torch.bool))
            when.append(torch.zeros(ids.shape, device=device))
            timed.append(torch.zeros(self.num_latents, dtype=torch.bool, device=device))
        lengths = [part.shape[1] for part in parts]
        line = Line(lengths, torch.cat(seen, dim=1), torch.cat(when, dim=1), torch.cat(timed), self._window)
        together: Tensor = torch.cat(parts, dim=1)
        for block, groups in zip(self.layers, self._groups, strict=True):
            readings = [line.reading(*group) for group in groups]
            again = self._recompute and self.training
            together = recomputed(cast("Block", block).by_group, together, readings, again=again)
        together = self.norm(together)
        if self.num_latents:
            return together.mean(dim=1)
        return mean_of_modalities(torch.split(together, lengths, dim=1), seen)


@dataclass(frozen=True)
class Line:
    """All tokens of a batch in one line, segment after segment: lengths, and of each token what attention asks for.

    Attributes:
        lengths: tokens of each segment.
        mask: bool [batch, token].
        seconds: [batch, token].
        timed: bool [token], whether a token has a time at all.
        window_seconds: how far apart two tokens that have a time may be; None: any distance.
    """

    lengths: Sequence[int]
    mask: Tensor
    seconds: Tensor
    timed: Tensor
    window_seconds: float | None

    def reading(self, asking: Sequence[int], asked: Sequence[int]) -> Reading:
        """Let the tokens of some segments read those of some."""
        everyone = torch.split(torch.arange(sum(self.lengths), device=self.mask.device), list(self.lengths))
        query, key = (torch.cat([everyone[segment] for segment in segments]) for segments in (asking, asked))
        may_read = self.mask[:, key].unsqueeze(1)
        if self.window_seconds is not None:
            apart = (self.seconds[:, query].unsqueeze(2) - self.seconds[:, key].unsqueeze(1)).abs()
            both_timed = self.timed[query].unsqueeze(1) & self.timed[key]
            may_read = may_read & ((apart <= self.window_seconds) | ~both_timed)
        return Reading(query, key, or_itself(may_read, query, key))


Group = tuple[tuple[int, ...], tuple[int, ...]]


def groups_of(policy: np.ndarray) -> list[Group]:
    """Put segments that read the same ones together: from bool [segment, segment] to (who asks, who is asked)."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for segment, row in enumerate(policy):
        groups.setdefault(tuple(np.flatnonzero(row).tolist()), []).append(segment)
    return [(tuple(asking), asked) for asked, asking in groups.items()]


def pooled(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average tokens [batch, token, width] where the mask [batch, token] allows: [batch, width]; none: zeros."""
    weight = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)


def mean_of_modalities(parts: tuple[Tensor, ...], masks: list[Tensor]) -> Tensor:
    """Average the pooled tokens of the modalities that a row has: [batch, width]; none: zeros."""
    each = torch.stack([pooled(part, mask) for part, mask in zip(parts, masks, strict=True)], dim=1)
    return pooled(each, torch.stack([mask.any(dim=1) for mask in masks], dim=1))
