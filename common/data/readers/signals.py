"""Signals: named channels of samples in time, brought to one rate; CSV and NPY here, WFDB and EDF beside."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from common.data.modalities import ModalitySpec, SignalSpec
from common.data.readers.cell import LARGEST_VALUE, Cell
from common.data.readers.rates import HIGHEST_RATE, LOWEST_RATE, bridged, filtered, resampled, samples_needed
from common.data.readers.recordings import places_of, read_edf, read_wfdb

_LARGEST_TABLE = 1 << 28  # bytes
_GAP = {"", "nan", "na"}


def read_signal(cell: Cell, spec: ModalitySpec) -> np.ndarray:
    """Read a signal file: float32 [sample, channel], at the modality's rate and through its filter.

    A gap (an empty cell, NaN) is bridged by a straight line in its channel; a channel that is nothing but gaps is the
    middle of its bounds, or 0. Where all channels are, the modality is missing: [0, channel].

    Raises:
        DataError: the file is damaged, lacks a channel, is empty, or holds an infinite value.
    """
    if not isinstance(spec, SignalSpec):
        raise TypeError(f"a signal was expected, got {spec.kind}")
    path = cell.path()
    found = FILES[cell.suffix(FILES)](cell, path, spec)
    channels = []
    for name, (samples, rate) in zip(spec.channels, found, strict=True):
        if not len(samples):
            raise cell.wrong(f"channel {name} holds no samples: empty the cell where there is no signal")
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise cell.wrong(f"channel {name} has {rate:g} samples a second: write the file anew")
        if (np.abs(samples) > LARGEST_VALUE).any():  # NaN is no larger
            raise cell.wrong(f"channel {name} holds an infinite or huge value: write NaN where nothing was measured")
        channels.append(_brought(samples, rate, spec))
    if all(np.isnan(channel).all() for channel in channels):
        return np.zeros((0, len(channels)), dtype=np.float32)
    length = min(spec.num_steps, *(len(channel) for channel in channels))
    middle = [sum(spec.bounds.get(name, (0.0, 0.0))) / 2 for name in spec.channels]
    filled = [np.nan_to_num(channel[:length], nan=rest) for channel, rest in zip(channels, middle, strict=True)]
    return np.stack(filled, axis=1).astype(np.float32)


def _brought(samples: np.ndarray, rate: float, spec: SignalSpec) -> np.ndarray:
    if np.isnan(samples).all():
        return np.full(max(1, round(len(samples) * spec.sample_rate / rate)), np.nan)
    at_rate = resampled(bridged(samples), rate, spec.sample_rate)
    return at_rate if spec.band is None else filtered(at_rate, spec.sample_rate, spec.band)


def _read_table(cell: Cell, path: Path, spec: SignalSpec) -> list[tuple[np.ndarray, float]]:
    """Read a CSV: a header of channels, then one row a sample; other columns are passed over."""
    if path.stat().st_size > _LARGEST_TABLE:
        raise cell.wrong(f"a table of more than {_LARGEST_TABLE} bytes: cut it, or write NPY or EDF")
    rate = spec.file_rate or spec.sample_rate
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        names = [name.strip() for name in next(reader, [])]
        places = places_of(cell, names, spec)
        rows = [
            [_number(cell, reader.line_num, row, place) for place in places]
            for row in islice(reader, samples_needed(spec.seconds, rate, spec.sample_rate))
            if row
        ]
    samples = np.array(rows, dtype=np.float64).reshape(-1, len(places))
    return [(samples[:, place], rate) for place in range(len(places))]


def _number(cell: Cell, line: int, row: Sequence[str], place: int) -> float:
    text = row[place].strip() if place < len(row) else None
    if text is None:
        raise cell.wrong(f"line {line} has {len(row)} cells, fewer than the header: write the file anew")
    if text.lower() in _GAP:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise cell.wrong(f"line {line}: {text[:40]!r} is not a number: correct it, or leave it empty") from None


def _read_array(cell: Cell, path: Path, spec: SignalSpec) -> list[tuple[np.ndarray, float]]:
    """Read an NPY array [sample, channel], or [sample] of one channel; never an object, which could run code."""
    array = np.lib.format.open_memmap(path, mode="r")
    if array.dtype.kind not in "fiu":
        raise cell.wrong(f"an array of {array.dtype} is no signal: save real numbers")
    table = array[:, None] if array.ndim == 1 else array
    if table.ndim != 2 or table.shape[1] != len(spec.channels):  # noqa: PLR2004  (sample, channel)
        raise cell.wrong(f"shape {array.shape}, where (samples, {len(spec.channels)}) was expected: save it so")
    rate = spec.file_rate or spec.sample_rate
    some = table[: samples_needed(spec.seconds, rate, spec.sample_rate)].astype(np.float64)
    return [(some[:, place], rate) for place in range(some.shape[1])]


FILES: dict[str, Callable[[Cell, Path, SignalSpec], list[tuple[np.ndarray, float]]]] = {
    ".csv": _read_table,
    ".npy": _read_array,
    ".hea": read_wfdb,
    ".edf": read_edf,
    ".bdf": read_edf,
}
