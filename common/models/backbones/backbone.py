"""A pretrained network in the model's place for it: frozen, checked, with or without something to train inside."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor, nn

from common.data.batch import no_values
from common.data.modalities import AudioSpec, ImageSpec, ModalitySpec, TextSpec
from common.models.backbones.adapters import add_adapter
from common.models.backbones.audio import HuggingFaceAudio
from common.models.backbones.files import folder_of, refuse_other_bytes
from common.models.backbones.frozen import freeze
from common.models.backbones.image import EfficientNetLite, HuggingFaceImage, TorchvisionImage
from common.models.backbones.options import (
    BackboneOptions,
    EfficientNetOptions,
    HuggingFaceOptions,
    MiniLmOptions,
    TorchvisionOptions,
)
from common.models.backbones.text import HuggingFaceText
from common.models.encoders.projection import patch_places


class Backbone(nn.Module):
    """A frozen network as an encoder of features: tokens of its own width, which a projection brings to the model's."""

    def __init__(self, name: str, spec: ModalitySpec, options: BackboneOptions) -> None:
        """Load the network of one modality.

        Raises:
            ValueError: it is missing, has other bytes than the run was composed with, or does not fit the modality.
        """
        super().__init__()
        refuse_other_bytes(name, options)
        try:
            loaded = _load(spec, options.model_copy(update={"adapter": None}))
            self.network = loaded.network
            if options.adapter is not None:
                self.network = deepcopy(self.network)
                add_adapter(self.network, options.adapter)
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"model.encoders.{name}: {error}") from error
        self._steps, self.width = spec.num_steps, loaded.width
        self._pooled = not isinstance(options, EfficientNetOptions | HuggingFaceOptions) or options.pooled
        self._tokens = 1 if self._pooled else loaded.tokens
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay as in evaluation: a frozen network drops nothing out and masks nothing. Adapters' linear maps follow."""
        super().train(False)
        for module in self.modules():
            if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
                module.train(mode)
        return self

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, time, ...] under mask [batch, time].

        Returns:
            features [batch, token, width of the network], zero where the mask is False, and their mask [batch, token].
        """
        features, there = self.network(values, mask)
        if self._pooled:
            weight = there.unsqueeze(-1).to(features.dtype)
            features = ((features * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)).unsqueeze(1)
        seen = mask.any(dim=1, keepdim=True).expand(-1, self._tokens)
        return features.masked_fill(~seen.unsqueeze(-1), 0.0), seen

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""
        seen, when = patch_places(mask, seconds, self._steps)
        return seen.expand(-1, self._tokens), when.expand(-1, self._tokens)


@dataclass(frozen=True)
class Loaded:
    """A frozen network, how many tokens it gives of a record, and how wide they are."""

    network: nn.Module
    tokens: int
    width: int


@lru_cache(maxsize=8)
def _load(spec: ModalitySpec, options: BackboneOptions) -> Loaded:
    """Load a network once a process: nothing changes it, so that models may share it; its hash is among the options.

    Raises:
        ValueError: this combination is not offered, or the files do not fit together.
    """
    network = freeze(_network(spec, options))
    with torch.no_grad():
        example, _ = network(no_values(spec, 1), torch.ones(1, spec.num_steps, dtype=torch.bool))
    return Loaded(network, int(example.shape[1]), int(example.shape[2]))


def _network(spec: ModalitySpec, options: BackboneOptions) -> nn.Module:
    match spec, options:
        case TextSpec(), HuggingFaceOptions(pooled=True) | MiniLmOptions():
            return HuggingFaceText(spec, folder_of(options))
        case AudioSpec(), HuggingFaceOptions(pooled=True):
            return HuggingFaceAudio(spec, folder_of(options))
        case ImageSpec(), HuggingFaceOptions():
            return HuggingFaceImage(folder_of(options))
        case ImageSpec(), EfficientNetOptions():
            return EfficientNetLite()
        case ImageSpec(), TorchvisionOptions():
            return TorchvisionImage(options)
        case _, HuggingFaceOptions():
            raise ValueError("pooled=false is for images: how many tokens another record has is not public")
    raise TypeError(f"no network is built from {type(options).__name__} for {spec.kind}")
