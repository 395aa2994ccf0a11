"""Ten people's physiotherapy exercises, as their watch felt them: acceleration and rotation at 50 Hz.

Source: Burns et al. 2018, arXiv:1802.01489, the ten people whose 140 recordings are inside the package seglearn 1.2.5.
Recordings are cut into windows of four seconds, every two seconds. A subject is a recording: a site is one person.
The packaged file is a pickle, which can run any code: it is read only after its bytes were held against a hash.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from common.config import DataConfig
from simulations.datasets.folders import Body, Description, Row, SiteFolder, deal_out, packaged, write_folders

PEOPLE = tuple(f"person-{number:02d}" for number in range(1, 11))
_NOTICE = "Shoulder exercises (Burns et al. 2018, arXiv:1802.01489), from the package seglearn 1.2.5 (BSD 3-clause)."
_FILE = ("seglearn", "1.2.5", "data/watch_dataset.npy")
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_RATE, _WINDOW, _STRIDE = 50, 200, 100
_CHANNELS = {"accelerometer": ("ax", "ay", "az"), "gyroscope": ("wx", "wy", "wz")}
_BOUNDS = {"accelerometer": (-2.0, 2.0), "gyroscope": (-6.0, 6.0)}


def write_watch(config: DataConfig, target: Path) -> tuple[Path, ...]:
    """Write a folder per person; with `held_out` people, their recordings are the others' test cohorts.

    With nobody held out, the second of a person's two recordings of each exercise is.

    Raises:
        ValueError: a held-out name is nobody's, or the package is missing or another one.
    """
    unknown = sorted(set(config.held_out) - set(PEOPLE))
    if unknown:
        raise ValueError(f"data.held_out: the people are {', '.join(PEOPLE)}, got {unknown[0]!r}")
    classes, rows, windows = _windows()
    if config.held_out:
        others = {person: rows[person] for person in PEOPLE if person not in config.held_out}
        rows = deal_out([row for person in config.held_out for row in rows[person]], others)
    sites = {}
    for person, own in rows.items():
        files: dict[str, Body] = {row[name]: windows[row[name]] for row in own for name in _CHANNELS}
        sites[person] = SiteFolder(_description(person, classes), own, files)
    return write_folders(target, sites, notice=_NOTICE, missing=config.missing)


def _windows() -> tuple[tuple[str, ...], dict[str, list[Row]], dict[str, bytes]]:
    """Give the exercises' names, every person's rows, and every window's samples as NPY bytes."""
    known = np.load(packaged(*_FILE, _SHA256), allow_pickle=True).item()
    classes = tuple(str(name) for name in known["y_labels"])
    rows: dict[str, list[Row]] = {person: [] for person in PEOPLE}
    windows: dict[str, bytes] = {}
    seen: dict[tuple[str, str], int] = {}
    for number, (samples, label, subject) in enumerate(zip(known["X"], known["y"], known["subject"], strict=True)):
        person, exercise = PEOPLE[int(subject) - 1], classes[int(label)]
        seen[person, exercise] = seen.get((person, exercise), 0) + 1
        recording = f"{person}-{exercise.lower()}-{seen[person, exercise]}"
        split = "test" if seen[person, exercise] > 1 else "train"
        for start in range(0, len(samples) - _WINDOW + 1, _STRIDE):
            row = {"recording": recording, "split": split, "exercise": exercise}
            for place, name in enumerate(_CHANNELS):
                row[name] = f"{name}/{number:03d}-{start:04d}.npy"
                cut = samples[start : start + _WINDOW, 3 * place : 3 * place + 3]
                body = io.BytesIO()
                np.save(body, cut.astype(np.float32), allow_pickle=False)
                windows[row[name]] = body.getvalue()
            rows[person].append(row)
    return classes, rows, windows


def _description(person: str, classes: tuple[str, ...]) -> Description:
    modalities = {
        name: {
            "kind": "signal",
            "column": name,
            "sample_rate": _RATE,
            "seconds": _WINDOW / _RATE,
            "channels": list(channels),
            "bounds": {channel: list(_BOUNDS[name]) for channel in channels},
        }
        for name, channels in _CHANNELS.items()
    }
    return {
        "name": person,
        "subject": "recording",
        "split": "split",
        "modalities": modalities,
        "tasks": {"exercise": {"kind": "multiclass", "column": "exercise", "classes": list(classes)}},
    }
