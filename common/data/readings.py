"""What one modality's cells hold, brought to the modality's public shape, and what a model gets of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.data.modalities import AudioSpec, ImageSpec, ModalitySpec, SignalSpec, TabularSpec, TextSpec

PADDING, BEGIN, END, MASKED = range(4)
"""Tokens of a text that stand for no byte."""
FIRST_BYTE = 4
NUM_TOKENS = FIRST_BYTE + 256
"""Texts are read byte by byte (UTF-8): a vocabulary that is public, and the same at every site."""


@dataclass(frozen=True)
class Readings:
    """One modality of a site's rows, as they are: nothing scaled.

    Attributes:
        values: [row, ...]; a table float64 [row, feature without indicators] with NaN where nothing was measured; an
            image unsigned integers [row, channel, height, width], whose whole range is the public window; a text uint16
            [row, token]; a sound float32 [row, sample]; a signal float32 [row, sample, channel].
        lengths: int64 [row], how many steps in time are there, from the first; 0: the modality is missing.
        starts: float64 [row], the second at which the first step was measured.
    """

    values: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray

    def only(self, rows: np.ndarray) -> Readings:
        """Keep some rows: indices, or bool [row]."""
        return Readings(self.values[rows], self.lengths[rows], self.starts[rows])


def of_table(values: np.ndarray) -> Readings:
    """A table's readings; a row in which nothing was measured is missing."""
    present = np.isfinite(values).any(axis=1).astype(np.int64)
    return Readings(values, present, np.zeros(len(values)))


def step_shape(spec: ModalitySpec) -> tuple[int, ...]:
    """The shape of one step in time, as a model gets it."""
    return _STEPS[spec.kind](spec)


def steps_per_second(spec: ModalitySpec) -> float:
    """How many steps a second has; infinitely many where there is only one step, or steps are not in time."""
    return float(spec.sample_rate) if isinstance(spec, AudioSpec | SignalSpec) else float("inf")


def scaled(values: np.ndarray, spec: ModalitySpec) -> np.ndarray:
    """Bring readings [row, ...] to what a model gets, [row, step, ...]: float32, but int64 for tokens.

    By public facts only. Images and bounded channels end in [-1, 1].

    Raises:
        TypeError: the modality is a table, whose scale the federation may have to agree on (`normalise.features`).
    """
    return _SCALED[spec.kind](values, spec)


def _image(values: np.ndarray, _spec: ModalitySpec) -> np.ndarray:
    half = np.float32(np.iinfo(values.dtype).max) / 2
    return (values.astype(np.float32) / half - np.float32(1.0))[:, None]


def _signal(values: np.ndarray, spec: ModalitySpec) -> np.ndarray:
    if not isinstance(spec, SignalSpec):
        raise TypeError(f"a signal was expected, got {spec.kind}")
    low, high = np.array([spec.bounds.get(channel, (-1.0, 1.0)) for channel in spec.channels], dtype=np.float32).T
    limit = np.array([1.0 if channel in spec.bounds else np.inf for channel in spec.channels], dtype=np.float32)
    return np.asarray(np.clip((values - (low + high) / 2) / ((high - low) / 2), -limit, limit))


def _table(_values: np.ndarray, spec: ModalitySpec) -> np.ndarray:
    raise TypeError(f"a {spec.kind} modality is scaled by a normaliser")


_SCALED: dict[str, Callable[[np.ndarray, ModalitySpec], np.ndarray]] = {
    "tabular": _table,
    "image": _image,
    "text": lambda values, _spec: values.astype(np.int64),
    "audio": lambda values, _spec: np.clip(values, -1.0, 1.0, dtype=np.float32),
    "signal": _signal,
}


def _step_of_table(spec: ModalitySpec) -> tuple[int, ...]:
    return (spec.num_features,) if isinstance(spec, TabularSpec) else ()


def _step_of_image(spec: ModalitySpec) -> tuple[int, ...]:
    return (spec.channels, *spec.size) if isinstance(spec, ImageSpec) else ()


def _step_of_signal(spec: ModalitySpec) -> tuple[int, ...]:
    return (len(spec.channels),) if isinstance(spec, SignalSpec) else ()


_STEPS: dict[str, Callable[[ModalitySpec], tuple[int, ...]]] = {
    "tabular": _step_of_table,
    "image": _step_of_image,
    "text": lambda _spec: (),
    "audio": lambda _spec: (),
    "signal": _step_of_signal,
}
KINDS = tuple(_STEPS)


def is_tokens(spec: ModalitySpec) -> bool:
    """Whether a model gets whole numbers, each the name of a token."""
    return isinstance(spec, TextSpec)
