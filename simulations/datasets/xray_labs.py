"""Chest X-rays with laboratory values: 243 images of 71 patients of one hospital, split into made-up sites.

Source: COVID-19 Image Repository, Institute for Diagnostic and Interventional Radiology, Hannover Medical School,
doi:10.25835/0090041, CC BY 3.0, images scaled down; its folder is given. Images, laboratory values, what is missing of
them, sex, and who was in intensive care at some time are real. Which patient is at which site is a hash.
"""

from __future__ import annotations

import csv
import hashlib
import math
from pathlib import Path

from common.config import DataConfig
from common.data.folder import keyed_split
from simulations.datasets.folders import Description, Row, SiteFolder, tabular, write_folders

SITES = ("north", "east", "south", "west")
_NOTICE = (
    "COVID-19 Image Repository, Hannover Medical School, doi:10.25835/0090041, CC BY 3.0, images scaled down;"
    " one hospital, split into made-up sites."
)
_BOUNDS = {
    "crp": (0.0, 360.0),
    "d-dimer": (0.0, 36.0),
    "factor_xii": (30.0, 150.0),
    "ldh": (100.0, 1600.0),
    "lymphocytes": (0.0, 4.0),
    "neutrophils": (0.0, 20.0),
    "pco2": (20.0, 90.0),
    "po2": (20.0, 350.0),
}


def write_xray_labs(config: DataConfig, target: Path) -> tuple[Path, ...]:
    """Write four folders; a patient, with all images, is at one site and in one cohort.

    Raises:
        ValueError: data.root is not the folder of the images and their table.
    """
    folder = Path(config.root or "")
    if config.root is None or not (folder / "data.csv").is_file():
        raise ValueError(
            "data=xray_labs needs data.root=DIR, the folder with data.csv and the images"
            f" (github.com/ml-workgroup/covid-19-image-repository); {config.root} holds no data.csv"
        )
    rows: dict[str, list[Row]] = {site: [] for site in SITES}
    with (folder / "data.csv").open(encoding="utf-8", newline="") as table:
        for entry in csv.DictReader(table):
            digest = hashlib.blake2b(entry["patient_id"].encode(), key=b"site", digest_size=8).digest()
            rows[SITES[int.from_bytes(digest, "big") % len(SITES)]].append(_row(entry, config.split_seed))
    sites = {}
    for site, own in rows.items():
        files = {row["xray"]: folder / Path(row["xray"]).name for row in own}
        sites[site] = SiteFolder(_description(site), own, files)
    return write_folders(target, sites, notice=_NOTICE, missing=config.missing)


def _row(entry: Row, split_seed: int) -> Row:
    values = {name: _value(entry[f"{name}_val"], bounds) for name, bounds in _BOUNDS.items()}
    return {
        "patient": entry["patient_id"],
        "split": keyed_split(split_seed, entry["patient_id"]),
        "xray": f"images/{entry['image_id']}.png",
        **values,
        "icu": str(int(bool(entry["icu_admission_offset"]))),
        "sex": {"f": "female", "m": "male"}[entry["sex"]],
    }


def _value(cell: str, bounds: tuple[float, float]) -> str:
    """A value beyond the limit of detection, which the table calls infinite, becomes the nearest bound."""
    if not cell or math.isfinite(float(cell)):
        return cell
    return str(bounds[float(cell) > 0])


def _description(site: str) -> Description:
    xray = {"kind": "image", "column": "xray", "size": [128, 128], "channels": 1}
    return {
        "name": site,
        "subject": "patient",
        "split": "split",
        "modalities": {"xray": xray, "labs": tabular(_BOUNDS, {})},
        "tasks": {"icu": {"kind": "binary", "column": "icu"}},
        "attributes": {"sex": {"column": "sex", "levels": ["female", "male"]}},
    }
