"""One small real file of every kind that is read, and a cell that names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pyedflib
import soundfile
import wfdb
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

from common.data.modalities import AudioSpec, ImageSpec, ModalitySpec, SignalSpec, TextSpec
from common.data.readers.cell import Cell

IMAGE = ImageSpec(kind="image", column="file", size=(8, 8))
SOUND = AudioSpec(kind="audio", column="file", sample_rate=1000, seconds=0.2)
SIGNAL = SignalSpec(kind="signal", column="file", channels=("a", "b"), sample_rate=50, file_rate=100, seconds=2)
TEXT = TextSpec(kind="text", column="file", max_tokens=16)
WAVES = np.stack([np.sin(np.arange(300) / 8), np.cos(np.arange(300) / 8)], axis=1)  # 100 hertz: 3 seconds


def cell(path: Path, *, identified: bool = False) -> Cell:
    """A cell of the second row that names a file beside the manifest."""
    return Cell(path.parent / "manifest.csv", 2, "file", path.name, identified)


def write_picture(path: Path) -> Path:
    pixels = np.arange(144, dtype=np.uint8).reshape(12, 12)
    Image.fromarray(pixels).save(path)
    return path


def write_dicom(path: Path, values: np.ndarray | None = None, tags: Mapping[str, object] | None = None) -> Path:
    """A CT slice, 12 bits in 16, rescaled by 2 x - 1000; `tags` are set on top."""
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 16 if values is None else values
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    plain = {
        **{"SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": "1.2.3.4", "PatientID": "p1"},
        **{"Rows": pixels.shape[-2], "Columns": pixels.shape[-1], "SamplesPerPixel": 1},
        **{"PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11},
        **{"PixelRepresentation": 0, "RescaleSlope": "2", "RescaleIntercept": "-1000"},
        **{"PixelData": pixels.tobytes()},
    }
    for name, value in {**plain, **(tags or {})}.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def write_nifti(path: Path, values: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
    volume = np.arange(10 * 9 * 7, dtype=np.int16).reshape(10, 9, 7) if values is None else values
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4) if affine is None else affine), path)
    return path


def write_sound(path: Path) -> Path:
    seconds = np.arange(800) / 2000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 50 * seconds), 2000)
    return path


def write_table(path: Path) -> Path:
    lines = ["b,time,a", *(f"{second:.5f},{place},{first:.5f}" for place, (first, second) in enumerate(WAVES))]
    path.write_text("\n".join(lines))
    return path


def write_array(path: Path) -> Path:
    np.save(path, WAVES)
    return path


def write_wfdb(path: Path, names: tuple[str, str] = ("b", "a")) -> Path:
    signals, formats = WAVES[:, ::-1], ["16", "16"]
    wfdb.wrsamp(path.stem, 100, ["mV", "mV"], list(names), p_signal=signals, fmt=formats, write_dir=str(path.parent))
    return path


def write_edf(path: Path, **header: object) -> Path:
    """Two channels of 16 bits; `header` says what else stands in it, as pyedflib calls it."""
    shape: dict[str, str | int | float | None] = {"dimension": "mV", "sample_frequency": 100}
    shape |= {"physical_min": -2, "physical_max": 2, "digital_min": -32768, "digital_max": 32767}
    with pyedflib.EdfWriter(str(path), 2, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for place, name in enumerate(("b", "a")):
            file.setSignalHeader(place, {**shape, "label": name})
        file.setStartdatetime(datetime(2020, 1, 1))
        for key, value in header.items():
            getattr(file, f"set{key}")(value)
        file.writeSamples([WAVES[:, 1].copy(), WAVES[:, 0].copy()])
    return path


def write_text(path: Path) -> Path:
    path.write_text("Fieber, 38.9 °C", encoding="utf-8")
    return path


FILES: dict[str, tuple[Callable[[Path], Path], ModalitySpec]] = {
    "one.png": (write_picture, IMAGE),
    "one.jpg": (write_picture, IMAGE),
    "one.dcm": (write_dicom, IMAGE),
    "one.nii": (write_nifti, IMAGE),
    "one.nii.gz": (write_nifti, IMAGE),
    "one.wav": (write_sound, SOUND),
    "one.flac": (write_sound, SOUND),
    "one.ogg": (write_sound, SOUND),
    "one.csv": (write_table, SIGNAL),
    "one.npy": (write_array, SIGNAL),
    "one.hea": (write_wfdb, SIGNAL),
    "one.edf": (write_edf, SIGNAL),
    "one.txt": (write_text, TEXT),
}
