"""A pretrained network in the model's place for it: frozen, checked, with or without something to train inside."""

from __future__ import annotations

from copy import deepcopy
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
            self.network = _frozen(spec, options.model_copy(update={"adapter": None}), options.sha256)
            if options.adapter is not None:
                self.network = deepcopy(self.network)
                add_adapter(self.network, options.adapter)
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"model.encoders.{name}: {error}") from error
        self._steps = spec.num_steps
        self._pooled = not isinstance(options, EfficientNetOptions | HuggingFaceOptions) or options.pooled
        self.eval()
        with torch.no_grad():
            example, _ = self.network(no_values(spec, 1), torch.ones(1, spec.num_steps, dtype=torch.bool))
        self._tokens, self.width = (1 if self._pooled else example.shape[1]), int(example.shape[2])

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
        return features.float().masked_fill(~seen.unsqueeze(-1), 0.0), seen

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""
        seen, when = patch_places(mask, seconds, self._steps)
        return seen.expand(-1, self._tokens), when.expand(-1, self._tokens)


@lru_cache(maxsize=8)
def _frozen(spec: ModalitySpec, options: BackboneOptions, _sha256: str | None) -> nn.Module:
    """Load a network once a process: nothing changes it, so that models may share it.

    Raises:
        ValueError: this combination is not offered, or the files do not fit together.
    """
    match spec, options:
        case TextSpec(), HuggingFaceOptions(pooled=True) | MiniLmOptions():
            return freeze(HuggingFaceText(spec, folder_of(options)))
        case AudioSpec(), HuggingFaceOptions(pooled=True):
            return freeze(HuggingFaceAudio(spec, folder_of(options)))
        case ImageSpec(), HuggingFaceOptions():
            return freeze(HuggingFaceImage(folder_of(options)))
        case ImageSpec(), EfficientNetOptions():
            return freeze(EfficientNetLite())
        case ImageSpec(), TorchvisionOptions():
            return freeze(TorchvisionImage(options))
        case _, HuggingFaceOptions():
            raise ValueError("pooled=false is for images: how many tokens another record has is not public")
    raise TypeError(f"no network is built from {type(options).__name__} for {spec.kind}")
