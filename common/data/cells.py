"""From text cells to arrays: numbers, levels, labels, bands. Nothing is guessed: an unknown cell is an error."""

from __future__ import annotations

import math

import numpy as np

from common.data.error import wrong
from common.data.manifest import Manifest
from common.data.modalities import ModalitySpec, TabularSpec
from common.data.readings import Readings, of_table
from common.data.schema import AttributeSpec, TaskSpec

UNKNOWN = -1


def tabular_readings(manifest: Manifest, spec: ModalitySpec) -> Readings:
    """Read a tabular modality: float64 [row, numeric column or one-hot level]; NaN: not measured.

    Raises:
        DataError: a cell is no finite number, or none of its column's levels.
    """
    if not isinstance(spec, TabularSpec):
        raise TypeError(f"a table was expected, got {spec.kind}")
    parts = [_numbers(manifest, column, spec.missing)[:, None] for column in spec.columns]
    for column, levels in spec.categorical.items():
        index = _indices(manifest, column, levels, missing=spec.missing)
        one_hot = np.eye(len(levels))[index][:, int(spec.drop_first) :]
        parts.append(np.where(index[:, None] == UNKNOWN, np.nan, one_hot))
    return of_table(np.concatenate(parts, axis=1))


def label_column(manifest: Manifest, task: TaskSpec) -> np.ndarray:
    """Read a task's labels: int64 [row], for a multilabel task [row, label], -1 where a cell is empty.

    For a regression task float64 [row], in the task's own unit, NaN where the cell is empty.

    Raises:
        DataError: a label outside the task, or no number where one was expected.
    """
    if task.kind == "regression":
        return _numbers(manifest, task.named_columns[0], ("",))
    found = [_indices(manifest, column, task.classes, missing=("",)) for column in task.named_columns]
    return np.stack(found, axis=1) if task.kind == "multilabel" else found[0]


def level_column(manifest: Manifest, attribute: AttributeSpec) -> np.ndarray:
    """Read an attribute: int64 [row], -1 where the cell is empty.

    Raises:
        DataError: a cell that is none of the levels, or no number where the attribute has bands.
    """
    if attribute.bands is None:
        return _indices(manifest, attribute.column, attribute.levels, missing=("",))
    numbers = _numbers(manifest, attribute.column, ("",))
    bands = np.searchsorted(np.array(attribute.bands[1:-1]), numbers, side="right")
    return np.where(np.isnan(numbers), UNKNOWN, bands).astype(np.int64)


def _numbers(manifest: Manifest, column: str, missing: tuple[str, ...]) -> np.ndarray:
    found = np.full(len(manifest.rows), np.nan)
    for place, row in enumerate(manifest.rows):
        cell = row.cells[column]
        if cell == "" or cell in missing:
            continue
        try:
            found[place] = float(cell)
        except ValueError:
            raise wrong(manifest.path, f"{cell!r} is not a number", row=row.line, column=column) from None
        if not math.isfinite(found[place]):
            raise wrong(manifest.path, f"{cell!r} is not a finite number", row=row.line, column=column)
    return found


def _indices(manifest: Manifest, column: str, levels: tuple[str, ...], *, missing: tuple[str, ...]) -> np.ndarray:
    table = {level: place for place, level in enumerate(levels)}
    found = np.full(len(manifest.rows), UNKNOWN, dtype=np.int64)
    for place, row in enumerate(manifest.rows):
        cell = row.cells[column]
        if cell in table:
            found[place] = table[cell]
        elif cell and cell not in missing:
            problem = f"{cell!r} is none of {', '.join(levels)}"
            raise wrong(manifest.path, problem, row=row.line, column=column)
    return found
