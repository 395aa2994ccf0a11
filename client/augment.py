"""Records altered before a training step looks at them: one draw a record, shared by all of its modalities.

Under privacy this is a part of what a step does with one record: it is drawn from the noise's own secret stream, and
what becomes of a record depends on no other. So a subject's gradient is one of altered records, clipped as ever, and
what adding or removing a subject moves is bounded by the same clip norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.augmentation import Augmentation
from common.data.batch import Batch, masked
from common.data.modalities import AudioSpec, ImageSpec, ModalitySpec, SignalSpec
from common.data.readings import steps_per_second

Uniforms = Callable[[str, int], np.ndarray]


_NO_AUGMENTATION = Augmentation()  # type: ignore[call-arg]  # the fields have defaults
# A record's draws: uniform on [-1, 1), but on [0, 1) where they say how long a stretch or band is, and where it begins.
_SIGNED = ("shift", "speed", "gain", "x", "y", "z", "across", "down", "zoom", "brightness", "flip")
_UNSIGNED = ("silence", "silence_begin", "band", "band_begin")
_Draws = dict[str, Tensor]


@dataclass(frozen=True)
class Altering:
    """What a step alters: the options, and what the modalities are."""

    options: Augmentation = _NO_AUGMENTATION
    modalities: Mapping[str, ModalitySpec] = field(default_factory=dict)

    @property
    def is_on(self) -> bool:
        """Whether anything is altered."""
        return self.options.in_time or self.options.in_images

    @property
    def recordings(self) -> dict[str, AudioSpec | SignalSpec]:
        """The sounds and signals."""
        return {name: spec for name, spec in self.modalities.items() if isinstance(spec, AudioSpec | SignalSpec)}


NOTHING_ALTERED = Altering()


def alter(sample: Batch, altering: Altering, uniforms: Uniforms) -> Batch:
    """Alter every row by draws in [0, 1) that `uniforms` has for each label.

    Guarantees:
        per row: what becomes of a row depends on that row and its own draws only, to the bit and wherever it stands.
        coherent: sounds and signals of a row are shifted, stretched and silenced by the same seconds on the record's
            own clock; those that turn turn alike.
        present: what a row lacks, it lacks afterwards too.
    """
    options = altering.options
    if not altering.is_on or not len(sample):
        return sample
    draws = _read(torch.from_numpy(uniforms("altering", (len(_SIGNED) + len(_UNSIGNED)) * len(sample))))
    if options.in_time and altering.recordings:
        sample = _noisy(_in_time(sample, altering, draws), altering, uniforms)
    if options.in_images:
        images = [name for name, spec in altering.modalities.items() if isinstance(spec, ImageSpec)]
        values = {name: masked(_image(sample.values[name], options, draws), sample.mask[name]) for name in images}
        sample = replace(sample, values=sample.values | values)
    return sample


def _read(uniforms: Tensor) -> _Draws:
    """Name each row's draws, float64 [row] each."""
    columns = uniforms.view(-1, len(_SIGNED) + len(_UNSIGNED)).unbind(dim=1)
    named = dict(zip((*_SIGNED, *_UNSIGNED), columns, strict=True))
    return named | {name: 2 * named[name] - 1 for name in _SIGNED}


def _in_time(sample: Batch, altering: Altering, draws: _Draws) -> Batch:
    options, specs = altering.options, altering.recordings
    starts = {name: sample.seconds[name][:, 0].double() for name in specs}
    there = {name: sample.mask[name].any(dim=1) for name in specs}
    first = torch.stack([starts[name].where(there[name], math.inf) for name in specs]).amin(dim=0)
    first = first.where(first.isfinite(), 0.0)
    longest = max(spec.num_steps / steps_per_second(spec) for spec in specs.values())
    values, mask = dict(sample.values), dict(sample.mask)
    for name, spec in specs.items():
        rate = steps_per_second(spec)
        steps = torch.arange(spec.num_steps, dtype=torch.float64).unsqueeze(0)
        late = starts[name] - first
        moved, seen = _moved(values[name], mask[name], _sources(steps, late * rate, rate, (options, draws)))
        seen = seen & ~_silenced(late.unsqueeze(1) + steps / rate, longest, options, draws)
        if name in options.rotated:
            moved = _turned(moved, options, draws)
        if isinstance(spec, AudioSpec) and options.bands:
            moved = _without_band(moved, options, draws)
        moved = moved * (1 + options.gain * draws["gain"]).to(moved.dtype).view(-1, *(1,) * (moved.dim() - 1))
        values[name], mask[name] = masked(moved, seen), seen
    return replace(sample, values=values, mask=mask)


def _sources(steps: Tensor, late: Tensor, rate: float, how: tuple[Augmentation, _Draws]) -> Tensor:
    """For each step, which one it gets its value from: [row, step]. `late` is how many steps after the first began."""
    options, draws = how
    faster, shift = options.speed * draws["speed"], options.shift_seconds * draws["shift"] * rate
    sources = steps + (steps * faster.unsqueeze(1) + (late * faster - shift).unsqueeze(1))
    return sources if options.speed else sources.round()  # whole steps: a shift alone smoothes nothing


def _moved(values: Tensor, mask: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Read values at steps that need not be whole ones, by straight lines between those; outside there is nothing."""
    last = values.shape[1] - 1
    before = sources.floor()
    share = (sources - before).to(values.dtype)
    after = before + (share > 0)
    inside = (before >= 0) & (after <= last)
    left, right = before.clamp(0, last).long(), after.clamp(0, last).long()
    rows = torch.arange(len(values)).unsqueeze(1)
    share = share.view(*share.shape, *(1,) * (values.dim() - 2))
    read = values[rows, left] * (1 - share) + values[rows, right] * share
    return read, inside & mask[rows, left] & mask[rows, right]


def _silenced(when: Tensor, longest: float, options: Augmentation, draws: _Draws) -> Tensor:
    length = options.silence_seconds * draws["silence"]
    begin = draws["silence_begin"] * (longest - length).clamp(min=0)
    return (when >= begin.unsqueeze(1)) & (when < (begin + length).unsqueeze(1))


def _turned(values: Tensor, options: Augmentation, draws: _Draws) -> Tensor:
    """Turn [row, step, axis] about a random axis; no angle's sine, which a library may round by its place in memory."""
    most = math.tan(math.radians(min(options.rotation_degrees, 179.0)) / 2) / math.sqrt(3)
    a, b, c = (most * draws[axis] for axis in "xyz")
    size = 1 + a * a + b * b + c * c
    rows = (
        ((1 + a * a - b * b - c * c) / size, 2 * (a * b - c) / size, 2 * (a * c + b) / size),
        (2 * (a * b + c) / size, (1 - a * a + b * b - c * c) / size, 2 * (b * c - a) / size),
        (2 * (a * c - b) / size, 2 * (b * c + a) / size, (1 - a * a - b * b + c * c) / size),
    )
    axes = values.unbind(dim=2)
    turned = [sum((by.to(v.dtype).unsqueeze(1) * v for by, v in zip(row, axes, strict=True)), 0.0) for row in rows]
    return torch.stack([torch.as_tensor(axis) for axis in turned], dim=2)


def _without_band(values: Tensor, options: Augmentation, draws: _Draws) -> Tensor:
    """Take a band out of each sound's spectrum; row by row, since a library may round by how many there are."""
    found = []
    for row, width, place in zip(values, draws["band"], draws["band_begin"], strict=True):
        spectrum = torch.fft.rfft(row)
        size = int(options.bands * width * len(spectrum))
        begin = int(place * (len(spectrum) - size))
        spectrum[begin : begin + size] = 0
        found.append(torch.fft.irfft(spectrum, len(row)))
    return torch.stack(found)


def _noisy(sample: Batch, altering: Altering, uniforms: Uniforms) -> Batch:
    """Add noise of its own to each sample: uniform, whose draws need no function that a library might round."""
    if not altering.options.noise:
        return sample
    values, size = dict(sample.values), 2 * math.sqrt(3) * altering.options.noise
    for name in altering.recordings:
        drawn = torch.from_numpy(uniforms(f"altering/{name}", values[name].numel())).view_as(values[name])
        values[name] = masked(values[name] + (size * (drawn - 1 / 2)).to(values[name].dtype), sample.mask[name])
    return replace(sample, values=values)


def _image(values: Tensor, options: Augmentation, draws: _Draws) -> Tensor:
    """Move, zoom, mirror and brighten images [row, 1, channel, height, width]; what comes in from outside is zero."""
    height, width = values.shape[-2:]
    zoom = 1 + options.image_zoom * draws["zoom"]
    mirror = 1 - 2 * ((draws["flip"] < 0) & options.image_flip).double()
    across, down = ((2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1 for size in (width, height))
    x = (mirror * zoom).unsqueeze(1) * across + 2 * (options.image_shift * draws["across"]).unsqueeze(1)
    y = zoom.unsqueeze(1) * down + 2 * (options.image_shift * draws["down"]).unsqueeze(1)
    grid = torch.stack([x.unsqueeze(1).expand(-1, height, -1), y.unsqueeze(2).expand(-1, -1, width)], dim=3)
    moved = functional.grid_sample(values[:, 0], grid.to(values.dtype), align_corners=False).unsqueeze(1)
    return moved + (options.image_brightness * draws["brightness"]).to(values.dtype).view(-1, 1, 1, 1, 1)
