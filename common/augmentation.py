"""How records are altered before a training step looks at them, so that a model learns what stays the same."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from common.section import Section

Share = Annotated[float, Field(ge=0, lt=1)]


class Augmentation(Section):
    """What is drawn anew for each record and step, once for all of its modalities; texts and tables stay."""

    shift_seconds: float = Field(0.0, ge=0, le=86_400, description="Sounds and signals move in time, together.")
    speed: Share = Field(0.0, description="By which share sounds and signals run faster or slower, together.")
    silence_seconds: float = Field(
        0.0, ge=0, le=86_400, description="The longest stretch of time that is taken out of all sounds and signals."
    )
    gain: Share = Field(0.0, description="By which share sounds and signals are louder or quieter, together.")
    noise: float = Field(
        0.0, ge=0, le=10, description="Std of the noise in every sample of a sound or signal, each scaled to [-1, 1]."
    )
    rotation_degrees: float = Field(0.0, ge=0, le=180, description="How far the signals in `rotated` turn, together.")
    rotated: tuple[str, ...] = Field((), description="Signals of three axes each, all of the same device.")
    bands: Share = Field(0.0, description="The largest share of a sound's spectrum that is taken out (SpecAugment).")
    image_shift: Share = Field(0.0, description="How far images move, as a share of their sides.")
    image_zoom: Share = Field(0.0, description="By which share images are larger, cropped, or smaller.")
    image_brightness: float = Field(0.0, ge=0, le=2, description="What images get brighter or darker by, of [-1, 1].")
    image_flip: bool = Field(False, description="Half of the images are mirrored: only where no side has a meaning.")

    @model_validator(mode="after")
    def _turns_something(self) -> Augmentation:
        if bool(self.rotation_degrees) != bool(self.rotated):
            raise ValueError("augment: rotation_degrees says how far, rotated which signals; one without the other is")
        return self

    @property
    def in_time(self) -> bool:
        """Whether sounds and signals are altered."""
        return any((self.shift_seconds, self.speed, self.silence_seconds, self.gain, self.noise, self.bands)) or bool(
            self.rotated
        )

    @property
    def in_images(self) -> bool:
        """Whether images are altered."""
        return any((self.image_shift, self.image_zoom, self.image_brightness, self.image_flip))
