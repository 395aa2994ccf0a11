"""Small site folders with every kind of modality, some missing, several records per subject, files of several kinds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import yaml
from PIL import Image

MODALITIES: dict[str, dict[str, object]] = {
    "xray": {"kind": "image", "column": "xray_path", "size": [16, 16], "channels": 1},
    "note": {"kind": "text", "column": "note", "max_tokens": 32},
    "voice": {"kind": "audio", "column": "wav_path", "sample_rate": 1000, "seconds": 0.25},
    "ppg": {
        "kind": "signal",
        "column": "ppg_path",
        "channels": ["red", "infrared"],
        "sample_rate": 25,
        "file_rate": 50,
        "seconds": 2,
        "bounds": {"red": [-4, 4], "infrared": [-4, 4]},
        "start": "ppg_start",
    },
    "labs": {
        "kind": "tabular",
        "columns": ["crp", "ldh"],
        "categorical": {"triage": ["green", "yellow", "red"]},
        "bounds": {"crp": [-4, 4], "ldh": [-4, 4]},
        "missing": ["", "?"],
    },
}
_MISSING_CHANCE = 0.15


def write_every_modality(
    target: Path,
    *,
    sites: int = 3,
    subjects: int = 24,
    seed: int = 0,
    lacking: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[Path, ...]:
    """Write `sites` folders called site-0, site-1, ... of `subjects` subjects; one in four has three rows.

    Each of the modalities xray, note, voice, ppg and labs says something about the task `sick`, and each is missing in
    about one row in seven. `lacking` names, by site, modalities that the site's folder does not have at all. Images are
    PNG and JPEG, sounds WAV and FLAC, signals CSV and NPY, notes stand in their cells and in files. The attributes are
    `sex` (female, male) and `age` (<50, 50-65, >=65). Without a split column the reader splits by subject.
    """
    paths = []
    for number in range(sites):
        name = f"site-{number}"
        gone = (lacking or {}).get(name, ())
        folder = target / name
        for part in ("images", "sounds", "signals/ppg", "notes"):
            (folder / part).mkdir(parents=True)
        description = {
            "name": name,
            "subject": "person",
            "modalities": {key: entry for key, entry in MODALITIES.items() if key not in gone},
            "tasks": {"sick": {"kind": "binary", "column": "sick"}},
            "attributes": {
                "sex": {"column": "sex", "levels": ["female", "male"]},
                "age": {"column": "age", "bands": [0, 50, 65, 120]},
            },
        }
        (folder / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
        rows = _rows(folder, np.random.default_rng([seed, number]), subjects)
        with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        paths.append(folder)
    return tuple(paths)


def _rows(folder: Path, random: np.random.Generator, subjects: int) -> list[dict[str, str]]:
    rows = []
    for subject in range(subjects):
        who = {"sex": str(random.choice(["female", "male"])), "age": f"{random.uniform(20, 90):.1f}"}
        for visit in range(3 if subject % 4 == 0 else 1):
            sick = bool(random.random() < 0.5)
            record = f"{subject:04d}-{visit}"
            row = {
                "xray_path": _image(folder, record, random, sick),
                "note": _note(folder, record, sick),
                "wav_path": _sound(folder, record, random, sick),
                "ppg_path": _signal(folder, record, random, sick),
                "ppg_start": f"{random.uniform(0, 3):.2f}" if visit else "",
                "crp": f"{random.normal() + 2 * sick - 1:.4f}",
                "ldh": f"{random.normal():.4f}",
                "triage": str(random.choice(["green", "yellow", "red"])),
            }
            holed = {key: "" if random.random() < _MISSING_CHANCE else cell for key, cell in row.items()}
            if random.random() < _MISSING_CHANCE:
                holed |= {"crp": "?", "ldh": "?", "triage": ""}
            rows.append({"person": f"{folder.name}-{subject:04d}", **who, **holed, "sick": str(int(sick))})
    return rows


def _image(folder: Path, record: str, random: np.random.Generator, sick: bool) -> str:
    pixels = random.integers(0, 100, size=(24, 20, 3), dtype=np.uint8)
    if sick:
        pixels[8:16, 6:14] += 120
    suffix = "jpg" if record.endswith("2") else "png"
    Image.fromarray(pixels).save(folder / "images" / f"{record}.{suffix}")
    return f"images/{record}.{suffix}"


def _note(folder: Path, record: str, sick: bool) -> str:
    text = "fever, cough … 38.9 °C" if sick else "well, no complaints"
    if int(record[:4]) % 3:
        return text
    (folder / "notes" / f"{record}.txt").write_text(text, encoding="utf-8")
    return f"notes/{record}.txt"


def _sound(folder: Path, record: str, random: np.random.Generator, sick: bool) -> str:
    seconds = np.arange(int(random.integers(300, 600))) / 2000
    tone = 0.4 * np.sin(2 * np.pi * (220 if sick else 90) * seconds) + random.normal(scale=0.02, size=len(seconds))
    suffix = "flac" if int(record[:4]) % 2 else "wav"
    soundfile.write(folder / "sounds" / f"{record}.{suffix}", np.stack([tone, 0.5 * tone], axis=1), 2000)
    return f"sounds/{record}.{suffix}"


def _signal(folder: Path, record: str, random: np.random.Generator, sick: bool) -> str:
    seconds = np.arange(int(random.integers(60, 120))) / 50
    beat = np.sin(2 * np.pi * (2.0 if sick else 1.0) * seconds)
    table = np.stack([beat, 0.5 * beat], axis=1) + random.normal(scale=0.1, size=(len(seconds), 2))
    if int(record[:4]) % 2:
        np.save(folder / "signals/ppg" / f"{record}.npy", table.astype(np.float32))
        return f"signals/ppg/{record}.npy"
    text = io.StringIO()
    np.savetxt(text, table[:, ::-1], fmt="%.5f", delimiter=",", header="infrared,red", comments="")
    (folder / "signals/ppg" / f"{record}.csv").write_text(text.getvalue())
    return f"signals/ppg/{record}.csv"
