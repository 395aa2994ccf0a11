"""Which encoder a modality gets. A new one is a file, a section of options.py, and a row of this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from torch import Tensor, nn

from common.data.modalities import AudioSpec, ImageSpec, ModalitySpec, SignalSpec, TabularSpec, TextSpec
from common.models.backbones.backbone import Backbone
from common.models.backbones.options import BackboneOptions
from common.models.encoders import options as sizes
from common.models.encoders.audio_mel import AudioMel
from common.models.encoders.image_cnn import ImageCnn
from common.models.encoders.image_vit import ImageVit
from common.models.encoders.options import DEFAULTS, READS, EncoderOptions
from common.models.encoders.signal_patches import SignalPatches
from common.models.encoders.tabular import TabularEncoder
from common.models.encoders.text_bytes import TextBytes

Spec = TypeVar("Spec")
Size = TypeVar("Size")
Builder = Callable[[ModalitySpec, EncoderOptions, int], nn.Module]


class Encoder(Protocol):
    """From values to tokens. A row's tokens depend on that row only, and how many there are on no row at all."""

    def __call__(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode values [batch, time, ...] under mask [batch, time].

        Returns:
            tokens [batch, token, width], zero where the mask is False, and their mask [batch, token].
        """

    def places(self, mask: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are there, and when each was measured: bool and float32 [batch, token]."""


def build_backbones(
    modalities: Mapping[str, ModalitySpec], options: Mapping[str, EncoderOptions]
) -> dict[str, Backbone]:
    """Load the pretrained networks that the configuration asks for, by modality.

    Raises:
        ValueError: a network reads another kind of modality, is missing, or is not the one that was agreed on.
    """
    found = {}
    for name, spec in modalities.items():
        chosen = options.get(name)
        if isinstance(chosen, BackboneOptions):
            refuse_misfit(name, spec, chosen)
            found[name] = Backbone(name, spec, chosen)
    return found


def build_encoder(name: str, spec: ModalitySpec, options: EncoderOptions | None, width: int) -> nn.Module:
    """Build a modality's encoder from scratch: the one that the configuration asks for, or the default of its kind.

    Raises:
        ValueError: the encoder reads another kind of modality.
    """
    chosen = options or DEFAULTS[spec.kind]
    refuse_misfit(name, spec, chosen)
    return ENCODERS[chosen.kind](spec, chosen, width)


def refuse_misfit(name: str, spec: ModalitySpec, options: EncoderOptions) -> None:
    """Check that an encoder reads the kind of modality that it is given.

    Raises:
        ValueError: it does not.
    """
    if spec.kind not in options.reads:
        fitting = ", ".join(kind for kind, reads in READS.items() if spec.kind in reads)
        raise ValueError(
            f"model.encoders.{name}: {options.kind} reads {' or '.join(options.reads)}, and {name} is"
            f" {spec.kind}; for that there is {fitting}"
        )


def _typed(spec: type[Spec], size: type[Size], build: Callable[[Spec, Size, int], nn.Module]) -> Builder:
    def checked(given: ModalitySpec, options: EncoderOptions, width: int) -> nn.Module:
        if not isinstance(given, spec) or not isinstance(options, size):
            raise TypeError(f"{build} is not built from {type(given).__name__} and {type(options).__name__}")
        return build(given, options, width)

    return checked


ENCODERS: dict[str, Builder] = {
    "linear": _typed(TabularSpec, sizes.LinearOptions, TabularEncoder),
    "bytes": _typed(TextSpec, sizes.BytesOptions, TextBytes),
    "cnn": _typed(ImageSpec, sizes.CnnOptions, ImageCnn),
    "vit": _typed(ImageSpec, sizes.VitOptions, ImageVit),
    "mel": _typed(AudioSpec, sizes.MelOptions, AudioMel),
    "patches": _typed(SignalSpec, sizes.PatchesOptions, SignalPatches),
}
