"""DICOM and NIfTI: one plane of a scan, as grey or colours between the ends of a window of intensities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.modalities import ImageSpec
from common.data.readers.cell import LARGEST_VALUE, MOST_PIXELS, Cell

if TYPE_CHECKING:
    from pydicom import Dataset

_PREAMBLE, _MAGIC = 128, b"DICM"
_DEFLATED = "1.2.840.10008.1.2.1.99"
# What names a person: PS3.15, table E.1-1, as far as it is the patient.
_IDENTITY = frozenset(
    (
        *("PatientName", "PatientBirthDate", "PatientBirthTime", "PatientBirthName", "PatientMotherBirthName"),
        *("OtherPatientNames", "OtherPatientIDs", "PatientAddress", "PatientTelephoneNumbers"),
        *("PatientTelecomInformation", "ResponsiblePerson", "MilitaryRank", "CountryOfResidence"),
    )
)
_MOST_VOXELS = 1 << 29
_VOLUME, _PLANE = 3, 2


def is_dicom(path: Path) -> bool:
    """Whether a file says so itself: archives often give their files no ending."""
    with path.open("rb") as file:
        return file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC


def read_dicom(cell: Cell, path: Path, spec: ImageSpec) -> np.ndarray:
    """Decode one frame: float [channel, height, width] in 0 to 1; bright is bright, also in MONOCHROME1.

    Grey values are rescaled as the file says, then cut to the modality's window, or the file's own first one, or the
    frame's lowest and highest value.

    Raises:
        DataError: it names its patient, or cannot be decoded.
    """
    from pydicom import dcmread  # noqa: PLC0415  (optional)
    from pydicom.filereader import read_file_meta_info  # noqa: PLC0415
    from pydicom.pixels import apply_rescale, pixel_array  # noqa: PLC0415

    if str(read_file_meta_info(path).get("TransferSyntaxUID")) == _DEFLATED:  # may unpack to any size
        raise cell.wrong("deflated DICOM is not read: store it uncompressed, or as JPEG or JPEG 2000")
    dataset = dcmread(path)
    if not cell.identified:
        _check_identity(cell, dataset)
    height, width, frames = (int(dataset.get(key) or 1) for key in ("Rows", "Columns", "NumberOfFrames"))
    if height * width > MOST_PIXELS:
        raise cell.wrong(f"{width} x {height} pixels are more than {MOST_PIXELS}: make it smaller")
    kind = str(dataset.get("PhotometricInterpretation"))
    pixels = np.asarray(pixel_array(dataset, index=round(spec.slice * (frames - 1))))
    if pixels.ndim == _VOLUME and kind != "PALETTE COLOR":
        return np.asarray(np.moveaxis(pixels.astype(np.float64), -1, 0) / (2 ** int(dataset.BitsStored) - 1))
    if kind not in {"MONOCHROME1", "MONOCHROME2"}:
        raise cell.wrong(f"{kind} is not read: store it as MONOCHROME2 or RGB")
    grey = _windowed(_numbers(cell, np.asarray(apply_rescale(pixels, dataset))), dataset, spec)
    return (1.0 - grey if kind == "MONOCHROME1" else grey)[None]


def _check_identity(cell: Cell, dataset: Dataset) -> None:
    """Refuse who is still named; the sentence has the attribute, never what stands in it."""
    removed = str(dataset.get("PatientIdentityRemoved")) == "YES"
    for element in dataset.iterall():  # also inside sequences
        replaced = element.keyword == "PatientName" and removed  # by a pseudonym: PS3.15 wants some name to stand
        if element.keyword in _IDENTITY and str(element.value or "").strip(" ^") and not replaced:
            raise cell.wrong(f"{element.keyword} is not empty: {_REMEDY}")
    if str(dataset.get("BurnedInAnnotation")) == "YES":
        raise cell.wrong(f"BurnedInAnnotation is YES, so a name may stand in the picture itself: {_REMEDY}")


_REMEDY = "de-identify the file, or write allow_identified_files: true into the site's policy"


def _windowed(values: np.ndarray, dataset: Dataset, spec: ImageSpec) -> np.ndarray:
    """Bring rescaled values to 0 to 1 by the modality's window, the file's own, or what there is."""
    centers, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if spec.window is None and centers is not None and widths is not None:
        center, width = (float(np.atleast_1d(several)[0]) for several in (centers, widths))
        function = str(dataset.get("VOILUTFunction", "LINEAR"))
        if function == "SIGMOID" and width > 0:
            return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -500.0, 500.0))))
        if function == "LINEAR":  # PS3.3, C.11.2.1.2: its ends are half a value further in
            center, width = center - 0.5, width - 1.0
        if width > 0:
            return _between(values, (center - width / 2, center + width / 2))
    return _between(values, spec.window)


def _numbers(cell: Cell, values: np.ndarray) -> np.ndarray:
    numbers = values.astype(np.float64) if values.dtype.kind in "fiu" else np.full(1, np.nan)
    if not (np.abs(numbers) <= LARGEST_VALUE).all():
        raise cell.wrong("a pixel is no finite real number, or huge: write the file anew")
    return numbers


def _between(values: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """Bring values to 0 to 1 between a window's ends, or between their own lowest and highest; one value alone is 0."""
    low, high = window or (float(values.min()), float(values.max()))
    return np.asarray(np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(values))


def read_nifti(cell: Cell, path: Path, spec: ImageSpec) -> np.ndarray:
    """Decode one axial plane of a volume, of several volumes the first: float [1, height, width] in 0 to 1.

    The front of the body is up and its right side is on the left, as radiologists look at it, however the file stores
    it; a file of one plane is taken for such a one. `slice` counts from the feet to the head.

    Raises:
        DataError: it is no image of two dimensions or more, or claims to be huge.
    """
    import nibabel  # noqa: PLC0415  (optional)
    from nibabel.imageglobals import LoggingOutputSuppressor  # noqa: PLC0415

    with LoggingOutputSuppressor():  # it writes to stderr what it makes of a header
        image = nibabel.nifti1.load(path)
    shape = image.shape
    if len(shape) < _PLANE or 0 in shape or np.prod([float(side) for side in shape]) > _MOST_VOXELS:
        raise cell.wrong(f"shape {shape} is no volume that is read here: store one volume of at most 2^29 voxels")
    axes = nibabel.orientations.io_orientation(image.affine if len(shape) >= _VOLUME else np.eye(4))
    where: list[int | slice] = [slice(None)] * min(len(shape), _VOLUME) + [0] * (len(shape) - _VOLUME)
    upward = next((axis for axis in range(_VOLUME) if axes[axis, 0] == _VOLUME - 1), _VOLUME - 1)
    if len(shape) >= _VOLUME:
        share = spec.slice if axes[upward, 1] > 0 else 1.0 - spec.slice
        where[upward] = round(share * (shape[upward] - 1))
    if np.prod([side for side, part in zip(shape, where, strict=True) if isinstance(part, slice)]) > MOST_PIXELS:
        raise cell.wrong(f"a plane of {shape} has more than {MOST_PIXELS} pixels: make it smaller")
    plane = np.asarray(image.dataobj[tuple(where)])
    return _between(_seen_from_below(_numbers(cell, plane), np.delete(axes, upward, axis=0)), spec.window)[None]


def _seen_from_below(plane: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Turn a stored plane so that rows go from front to back and columns from the body's right to its left."""
    first = axes[0, 0]
    rightward, frontward = axes if first < axes[1, 0] else axes[::-1]
    seen = plane.T if first < axes[1, 0] else plane
    seen = seen[::-1] if frontward[1] > 0 else seen
    return seen[:, ::-1] if rightward[1] > 0 else seen
