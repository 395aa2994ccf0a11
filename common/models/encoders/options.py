"""Which encoders there are and how large they may be: `model.encoders.NAME` in the configuration, told apart by `kind`.

What stands at None follows from the modality's public description, so that no default fits one size of record only.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from common.models.backbones.options import (
    EfficientNetOptions,
    HuggingFaceOptions,
    MiniLmOptions,
    TorchvisionOptions,
)
from common.section import Section

NUM_GROUPS = 4
"""Groups of every GroupNorm; two channels a group are the fewest that a variance can be taken over."""
Channels = Annotated[int, Field(ge=2 * NUM_GROUPS, le=1024, multiple_of=NUM_GROUPS)]


class LinearOptions(Section):
    """A table: a linear map of its features."""

    kind: Literal["linear"] = "linear"
    reads: ClassVar[tuple[str, ...]] = ("tabular",)


class _TransformerOptions(Section):
    width: int = Field(default=32, ge=2, le=4096, description="Width of a token inside the encoder.")
    layers: int = Field(default=1, ge=0, le=48, description="Transformer layers.")
    heads: int = Field(default=2, ge=1, le=64, description="Attention heads; must divide width.")
    feedforward: int = Field(default=64, ge=2, description="Width of the feed-forward layer.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> _TransformerOptions:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} and {self.width}")
        return self


class BytesOptions(_TransformerOptions):
    """A text: a transformer over patches of its bytes."""

    kind: Literal["bytes"] = "bytes"
    reads: ClassVar[tuple[str, ...]] = ("text",)
    patch: int = Field(default=4, ge=1, le=64, description="Bytes that are one token together.")


class VitOptions(_TransformerOptions):
    """An image: a transformer over its patches."""

    kind: Literal["vit"] = "vit"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    patch: int | None = Field(
        default=None, ge=1, le=1024, description="Side of a patch in pixels; default: an eighth of the longer side."
    )


class CnnOptions(Section):
    """An image: convolutions with GroupNorm; every stage halves height and width."""

    kind: Literal["cnn"] = "cnn"
    reads: ClassVar[tuple[str, ...]] = ("image",)
    channels: Channels = Field(default=16, description="Channels of the first stage; later stages have twice as many.")
    stages: int | None = Field(
        default=None, ge=1, le=9, description="Halvings; default: until at most 8 places a side are left."
    )


class MelOptions(Section):
    """A sound: its log-mel spectrum, and convolutions with GroupNorm over time and frequency."""

    kind: Literal["mel"] = "mel"
    reads: ClassVar[tuple[str, ...]] = ("audio",)
    mels: int = Field(default=64, ge=8, le=256, description="Bands of the spectrum.")
    hop_seconds: float = Field(default=0.01, gt=0, le=10, description="Time from one spectrum to the next.")
    window_seconds: float = Field(default=0.025, gt=0, le=10, description="Length of sound in one spectrum.")
    channels: Channels = Field(default=16, description="Channels of the first stage; later stages have twice as many.")
    stages: int = Field(default=3, ge=1, le=8, description="Halvings of time and frequency.")


class PatchesOptions(Section):
    """A signal: patches of time, and convolutions with GroupNorm over them."""

    kind: Literal["patches"] = "patches"
    reads: ClassVar[tuple[str, ...]] = ("signal",)
    patch: int | None = Field(
        default=None, ge=1, description="Samples of one token; default: so many that there are 64."
    )
    channels: Channels = Field(default=32, description="Channels.")
    layers: int = Field(default=2, ge=0, le=48, description="Residual convolutions over neighbouring tokens.")


EncoderOptions = Annotated[
    LinearOptions
    | BytesOptions
    | VitOptions
    | CnnOptions
    | MelOptions
    | PatchesOptions
    | MiniLmOptions
    | EfficientNetOptions
    | HuggingFaceOptions
    | TorchvisionOptions,
    Field(discriminator="kind"),
]
_EVERY: tuple[type[EncoderOptions], ...] = get_args(get_args(EncoderOptions)[0])
READS: dict[str, tuple[str, ...]] = {options.model_fields["kind"].default: options.reads for options in _EVERY}
"""By encoder, the kinds of modality that it reads."""
DEFAULTS: dict[str, EncoderOptions] = {
    "tabular": LinearOptions(),
    "text": BytesOptions(),
    "image": CnnOptions(),
    "audio": MelOptions(),
    "signal": PatchesOptions(),
}
