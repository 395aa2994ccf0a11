"""Images: one plane (or red, green, blue) of any size, resized to the modality's; PNG and JPEG by Pillow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data.modalities import ImageSpec, ModalitySpec
from common.data.readers.cell import MOST_PIXELS, Cell
from common.data.readers.scans import is_dicom, read_dicom, read_nifti

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = 65_535
_COLOURS = 3


def read_image(cell: Cell, spec: ModalitySpec) -> np.ndarray:
    """Read an image file: uint16 [channel, height, width]; 0 and 65,535 are the ends of its public window.

    Resized to the modality's size, its sides apart (a long image is squeezed), averaging over the pixels that become
    one. Every image has 16 bits, so that no record's values depend on which other records there are.

    Raises:
        DataError: the file is damaged or truncated, too large, or of a kind that is not read.
    """
    if not isinstance(spec, ImageSpec):
        raise TypeError(f"an image was expected, got {spec.kind}")
    path = cell.path()
    planes = (read_dicom if is_dicom(path) else FILES[cell.suffix(FILES)])(cell, path, spec)
    if len(planes) != spec.channels:
        planes = np.repeat(planes, spec.channels, axis=0) if len(planes) == 1 else _grey(planes)
    return np.stack([_resized(plane, spec.size) for plane in planes])


def _read_picture(cell: Cell, path: Path, _spec: ImageSpec) -> np.ndarray:
    """Decode a PNG or JPEG: float32 [channel, height, width] in 0 to 1."""
    from PIL import Image, ImageOps  # noqa: PLC0415  (a site without images does without)

    with Image.open(path, formats=("PNG", "JPEG")) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise cell.wrong(f"{opened.width} x {opened.height} pixels are more than {MOST_PIXELS}: make it smaller")
        opened.load()
        turned = ImageOps.exif_transpose(opened)  # a photograph says which side is up
        plain = _plain(turned)
    pixels = np.asarray(plain, dtype=np.float32) / np.float32(255 if plain.mode in {"L", "RGB"} else WHITE)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)  # noqa: PLR2004  (height, width)


def _plain(image: Image) -> Image:
    """Bring any mode to grey of 8 or 16 bits or to colours of 8; what is transparent becomes black."""
    from PIL import Image as Images  # noqa: PLC0415

    if image.mode.startswith("I"):  # 16 bits, in either order of bytes or in a wider word
        return image if image.mode == "I;16" else image.convert("I")
    if image.has_transparency_data:
        black = Images.new("RGBA", image.size, (0, 0, 0, 255))
        return Images.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in {"1", "L"} else "RGB")


def _grey(planes: np.ndarray) -> np.ndarray:
    """Mix red, green and blue as the eye does: [1, height, width] (ITU-R BT.601)."""
    weights = np.array([0.299, 0.587, 0.114], dtype=planes.dtype)
    return np.tensordot(weights, planes[:_COLOURS], axes=1)[None]


def _resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image  # noqa: PLC0415

    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(np.rint(np.clip(np.asarray(image), 0.0, 1.0) * WHITE), dtype=np.uint16)


FILES: dict[str, Callable[[Cell, Path, ImageSpec], np.ndarray]] = {
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
    ".dcm": read_dicom,
    ".dicom": read_dicom,
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
}
