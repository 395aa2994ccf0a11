"""Made-up patients whose every modality says something about one hidden number: tests, scale, known bias.

A subject has a severity z, normal with mean 0 and standard deviation 1, and is sick where z is above 0. Each modality
shows z with noise of its own: brightness of a spot, pitch of a tone, rate of a pulse, choice of words, three values.
Members of group b are measured with more noise, by the factor 1 + bias: a true gap that an audit must find.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.config import DataConfig
from simulations.datasets.folders import Body, Description, Row, SiteFolder, tabular, write_folders

_NOTICE = "Made up: nobody's records."
_SIDE, _RATE, _SECONDS, _PULSE_RATE, _PULSE_SECONDS = 32, 4000, 0.5, 50, 4.0
_PITCH, _BEATS = 440.0, 1.2  # hertz at severity 0
_CALM = ("clear", "normal", "stable", "healthy", "unchanged", "calm")
_SICK = ("opacity", "effusion", "elevated", "acute", "worse", "fever")
_WORDS = 8


def write_synthetic(config: DataConfig, target: Path) -> tuple[Path, ...]:
    """Write folders of subjects with one or two records each; about .3 of the subjects are held out."""
    sites = {}
    for place in range(config.synthetic.sites):
        name = f"site-{place:02d}"
        random = np.random.default_rng([config.split_seed, place])
        rows: list[Row] = []
        files: dict[str, Body] = {}
        for subject in range(config.synthetic.subjects):
            for row, own in _records(config, f"{name}-{subject:05d}", random):
                rows.append(row)
                files |= own
        sites[name] = SiteFolder(_description(name, config), rows, files)
    return write_folders(target, sites, notice=_NOTICE, missing=config.missing)


def _records(config: DataConfig, subject: str, random: np.random.Generator) -> list[tuple[Row, dict[str, Body]]]:
    severity, group = random.normal(), "ab"[random.integers(2)]
    split = "test" if random.random() < _TEST_SHARE else "train"
    noise = config.synthetic.noise * (1 + config.synthetic.bias * (group == "b"))
    found = []
    for number in range(1 + int(random.integers(2))):
        row = {"subject": subject, "split": split, "group": group, "sick": "yes" if severity > 0 else "no"}
        files: dict[str, Body] = {}
        for kind in config.synthetic.kinds:
            seen = severity + noise * random.normal()
            cells, body = MAKERS[kind](f"{subject}-{number}", seen, random)
            row |= cells
            files |= body
        found.append((row, files))
    return found


_TEST_SHARE = 0.3
Made = tuple[Row, dict[str, Body]]


def _image(record: str, seen: float, random: np.random.Generator) -> Made:
    from PIL import Image  # noqa: PLC0415  (only where images are written)

    across = np.linspace(-2, 2, _SIDE)
    spot = np.exp(-(across[:, None] ** 2) - across[None, :] ** 2)
    pixels = 110 + 30 * seen * spot + 8 * random.normal(size=(_SIDE, _SIDE))
    body = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(body, format="png")
    path = f"images/{record}.png"
    return {"scan": path}, {path: body.getvalue()}


def _audio(record: str, seen: float, random: np.random.Generator) -> Made:
    import soundfile  # noqa: PLC0415  (only where sounds are written)

    seconds = np.arange(round(_RATE * _SECONDS)) / _RATE
    tone = 0.3 * np.sin(2 * np.pi * _PITCH * 2 ** (seen / 2) * seconds) + 0.05 * random.normal(size=len(seconds))
    body = io.BytesIO()
    soundfile.write(body, np.clip(tone, -1, 1).astype(np.float32), _RATE, format="WAV", subtype="PCM_16")
    path = f"sounds/{record}.wav"
    return {"cough": path}, {path: body.getvalue()}


def _signal(record: str, seen: float, random: np.random.Generator) -> Made:
    seconds = np.arange(round(_PULSE_RATE * _PULSE_SECONDS)) / _PULSE_RATE
    rate = _BEATS * 2 ** (seen / 3)
    wave = np.sin(2 * np.pi * (rate * seconds + random.random())) + 0.2 * random.normal(size=len(seconds))
    lines = ["ppg", *(f"{sample:.4f}" for sample in wave)]
    path = f"signals/{record}.csv"
    return {"ppg": path}, {path: ("\n".join(lines) + "\n").encode()}


def _text(_record: str, seen: float, random: np.random.Generator) -> Made:
    sick = random.random(_WORDS) < 1 / (1 + np.exp(-2 * seen))
    words = [(_SICK if one else _CALM)[random.integers(len(_SICK))] for one in sick]
    return {"note": " ".join(words)}, {}


def _values(_record: str, seen: float, random: np.random.Generator) -> Made:
    values = np.clip(seen * np.array([1.0, -0.5, 0.25]) + 0.3 * random.normal(size=3), -4, 4)
    return {name: f"{value:.3f}" for name, value in zip(_LABS, values, strict=True)}, {}


_LABS = {"crp": (-4.0, 4.0), "ldh": (-4.0, 4.0), "sodium": (-4.0, 4.0)}
# How one record of each kind is made, and how it is described.
MAKERS: dict[str, Callable[[str, float, np.random.Generator], Made]] = {
    "image": _image,
    "audio": _audio,
    "signal": _signal,
    "text": _text,
    "tabular": _values,
}
_DESCRIBED: dict[str, tuple[str, Description]] = {
    "image": ("scan", {"kind": "image", "column": "scan", "size": [_SIDE, _SIDE]}),
    "audio": ("cough", {"kind": "audio", "column": "cough", "sample_rate": _RATE, "seconds": _SECONDS}),
    "signal": (
        "ppg",
        {
            "kind": "signal",
            "column": "ppg",
            "sample_rate": _PULSE_RATE,
            "seconds": _PULSE_SECONDS,
            "channels": ["ppg"],
            "bounds": {"ppg": [-2.0, 2.0]},
        },
    ),
    "text": ("note", {"kind": "text", "column": "note", "max_tokens": 96}),
    "tabular": ("labs", tabular(_LABS, {})),
}


def _description(site: str, config: DataConfig) -> Description:
    return {
        "name": site,
        "subject": "subject",
        "split": "split",
        "modalities": dict(_DESCRIBED[kind] for kind in config.synthetic.kinds),
        "tasks": {"sick": {"kind": "binary", "column": "sick", "classes": ["no", "yes"]}},
        "attributes": {"group": {"column": "group", "levels": ["a", "b"]}},
    }
