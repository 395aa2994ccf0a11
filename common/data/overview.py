"""The shape of a site's data: who has what, how much of it, and what is worth a look. It stays at the site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from common.data.folder import SPLITS, SiteData
from common.data.modalities import AudioSpec, ImageSpec, ModalitySpec, SignalSpec, TabularSpec, TextSpec
from common.data.readings import Readings, step_shape, steps_per_second
from common.data.schema import TaskSpec

UNKNOWN = "unknown"
_FEWEST_SUBJECTS = 20  # of a cohort: fewer teach, and tell, next to nothing
_SMALLEST_SHARE = 0.1  # of a class, and of the rows that have a modality
_MANY_ROWS, _TIMES_MEDIAN = 20, 10
_SILENCE = 1e-4  # of full scale: -80 dB


@dataclass(frozen=True)
class Presence:
    """Rows of one cohort with one label of one task (of none: all the cohort's), and how many have each modality."""

    split: str
    task: str
    label: str
    subjects: int
    rows: int
    present: dict[str, int]


@dataclass(frozen=True)
class ModalityFacts:
    """One modality: its public shape and rate, how many have it, and how long records are (seconds, or steps)."""

    name: str
    kind: str
    shape: tuple[int, ...]
    rate: float | None
    rows: int
    subjects: int
    shortest: float
    median: float
    longest: float
    unit: str


@dataclass(frozen=True)
class Overview:
    """One site folder.

    Attributes:
        most_rows: rows of the subject who has most of them.
        patterns: which modalities a row has -> cohort -> how many rows.
        warnings: what is no error, and worth a look.
    """

    name: str
    rows: int
    left_out: int
    subjects: int
    most_rows: int
    modalities: tuple[ModalityFacts, ...]
    presence: tuple[Presence, ...]
    patterns: dict[tuple[str, ...], dict[str, int]]
    warnings: tuple[str, ...]


def overview(site: SiteData) -> Overview:
    """Count what a folder holds."""
    seen = {name: site.readings[name].lengths > 0 for name in site.held}
    row_split = site.split[site.row_subject]
    patterns: dict[tuple[str, ...], Counter[str]] = {}
    for place, split in enumerate(row_split):
        pattern = tuple(name for name in seen if seen[name][place])
        patterns.setdefault(pattern, Counter())[str(split)] += 1
    ordered = sorted(patterns.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    each = np.bincount(site.row_subject, minlength=1)
    return Overview(
        name=site.name,
        rows=len(site.row_subject),
        left_out=site.left_out,
        subjects=len(site.subjects),
        most_rows=int(each.max()),
        modalities=tuple(_facts(site, name) for name in site.held),
        presence=tuple(_presence(site, seen, row_split)),
        patterns={pattern: dict(counts) for pattern, counts in ordered},
        warnings=(*_about_people(site, each), *_about_labels(site, row_split), *_about_values(site)),
    )


def _presence(site: SiteData, seen: dict[str, np.ndarray], row_split: np.ndarray) -> Iterator[Presence]:
    for split in SPLITS:
        cohort = row_split == split
        if not cohort.any():
            continue
        groups = [("", "", cohort)]
        for task, spec in site.spec.tasks.items():
            groups += [(task, name, cohort & rows) for name, rows in _by_label(spec, site.labels[task])]
        for task, label, rows in groups:
            if label != UNKNOWN or rows.any():
                present = {name: int((there & rows).sum()) for name, there in seen.items()}
                subjects = len(np.unique(site.row_subject[rows]))
                yield Presence(split, task, label, subjects, int(rows.sum()), present)


def _by_label(task: TaskSpec, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Which rows have each label, or any number; several labels may be one row's."""
    if task.kind == "regression":
        yield "a number", np.isfinite(labels)
        yield UNKNOWN, ~np.isfinite(labels)
        return
    if task.kind == "multilabel":
        yield from ((name, np.asarray(labels[:, place] > 0)) for place, name in enumerate(task.columns))
        yield UNKNOWN, np.asarray((labels < 0).all(axis=1))
        return
    yield from ((name, labels == place) for place, name in enumerate(task.classes))
    yield UNKNOWN, labels < 0


def _facts(site: SiteData, name: str) -> ModalityFacts:
    spec, readings = site.spec.modalities[name], site.readings[name]
    there = readings.lengths > 0
    timed = isinstance(spec, AudioSpec | SignalSpec)
    lengths = readings.lengths[there] / (steps_per_second(spec) if timed else 1.0)
    shortest, median, longest = np.quantile(lengths, [0, 0.5, 1]) if there.any() else (0.0, 0.0, 0.0)
    return ModalityFacts(
        name=name,
        kind=spec.kind,
        shape=(spec.num_steps, *step_shape(spec)),
        rate=float(spec.sample_rate) if isinstance(spec, AudioSpec | SignalSpec) else None,
        rows=int(there.sum()),
        subjects=len(np.unique(site.row_subject[there])),
        **{"shortest": float(shortest), "median": float(median), "longest": float(longest)},
        unit="seconds" if timed else "steps",
    )


def _about_people(site: SiteData, each: np.ndarray) -> Iterator[str]:
    for split in ("train", "test"):
        number = len(site.subjects_of(split))
        if number < _FEWEST_SUBJECTS:
            yield f"cohort {split} has {number} subjects: too few to learn from, or to be told apart from noise"
    if not len(site.subjects):
        return
    limit = max(_MANY_ROWS, _TIMES_MEDIAN * int(np.median(each)))
    if each.max() > limit:
        who, usual = site.subjects[int(each.argmax())], int(np.median(each))
        yield f"subject {who!r} has {each.max()} rows, where half of all have at most {usual}: is it one person?"
    if site.left_out:
        yield f"{site.left_out} rows lack every modality, and are left out"


def _about_labels(site: SiteData, row_split: np.ndarray) -> Iterator[str]:
    for task, spec in site.spec.tasks.items():
        groups = dict(_by_label(spec, site.labels[task][row_split == "train"]))
        known = int((~groups.pop(UNKNOWN)).sum())
        if not known:
            yield f"task {task} has no label in cohort train"
            continue
        for name, rows in groups.items():
            if rows.sum() < min(_SMALLEST_SHARE, 1 / (2 * len(groups))) * known:
                yield f"task {task}: {rows.sum()} of {known} labels in cohort train are {name!r}"


def _about_values(site: SiteData) -> Iterator[str]:
    for name in site.held:
        spec, readings = site.spec.modalities[name], site.readings[name]
        there = readings.lengths > 0
        if there.sum() < _SMALLEST_SHARE * len(there):
            yield f"modality {name} is in {int(there.sum())} of {len(there)} rows"
        if not isinstance(spec, TabularSpec | TextSpec):
            yield from _shared(name, readings.only(there), site.row_subject[there])
        for what, number in _oddities(spec, readings.only(there)):
            yield f"modality {name}: {what}" if number is None else f"modality {name}: {number} records {what}"


def _shared(name: str, readings: Readings, subjects: np.ndarray) -> Iterator[str]:
    """Say how many records two people have in common: privacy is one person's, so it holds for neither's."""
    owners: dict[bytes, set[int]] = {}
    keys = [sha256(values.tobytes()).digest() for values in readings.values]
    for key, subject in zip(keys, subjects, strict=True):
        owners.setdefault(key, set()).add(int(subject))
    if number := sum(len(owners[key]) > 1 for key in keys):
        yield f"modality {name}: {number} records are another subject's too, to the last bit: whose are they?"


def _oddities(spec: ModalitySpec, readings: Readings) -> Iterator[tuple[str, int | None]]:
    """What is odd about the records of a modality, and in how many; None: about all of it."""
    values = readings.values
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    if isinstance(spec, ImageSpec) and len(flat):
        yield from _counted("are of one colour all over", flat.min(axis=1) == flat.max(axis=1))
    if isinstance(spec, AudioSpec) and len(flat):
        yield from _counted("are silent", np.abs(flat).max(axis=1) < _SILENCE)
    if isinstance(spec, SignalSpec):
        for place, channel in enumerate(spec.channels):
            zeros = ~np.any(values[..., place], axis=1)
            yield from _counted(f"have nothing but zeros in channel {channel}", np.asarray(zeros))
            if channel not in spec.bounds:
                yield f"channel {channel} has no public bounds, so its values reach the model as they are", None
    if isinstance(spec, TabularSpec):
        for place, column in enumerate(spec.columns):
            if not np.isfinite(values[:, place]).any():
                yield f"column {column} is empty", None
            if column not in spec.bounds:
                yield f"column {column} has no public bounds, which every run needs", None


def _counted(what: str, odd: np.ndarray) -> Iterator[tuple[str, int]]:
    if odd.any():
        yield what, int(odd.sum())
