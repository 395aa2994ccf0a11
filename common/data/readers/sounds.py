"""Sounds: WAV, FLAC and OGG, mixed to one channel and brought to one rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data.modalities import AudioSpec, ModalitySpec
from common.data.readers.cell import LARGEST_VALUE, Cell
from common.data.readers.rates import HIGHEST_RATE, resampled, samples_needed

SUFFIXES = (".wav", ".flac", ".ogg", ".oga")
_MAGIC = (b"RIFF", b"RF64", b"fLaC", b"OggS")  # libsndfile reads much else, which nobody asked for
_MOST_SAMPLES = 1 << 28
_CHUNK_HEAD = 8


def read_sound(cell: Cell, spec: ModalitySpec) -> np.ndarray:
    """Read a sound file: float32 [sample], at the modality's rate; only what the modality keeps is decoded.

    Raises:
        DataError: the file is damaged, shorter than it says, empty, or holds what is no finite number.
    """
    import soundfile  # noqa: PLC0415  (loads a library; a site without sounds does without)

    if not isinstance(spec, AudioSpec):
        raise TypeError(f"a sound was expected, got {spec.kind}")
    path = cell.path()
    cell.suffix(SUFFIXES)
    _check_length(cell, path)
    with soundfile.SoundFile(path) as file:
        rate, channels = float(file.samplerate), int(file.channels)
        if not 1 <= rate <= HIGHEST_RATE:
            raise cell.wrong(f"its header says {rate:g} samples a second: write it anew")
        wanted = min(samples_needed(spec.seconds, rate, spec.sample_rate), int(file.frames))
        if wanted <= 0:
            raise cell.wrong("the sound holds no samples: empty the cell where there is none")
        if wanted * channels > _MOST_SAMPLES:
            raise cell.wrong(f"{channels} channels of {wanted} samples are too many: mix them, or lower the rate")
        samples = file.read(wanted, dtype="float64", always_2d=True)
    if len(samples) < wanted:
        raise cell.wrong(f"the file is truncated: {wanted} samples were expected, {len(samples)} are there")
    if not (np.abs(samples) <= LARGEST_VALUE).all():
        raise cell.wrong("a sample is no finite number, or huge: write the file anew")
    return resampled(samples.mean(axis=1), rate, spec.sample_rate)[: spec.num_steps].astype(np.float32)


def _check_length(cell: Cell, path: Path) -> None:
    """Hold what a file says of its own length against its size: libsndfile passes over a WAV that was cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) not in _MAGIC:
            raise cell.wrong("neither WAV, FLAC nor OGG, whatever its name says: convert it")
        file.seek(0)
        if file.read(4) != b"RIFF":
            return
        file.seek(12)
        while len(head := file.read(_CHUNK_HEAD)) == _CHUNK_HEAD:
            length = int.from_bytes(head[4:], "little")
            end = file.tell() + length
            if head[:4] == b"data":
                if end > size:
                    problem = f"its header claims {length} bytes of sound, {size - file.tell()} are there"
                    raise cell.wrong(f"the file is truncated: {problem}; copy it again")
                return
            file.seek(end + length % 2)
    raise cell.wrong("the file is truncated: no sound follows its header; copy it again")
