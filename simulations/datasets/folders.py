"""Write packaged or generated data as site folders: all of them, or none."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import yaml

from common.data.schema import FolderSpec

Row = dict[str, str]
Description = Mapping[str, object]
Body = bytes | Path
"""What a file holds, or the file that it is a copy of."""


@dataclass(frozen=True)
class SiteFolder:
    """One site folder to be: dataset.yaml, the manifest's rows, and the files that rows name, by relative path."""

    description: Description
    rows: Sequence[Row]
    files: Mapping[str, Body] = field(default_factory=dict)


def write_folders(
    target: Path, sites: Mapping[str, SiteFolder], *, notice: str, missing: float = 0.0
) -> tuple[Path, ...]:
    """Write all folders, or none: they are made aside and moved into place at once.

    Args:
        target: the folder that will hold one folder per site.
        sites: by site.
        notice: source and licence, which stands at the head of every dataset.yaml.
        missing: chance of each modality of each row to be taken away; simulated, and to be called so.

    Raises:
        ValueError: `target` exists and holds something else.
    """
    left = {site: take_away(one, missing, seed=place) for place, (site, one) in enumerate(sites.items())}
    files = {f"{site}/{name}": body for site, one in left.items() for name, body in _files(one, notice).items()}
    paths = tuple(target / site for site in sites)
    if target.exists():
        if any(not _holds(target / name, body) for name, body in files.items()):
            raise ValueError(f"{target} exists and holds something else")
        return paths
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        for name, body in files.items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(body, Path):
                shutil.copyfile(body, path)
            else:
                path.write_bytes(body)
        os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return paths


def packaged(package: str, version: str, path: str, sha256: str) -> Path:
    """Find a file inside an installed package, and hold it against the hash that it is known by.

    Raises:
        ValueError: the package is missing, or its file is another one.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"this data set comes inside a package: pip install {package}=={version}")
    file = Path(found.origin).parent / path
    if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{package}'s {file.name} is not the file of version {version}: its SHA-256 differs")
    return file


def take_away(site: SiteFolder, chance: float, *, seed: int) -> SiteFolder:
    """Empty modalities at random: the simulated kind of missing. A row never loses all that it has.

    A modality of which a column is an attribute as well stays, or the audit would lose the attribute.

    Args:
        site: a folder to be.
        chance: of each modality that a row has to be emptied.
        seed: of the draw.
    """
    if not chance:
        return site
    random, rows = np.random.default_rng(seed), []
    spec = FolderSpec.model_validate(site.description)
    columns = {name: modality.named_columns for name, modality in spec.modalities.items()}
    kept = {attribute.column for attribute in spec.attributes.values()}
    for row in site.rows:
        has = [name for name, own in columns.items() if any(row[column] for column in own)]
        gone = [name for name in has if random.random() < chance and not kept.intersection(columns[name])]
        emptied = [column for name in gone for column in columns[name]] if len(gone) < len(has) else []
        rows.append({**row, **dict.fromkeys(emptied, "")})
    named = {cell for row in rows for cell in row.values()}
    return replace(site, rows=rows, files={name: body for name, body in site.files.items() if name in named})


def tabular(bounds: Mapping[str, tuple[float, float]], categorical: Mapping[str, Sequence[str]]) -> Description:
    """Describe a table: numeric columns with their public bounds, and other columns with their public levels."""
    return {
        "kind": "tabular",
        "columns": list(bounds),
        "categorical": {column: list(levels) for column, levels in categorical.items()},
        "bounds": {column: list(pair) for column, pair in bounds.items()},
    }


def deal_out(held_out: Sequence[Row], sites: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Give each site its own rows for training, and an equal part of the held-out rows as its test cohort."""
    names = tuple(sites)
    return {
        name: [{**row, "split": "train"} for row in sites[name]]
        + [{**row, "split": "test"} for row in held_out[place :: len(names)]]
        for place, name in enumerate(names)
    }


def _files(site: SiteFolder, notice: str) -> dict[str, Body]:
    manifest = io.StringIO()
    writer = csv.DictWriter(manifest, fieldnames=list(site.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(site.rows)
    specification = yaml.safe_dump(dict(site.description), sort_keys=False, default_flow_style=None, width=120)
    text = {"dataset.yaml": f"# {notice}\n{specification}", "manifest.csv": manifest.getvalue()}
    return {**{name: body.encode() for name, body in text.items()}, **site.files}


def _holds(path: Path, body: Body) -> bool:
    return path.is_file() and path.read_bytes() == (body.read_bytes() if isinstance(body, Path) else body)
