"""Modalities whose records are files or texts: one table of readers, and a modality's records side by side."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.error import DataError, wrong
from common.data.manifest import Manifest
from common.data.modalities import AudioSpec, ImageSpec, ModalitySpec, SignalSpec, TabularSpec, TextSpec
from common.data.readers.cell import Cell
from common.data.readers.images import read_image
from common.data.readers.recordings import companion, companions
from common.data.readers.signals import read_signal
from common.data.readers.sounds import read_sound
from common.data.readers.texts import SUFFIX, read_text
from common.data.readings import Readings, step_shape

_LONGEST_REASON = 200
READERS: dict[str, Callable[[Cell, ModalitySpec], np.ndarray]] = {
    "image": read_image,
    "text": read_text,
    "audio": read_sound,
    "signal": read_signal,
}
_TYPES: dict[str, type[np.generic]] = {
    "image": np.uint16,
    "text": np.uint16,
    "audio": np.float32,
    "signal": np.float32,
}


@dataclass(frozen=True)
class Records:
    """Decoded cells: values [cell, ...] of the modality's public shape, and their lengths in steps, int64 [cell]."""

    values: np.ndarray
    lengths: np.ndarray


Decode = Callable[[Sequence[Cell], ModalitySpec], Records]


def record_readings(manifest: Manifest, spec: ModalitySpec, decode: Decode, *, identified: bool) -> Readings:
    """Read a modality's cells; an empty one is a missing modality.

    Raises:
        DataError: the first record that cannot be read, with file, row and column.
    """
    column = spec.named_columns[0]
    present = [row.cells[column] not in {"", *spec.missing} for row in manifest.rows]
    cells = [
        Cell(manifest.path, row.line, column, row.cells[column], identified)
        for row, there in zip(manifest.rows, present, strict=True)
        if there
    ]
    records, rows = decode(cells, spec), np.array(present, dtype=np.bool_)
    readings = no_records(spec, len(rows))
    values, lengths = readings.values, np.zeros(len(rows), dtype=np.int64)
    values[rows], lengths[rows] = records.values, records.lengths
    return Readings(values, lengths, _starts(manifest, spec))


def decode_cell(cell: Cell, spec: ModalitySpec) -> np.ndarray:
    """Decode one record: an image [channel, height, width], anything else [step, ...], at most the public length.

    Raises:
        DataError: it cannot be read; whatever a library says of it becomes one sentence.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn of what they repair; what they cannot is an error
            return READERS[spec.kind](cell, spec)
    except DataError:
        raise
    except ModuleNotFoundError as error:
        problem = f"reading it needs the package {error.name}: pip install 'fedmosaic[medical]'"
        raise cell.wrong(problem) from error
    except Exception as error:  # a damaged file makes a library raise whatever it likes
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise cell.wrong(f"damaged, or no such file as its name says ({reason}): write it anew") from error


def file_names(manifest: Manifest, spec: ModalitySpec) -> tuple[str, ...]:
    """Which cells of a modality name files: what they say, in the manifest's order; nothing is opened."""
    if isinstance(spec, TabularSpec):
        return ()
    cells = [row.cells.get(spec.column, "") for row in manifest.rows]
    named = [cell for cell in cells if cell not in {"", *spec.missing}]
    return tuple(cell for cell in named if not isinstance(spec, TextSpec) or cell.lower().endswith(SUFFIX))


def with_companions(folder: Path, path: Path) -> tuple[Path, ...]:
    """A file and those that it names beside itself.

    Guarantees:
        inside: none of them leaves the site folder, and none is a device or a pipe, on which a reader would wait: a
            patient may have written the header.
    """
    if path.suffix.lower() != ".hea":
        return (path,)
    found = [path]
    with suppress(OSError, ValueError):  # whoever reads it will say what is wrong with it
        for name in companions(path):
            with suppress(DataError):
                found.append(companion(folder, path, name))
    return tuple(found)


def decode_here(cells: Sequence[Cell], spec: ModalitySpec) -> Records:
    """Decode all cells in this process, one after the other."""
    return gathered((decode_cell(cell, spec) for cell in cells), len(cells), spec)


def gathered(found: Iterable[np.ndarray], number: int, spec: ModalitySpec) -> Records:
    """Put decoded records side by side, in their order."""
    values, lengths = no_records(spec, number).values, np.zeros(number, dtype=np.int64)
    for place, record in enumerate(found):
        values[place, : len(record)] = record
        lengths[place] = 1 if isinstance(spec, ImageSpec) else len(record)
    return Records(values, lengths)


def no_records(spec: ModalitySpec, rows: int) -> Readings:
    """Rows that lack a modality: zeros of its shape and type."""
    shape = step_shape(spec) if isinstance(spec, ImageSpec) else (spec.num_steps, *step_shape(spec))
    values = np.zeros((rows, *shape), dtype=_TYPES[spec.kind])
    return Readings(values, np.zeros(rows, dtype=np.int64), np.zeros(rows))


def _starts(manifest: Manifest, spec: ModalitySpec) -> np.ndarray:
    """When each row's recording begins, in seconds, float64 [row]; 0 where the cell is empty."""
    column = spec.start if isinstance(spec, AudioSpec | SignalSpec) else None
    found = np.zeros(len(manifest.rows))
    for place, row in enumerate(manifest.rows if column is not None else ()):
        text = row.cells[str(column)]
        if text in {"", *spec.missing}:
            continue
        try:
            found[place] = float(text)
        except ValueError:
            found[place] = math.nan
        if not math.isfinite(found[place]):
            raise wrong(manifest.path, f"{text!r} is not a finite number of seconds", row=row.line, column=column)
    return found
