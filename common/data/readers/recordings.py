"""WFDB and EDF: recordings whose files name their own channels and rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.error import DataError
from common.data.manifest import inside
from common.data.modalities import SignalSpec
from common.data.readers.cell import Cell
from common.data.readers.rates import samples_needed

_LARGEST_HEADER = 1 << 20
_LINE_OF_RECORD = 3  # name, number of signals, rate
Channels = list[tuple[np.ndarray, float]]


def read_wfdb(cell: Cell, path: Path, spec: SignalSpec) -> Channels:
    """Read a WFDB record by its header (`.hea`): samples in physical units; what is marked invalid is a gap.

    Raises:
        DataError: it has several segments, names files elsewhere, lacks a channel, or is shorter than it says.
    """
    import wfdb  # noqa: PLC0415  (optional)

    beside = companions(path)
    for name in beside:
        try:
            companion(cell.manifest.parent, path, name)
        except DataError as error:
            raise cell.wrong(f"its header names {name!r}, which is not beside it: {error}") from error
    header = wfdb.rdheader(str(path.with_suffix("")))
    if not {"~", *beside}.issuperset(header.file_name or ()):  # two readers of one header, of whom one was misled
        raise cell.wrong("which files its header names can be read in two ways: write it anew")
    if not header.sig_len or not header.sig_name:
        raise cell.wrong("its header does not say how long it is, or what its signals are called: write it anew")
    places, rate = places_of(cell, header.sig_name, spec), float(header.fs)
    wanted = min(samples_needed(spec.seconds, rate, spec.sample_rate), int(header.sig_len))
    record = wfdb.rdrecord(str(path.with_suffix("")), sampfrom=0, sampto=wanted, channels=places)
    if len(record.p_signal) < wanted:
        raise cell.wrong(f"the file is truncated: {wanted} samples were expected, {len(record.p_signal)} are there")
    order = {name: column for column, name in enumerate(record.sig_name)}
    return [(np.asarray(record.p_signal[:, order[name]], dtype=np.float64), rate) for name in spec.channels]


def places_of(cell: Cell, names: Sequence[str], spec: SignalSpec) -> list[int]:
    """Find the modality's channels among a file's.

    Raises:
        DataError: a channel is not there, or is there twice.
    """
    for channel in spec.channels:
        if list(names).count(channel) != 1:
            number = "no" if channel not in names else "more than one"
            raise cell.wrong(f"{number} channel {channel!r} among {', '.join(names)}: correct the file or dataset.yaml")
    return [list(names).index(channel) for channel in spec.channels]


def companions(path: Path) -> tuple[str, ...]:
    """Say which files a WFDB header names beside itself, each once; reads the header alone.

    Raises:
        ValueError: it is no header of one segment.
    """
    with path.open("rb") as file:
        text = file.read(_LARGEST_HEADER).decode("latin-1")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not lines or len(lines[0]) < _LINE_OF_RECORD or "/" in lines[0][0]:
        raise ValueError("no header of a WFDB record in one segment: join its segments, or write EDF")
    number = int(lines[0][1].split("/")[0])
    return tuple(dict.fromkeys(line[0] for line in lines[1 : number + 1] if line[0] != "~"))


def companion(folder: Path, header: Path, name: str) -> Path:
    """Give the path of a file that a header names.

    Raises:
        DataError: it leaves the site folder, or is no file.
    """
    return inside(folder, str(header.parent.relative_to(folder) / name))


def read_edf(cell: Cell, path: Path, spec: SignalSpec) -> Channels:
    """Read an EDF or BDF file: samples in physical units, each channel at its own rate.

    Raises:
        DataError: it names its patient, lacks a channel, or is shorter than it says.
    """
    import pyedflib  # noqa: PLC0415  (optional)

    _check_head(cell, path)
    with pyedflib.EdfReader(str(path)) as file:
        places = places_of(cell, [label.strip() for label in file.getSignalLabels()], spec)
        found: Channels = []
        for place in places:
            rate, length = float(file.getSampleFrequency(place)), int(file.getNSamples()[place])
            if not rate > 0:
                raise cell.wrong(f"channel {spec.channels[len(found)]} has no rate: write the file anew")
            wanted = min(samples_needed(spec.seconds, rate, spec.sample_rate), length)
            found.append((np.asarray(file.readSignal(place, 0, wanted), dtype=np.float64), rate))
        return found


def _check_head(cell: Cell, path: Path) -> None:
    """Hold an EDF header against the file's size, before a library prints what it thinks of it, and look for a name.

    In EDF+ and BDF+ what follows a patient's code and sex is a birth date and a name, X where they were taken out; in
    plain EDF one word is taken for a code.
    """
    with path.open("rb") as file:
        head = file.read(256)
        signals = int(head[252:256])
        file.seek(256 + 216 * signals)
        samples = [int(file.read(8)) for _ in range(signals)]
    width = 3 if head[:1] == b"\xff" else 2  # BDF or EDF
    expected = 256 * (signals + 1) + int(head[236:244]) * sum(samples) * width
    if path.stat().st_size != expected:
        raise cell.wrong(f"its header says {expected} bytes, {path.stat().st_size} are there: copy it again")
    patient = head[8:88].decode("latin-1").split()
    known = patient[2:] if head[192:196] in {b"EDF+", b"BDF+"} else patient[1:]
    if any(word.upper() != "X" for word in known) and not cell.identified:
        remedy = "de-identify the file, or write allow_identified_files: true into the site's policy"
        raise cell.wrong(f"its patient field has more than a code and a sex: {remedy}")
