"""The integer tables that a run releases beside its model: what they hold, how long, how sensitive.

Server and sites both read this file, so that nobody sends the layout of a table over the wire.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from common.config import Config
from common.data.normalise import normalisation_length, normalisation_sensitivity
from common.data.schema import Schema
from common.fairness.table import TableLayout, audit_layout, evaluation_layout, l2_sensitivity
from common.objectives import read_modalities, told

FIXED_POINT = 1024.0


@dataclass(frozen=True)
class TableRelease:
    """One integer table: its purpose, whose records it counts, its length and its L2 sensitivity to one subject.

    `summed` tables are added up over the sites; the others stay at the site, and are noised and charged all the same:
    what training does with them reaches the released model.
    """

    purpose: str
    cohort: str
    length: int
    l2_sensitivity: float
    summed: bool = True


def schema_of(config: Config) -> Schema:
    """The federation's public schema.

    Raises:
        ValueError: the configuration was not resolved against the site folders yet.
    """
    if config.data_schema is None:
        raise ValueError("data_schema is missing: resolve the configuration against the site folders first")
    return config.data_schema


def table_layout(config: Config, purpose: str) -> TableLayout:
    """The layout of the evaluation's or the audit's table; its conditions are about the modalities that are read."""
    schema = schema_of(config)
    read = read_modalities(config.objective.parts, schema.modalities)
    schema = schema.model_copy(update={"modalities": {name: schema.modalities[name] for name in read}})
    task, bins = config.objective.task, config.audit.score_bins
    if purpose == "evaluation":
        told_texts = told(config.objective.parts)
        layout = evaluation_layout(schema, task=task, bins=bins, told=told_texts)
    else:
        layout = audit_layout(schema, task=task, attributes=config.audit.attributes, bins=bins)
    return replace(layout, base_rate=config.audit.base_rate)


def tables_of(config: Config) -> dict[str, TableRelease]:
    """Every table that this run releases, by purpose."""
    schema = schema_of(config)
    found = []
    if config.data.normalisation != "none":
        length = normalisation_length(schema)
        # Sums are rounded to 1/1024: one subject then moves each integer by at most 1 more than its own share.
        sensitivity = FIXED_POINT * normalisation_sensitivity(schema) + math.sqrt(length)
        summed = config.data.normalisation == "federated"
        found.append(TableRelease("normalisation", "train", length, sensitivity, summed))
    for purpose in ("evaluation", *(("audit",) if config.audit.attributes else ())):
        layout = table_layout(config, purpose)
        found.append(TableRelease(purpose, "test", layout.size, l2_sensitivity(layout)))
    return {release.purpose: release for release in found}


def to_fixed_point(sums: np.ndarray) -> np.ndarray:
    """Round real sums [entry] to integers of 1/1024."""
    return np.rint(sums * FIXED_POINT).astype(np.int64)


def from_fixed_point(total: np.ndarray) -> np.ndarray:
    """Read integers of 1/1024 as real sums [entry]."""
    return total.astype(np.float64) / FIXED_POINT
