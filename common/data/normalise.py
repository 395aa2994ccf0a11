"""How values are scaled before a model sees them, and the private sums that a common scale can be made of.

Whatever the scale, a value is first cut to its column's public bounds and last cut to [-5, 5], so that no single cell
can reach the model with an arbitrary size. All of this is about tables: images, sounds and signals are scaled by public
facts alone (common/data/readings.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.data.error import DataError
from common.data.folder import SiteData
from common.data.modalities import TabularSpec
from common.data.schema import Schema

LARGEST_VALUE = 5.0
_SUMS_PER_COLUMN = 3  # how many subjects have the value; the values' sum; the sum of their squares
_SMALLEST_STD = 0.05  # in half-widths of the public bounds: noise must not make a column explode
_FEWEST_SUBJECTS = 2.0  # a column that fewer have (by a noised count) is scaled by its bounds


@dataclass(frozen=True)
class Normaliser:
    """Center and scale, by modality: float64 [numeric column]."""

    center: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]


def from_bounds(schema: Schema) -> Normaliser:
    """Scale by the public bounds alone, to [-1, 1]; a column without bounds stays as it is."""
    center, scale = {}, {}
    for name, spec in schema.tables.items():
        pairs = [spec.bounds.get(column, (-1.0, 1.0)) for column in spec.columns]
        low, high = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        center[name], scale[name] = (low + high) / 2, (high - low) / 2
    return Normaliser(center, scale)


def normalisation_length(schema: Schema) -> int:
    """Number of sums in `normalisation_vector`."""
    return _SUMS_PER_COLUMN * sum(len(spec.columns) for spec in schema.tables.values())


def normalisation_sensitivity(schema: Schema) -> float:
    """The most that adding or removing one subject moves `normalisation_vector`, in L2 norm.

    Guarantees:
        exact: a subject adds (1, v, v^2) with |v| <= 1 per numeric column, so at most 3 per column, squared.
    """
    return float(np.sqrt(normalisation_length(schema)))


def normalisation_vector(site: SiteData, schema: Schema, split: str) -> np.ndarray:
    """Sum what a common scale needs over the subjects of one cohort: float64 [3 * numeric column], raw.

    Per numeric column, in the schema's order: number of subjects with a value, sum, sum of squares, of the value scaled
    by its public bounds to [-1, 1]; a subject with several rows counts once, with the mean of its known values.

    Raises:
        DataError: a numeric column has no public bounds.
    """
    _need_bounds(schema)
    rows = site.rows_of(split)
    bounds, parts = from_bounds(schema), [np.zeros(0)]
    for name, spec in schema.tables.items():
        for place in range(len(spec.columns)):
            if name not in site.readings:
                parts.append(np.zeros(_SUMS_PER_COLUMN))
                continue
            numbers = cut(site.readings[name].values[rows][:, : len(spec.columns)], spec)[:, place]
            scaled = (numbers - bounds.center[name][place]) / bounds.scale[name][place]
            means = np.clip(_mean_by_subject(scaled, site.row_subject[rows]), -1.0, 1.0)
            parts.append(np.array([len(means), means.sum(), np.square(means).sum()]))
    return np.concatenate(parts)


def from_sums(schema: Schema, sums: np.ndarray) -> Normaliser:
    """Scale by the mean and standard deviation that noised sums say, within what is possible at all.

    Under privacy the sums must be noised even if they never leave the site: whatever is computed from records that were
    scaled by exact statistics of other records is no longer bounded in one subject.

    Raises:
        ValueError: the sums have another length.
        DataError: a numeric column has no public bounds.
    """
    _need_bounds(schema)
    if sums.shape != (normalisation_length(schema),):
        raise ValueError(f"{normalisation_length(schema)} normalisation sums were expected, got shape {sums.shape}")
    bounds, start = from_bounds(schema), 0
    center, scale = dict(bounds.center), dict(bounds.scale)
    for name, spec in schema.tables.items():
        stop = start + _SUMS_PER_COLUMN * len(spec.columns)
        count, total, squares = sums[start:stop].reshape(-1, _SUMS_PER_COLUMN).T
        start = stop
        enough = count >= _FEWEST_SUBJECTS
        divisor = np.where(enough, count, 1.0)
        mean = np.clip(total / divisor, -1.0, 1.0)
        std = np.sqrt(np.clip(squares / divisor - mean**2, _SMALLEST_STD**2, 1.0))
        center[name] = bounds.center[name] + np.where(enough, mean, 0.0) * bounds.scale[name]
        scale[name] = bounds.scale[name] * np.where(enough, std, 1.0)
    return Normaliser(center, scale)


def features(raw: np.ndarray, modality: str, spec: TabularSpec, normaliser: Normaliser) -> np.ndarray:
    """Make the model's input of raw values [row, column or level]: float32 [row, feature].

    Features are the scaled numbers, their indicators (where the modality has them), and 1 or -1 for every level; what
    was not measured is zero everywhere.
    """
    numeric = len(spec.columns)
    scaled = (cut(raw[:, :numeric], spec) - normaliser.center[modality]) / normaliser.scale[modality]
    numbers = np.nan_to_num(np.clip(scaled, -LARGEST_VALUE, LARGEST_VALUE), nan=0.0)
    measured = np.isfinite(raw[:, :numeric]).astype(np.float64)
    parts = [numbers, *([measured] if spec.indicators else []), np.nan_to_num(2.0 * raw[:, numeric:] - 1.0, nan=0.0)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def cut(numbers: np.ndarray, spec: TabularSpec) -> np.ndarray:
    """Cut numbers [row, numeric column] to their columns' public bounds; NaN stays NaN."""
    unbounded = (-np.inf, np.inf)
    low, high = np.array([spec.bounds.get(column, unbounded) for column in spec.columns]).reshape(-1, 2).T
    return np.asarray(np.clip(numbers, low, high))


def _need_bounds(schema: Schema) -> None:
    for name, spec in schema.tables.items():
        for column in spec.columns:
            if column not in spec.bounds:
                place = f"dataset.yaml, modality {name}, column {column}"
                raise DataError(f"{place}: it has no public bounds, and data.normalisation is not none")


def _mean_by_subject(numbers: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """The mean of each subject's known values; subjects without any are not among them."""
    known = np.isfinite(numbers)
    if not known.any():
        return np.zeros(0)
    _, place = np.unique(subjects[known], return_inverse=True)
    return np.asarray(np.bincount(place, weights=numbers[known]) / np.bincount(place))
