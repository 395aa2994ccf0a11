"""Read one site folder: dataset.yaml and its manifest, all of it or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from pydantic import ValidationError

from common.data.cells import label_column, level_column, tabular_readings
from common.data.error import DataError, wrong
from common.data.faults import sentence
from common.data.manifest import Manifest, inside, read_manifest
from common.data.modalities import TabularSpec
from common.data.readings import Readings
from common.data.records import Decode, decode_here, record_readings
from common.data.schema import FolderSpec

__all__ = ["DataError", "SiteData", "read_site", "read_spec"]

SPLITS = ("train", "valid", "test")
_TRAIN_SHARE = 0.7
_MOST_NAMED = 20


@dataclass(frozen=True)
class SiteData:
    """A site's records, as they are: nothing scaled, nothing clipped. They never leave the site.

    Attributes:
        subjects: distinct subjects, sorted.
        row_subject: int64 [row], index into `subjects`.
        split: [subject], one of train, valid and test.
        readings: by modality, what its cells hold.
        labels: by task, as `cells.label_column` reads them.
        attributes: by attribute, int64 [row]; -1: unknown.
        left_out: rows of the manifest in which every modality is missing; they are nowhere in the above.
    """

    name: str
    spec: FolderSpec
    subjects: tuple[str, ...]
    row_subject: np.ndarray
    split: np.ndarray
    readings: dict[str, Readings]
    labels: dict[str, np.ndarray]
    attributes: dict[str, np.ndarray]
    left_out: int

    @property
    def held(self) -> tuple[str, ...]:
        """The modalities that this site's folder describes, sorted."""
        return tuple(sorted(self.readings))

    def subjects_of(self, split: str) -> np.ndarray:
        """Indices of the subjects of one cohort."""
        return np.flatnonzero(self.split == split)

    def only(self, stays: np.ndarray) -> SiteData:
        """Keep some subjects, bool [subject], with their rows."""
        rows = stays[self.row_subject]
        return replace(
            self,
            subjects=tuple(subject for subject, stay in zip(self.subjects, stays, strict=True) if stay),
            row_subject=(np.cumsum(stays) - 1)[self.row_subject[rows]],
            split=self.split[stays],
            readings={name: readings.only(rows) for name, readings in self.readings.items()},
            labels={name: label[rows] for name, label in self.labels.items()},
            attributes={name: level[rows] for name, level in self.attributes.items()},
        )

    def rows_of(self, split: str) -> np.ndarray:
        """Indices of the rows of one cohort's subjects."""
        return np.flatnonzero(self.split[self.row_subject] == split)


def read_spec(folder: Path) -> FolderSpec:
    """Read dataset.yaml; no record is looked at.

    Raises:
        DataError: the file is missing, is not YAML, or describes no site folder; the sentence names the key.
    """
    path = inside(folder, "dataset.yaml")
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        return FolderSpec.model_validate(plain)
    except ValidationError as error:
        raise wrong(path, sentence(error.errors(include_url=False)[0])) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise wrong(path, f"not readable as YAML ({' '.join(str(error).split())})") from error


def read_site(folder: Path, *, split_seed: int, decode: Decode = decode_here, identified: bool = False) -> SiteData:
    """Read a whole site folder.

    Args:
        folder: the site folder.
        split_seed: puts subjects into cohorts where no column does.
        decode: how files become numbers: here, in worker processes, or from a cache.
        identified: whether an image file may still name its patient.

    Guarantees:
        all or nothing: whatever is wrong, one DataError and no records.
        subject-wise: without a split column, a subject's cohort depends on its own name and `split_seed` only, so that
            one subject's coming or going never moves another.

    Raises:
        DataError: the first thing that is wrong, with file, row and column.
    """
    spec = read_spec(folder)
    manifest = read_manifest(folder)
    _check_columns(manifest, spec)
    labels = {name: label_column(manifest, task) for name, task in spec.tasks.items()}
    attributes = {name: level_column(manifest, attribute) for name, attribute in spec.attributes.items()}
    names = _subject_names(manifest, spec.subject)
    split = _split_of(manifest, spec, names, split_seed)
    readings = {  # last, as files take longest: what is wrong in the table is said at once
        name: tabular_readings(manifest, entry)
        if isinstance(entry, TabularSpec)
        else record_readings(manifest, entry, decode, identified=identified)
        for name, entry in spec.modalities.items()
    }
    kept = np.any([found.lengths > 0 for found in readings.values()], axis=0)
    subjects, row_subject = np.unique(names[kept], return_inverse=True)
    return SiteData(
        name=spec.name,
        spec=spec,
        subjects=tuple(str(subject) for subject in subjects),
        row_subject=row_subject.astype(np.int64),
        split=np.array([split[str(subject)] for subject in subjects], dtype="U5"),
        readings={name: found.only(kept) for name, found in readings.items()},
        labels={name: label[kept] for name, label in labels.items()},
        attributes={name: level[kept] for name, level in attributes.items()},
        left_out=int(len(kept) - kept.sum()),
    )


def _check_columns(manifest: Manifest, spec: FolderSpec) -> None:
    wanted = {spec.subject: "the subject"} | ({spec.split: "the split"} if spec.split else {})
    for name, modality in spec.modalities.items():
        wanted |= dict.fromkeys(modality.named_columns, f"modality {name}")
    for name, task in spec.tasks.items():
        wanted |= dict.fromkeys(task.named_columns, f"task {name}")
    wanted |= {attribute.column: f"attribute {name}" for name, attribute in spec.attributes.items()}
    for column, what in wanted.items():
        if column not in manifest.columns:
            there = ", ".join(manifest.columns[:_MOST_NAMED]) + (", ..." if len(manifest.columns) > _MOST_NAMED else "")
            problem = f"dataset.yaml names this column for {what}; the manifest has {there or 'no column'}"
            raise wrong(manifest.path, problem, row=1, column=column)


def _subject_names(manifest: Manifest, column: str) -> np.ndarray:
    for row in manifest.rows:
        if not row.cells[column]:
            raise wrong(
                manifest.path, "the subject is empty: every row belongs to someone", row=row.line, column=column
            )
    return np.array([row.cells[column] for row in manifest.rows], dtype=np.str_)


def _split_of(manifest: Manifest, spec: FolderSpec, names: np.ndarray, split_seed: int) -> Mapping[str, str]:
    if spec.split is None:
        return {str(name): keyed_split(split_seed, str(name)) for name in names}
    found: dict[str, str] = {}
    for row in manifest.rows:
        subject, split = row.cells[spec.subject], row.cells[spec.split]
        if split not in SPLITS:
            problem = f"{split!r} is none of {', '.join(SPLITS)}"
            raise wrong(manifest.path, problem, row=row.line, column=spec.split)
        if found.setdefault(subject, split) != split:
            problem = f"subject {subject!r} is in {split} here and in {found[subject]} above: a subject has one split"
            raise wrong(manifest.path, problem, row=row.line, column=spec.split)
    return found


def keyed_split(seed: int, subject: str, *, train_share: float = _TRAIN_SHARE) -> str:
    """Put a subject into train or test by a hash of its own name, so that nobody else's presence matters."""
    digest = hashlib.blake2b(subject.encode(), key=str(seed).encode(), digest_size=8).digest()
    return "train" if int.from_bytes(digest, "big") / 2**64 < train_share else "test"
