"""Image files become planes of one size and depth, whatever they were."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from common.data.error import DataError
from common.data.modalities import ImageSpec
from common.data.readings import scaled
from common.data.records import decode_cell
from tests.files_of_every_kind import IMAGE, cell, write_dicom, write_nifti

COLOURED = IMAGE.model_copy(update={"channels": 3})
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def read(path: Path, spec: ImageSpec = IMAGE, *, identified: bool = False) -> np.ndarray:
    return decode_cell(cell(path, identified=identified), spec)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_a_grey_png_keeps_every_value(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.png", Image.fromarray(GREY)))
    np.testing.assert_array_equal(found[0], GREY.astype(np.uint16) * 257)
    assert found.dtype == np.uint16
    np.testing.assert_allclose(scaled(found[None], IMAGE)[0, 0, 0], GREY / 127.5 - 1, atol=1e-6)


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1001
    np.testing.assert_array_equal(read(saved(tmp_path / "a.png", Image.fromarray(deep)))[0], deep)


def test_colours_become_grey_as_the_eye_sees_them_and_grey_becomes_colours(tmp_path: Path) -> None:
    green = np.zeros((8, 8, 3), dtype=np.uint8)
    green[..., 1] = 255
    path = saved(tmp_path / "a.png", Image.fromarray(green))
    assert read(path)[0, 0, 0] == round(0.587 * 65_535)
    assert read(path, COLOURED)[:, 0, 0].tolist() == [0, 65_535, 0]
    assert read(saved(tmp_path / "b.png", Image.fromarray(GREY)), COLOURED).shape == (3, 8, 8)


def test_a_palette_is_looked_up_and_what_is_transparent_is_black(tmp_path: Path) -> None:
    palette = Image.fromarray(GREY).convert("RGB").quantize(64)
    expected = np.asarray(palette.convert("L"), dtype=np.uint16)
    np.testing.assert_allclose(read(saved(tmp_path / "a.png", palette))[0] / 257, expected, atol=1)
    see_through = np.full((8, 8, 4), 255, dtype=np.uint8)
    see_through[:4, :, 3] = 0
    found = read(saved(tmp_path / "b.png", Image.fromarray(see_through)), COLOURED)
    assert not found[:, :4].any()
    assert (found[:, 4:] == 65_535).all()


def test_a_photograph_is_turned_as_it_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    bright = Image.fromarray(np.repeat(np.array([[0], [250]], dtype=np.uint8), 4, axis=0).repeat(8, axis=1))
    plain = read(saved(tmp_path / "a.jpg", bright, quality=95))
    turned = read(saved(tmp_path / "b.jpg", bright, quality=95, exif=exif))
    assert plain[0, 0].max() < plain[0, -1].min()
    np.testing.assert_array_equal(turned, plain[:, ::-1, ::-1])


def test_resizing_averages_so_that_no_pixel_is_skipped(tmp_path: Path) -> None:
    fine = np.zeros((80, 80), dtype=np.uint8)
    fine[::2] = 255
    found = read(saved(tmp_path / "a.png", Image.fromarray(fine)))
    assert abs(int(found[0, 4, 4]) - 32_768) < 1500
    long = read(saved(tmp_path / "b.png", Image.fromarray(fine[:, :20])), IMAGE.model_copy(update={"size": (16, 8)}))
    assert long.shape == (1, 16, 8)


def test_dicom_is_rescaled_and_windowed(tmp_path: Path) -> None:
    stored = np.arange(64, dtype=np.uint16).reshape(8, 8) * 16  # 2 x - 1000: from -1000 to 1016
    path = write_dicom(tmp_path / "a.dcm", stored)
    own = np.clip((2.0 * stored) / 2016, 0, 1)
    np.testing.assert_allclose(read(path)[0] / 65_535, own, atol=1e-4)
    public = np.clip((2.0 * stored - 1000 + 100) / 400, 0, 1)
    wide = IMAGE.model_copy(update={"window": (-100.0, 300.0)})
    np.testing.assert_allclose(read(path, wide)[0] / 65_535, public, atol=1e-4)
    windowed = write_dicom(tmp_path / "b.dcm", stored, {"WindowCenter": ["40", "99"], "WindowWidth": ["401", "9"]})
    np.testing.assert_allclose(
        read(windowed)[0] / 65_535, np.clip((2.0 * stored - 1160.5) / 400 + 0.9025, 0, 1), atol=2
    )
    low, high = 40 - 0.5 - 200, 40 - 0.5 + 200  # PS3.3, C.11.2.1.2
    np.testing.assert_allclose(
        read(windowed)[0] / 65_535, np.clip((2.0 * stored - 1000 - low) / (high - low), 0, 1), atol=1e-4
    )
    np.testing.assert_array_equal(read(windowed, wide), read(path, wide), "the public window is the same for all")


def test_bright_is_bright_in_both_kinds_of_grey(tmp_path: Path) -> None:
    plain = read(write_dicom(tmp_path / "a.dcm"))
    turned = read(write_dicom(tmp_path / "b.dcm", tags={"PhotometricInterpretation": "MONOCHROME1"}))
    np.testing.assert_allclose(turned.astype(int), 65_535 - plain.astype(int), atol=1)


def test_the_slice_picks_a_frame(tmp_path: Path) -> None:
    frames = np.stack([np.full((8, 8), place, dtype=np.uint16) for place in range(5)])
    frames[:, 0, 0], frames[:, 0, 1] = 0, 4
    path = write_dicom(tmp_path / "a.dcm", frames, {"NumberOfFrames": 5, "RescaleSlope": "1", "RescaleIntercept": "0"})
    for part, frame in ((0.0, 0), (0.5, 2), (1.0, 4)):
        found = read(path, IMAGE.model_copy(update={"slice": part}))
        assert found[0, 5, 5] == round(frame / 4 * 65_535)


def test_compressed_dicom_is_the_same_picture(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm")
    packed = dcmread(path)
    packed.compress(RLELossless)
    packed.save_as(tmp_path / "b.dcm")
    np.testing.assert_array_equal(read(tmp_path / "b.dcm"), read(path))
    deflated = dcmread(path)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated.save_as(tmp_path / "c.dcm")
    with pytest.raises(DataError, match="deflated DICOM is not read"):
        read(tmp_path / "c.dcm")


def test_dicom_is_known_without_its_ending(tmp_path: Path) -> None:
    with_ending = read(write_dicom(tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read(write_dicom(tmp_path / "1.2.840.17")), with_ending)


def test_a_package_that_is_not_there_is_named_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"'a\.dcm': reading it needs the package pydicom: pip install"):
        read(write_dicom(tmp_path / "a.dcm"))


def test_a_picture_that_claims_to_be_huge_is_refused_at_once(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GREY))
    body = bytearray(path.read_bytes())
    body[16:24] = (20_000).to_bytes(4, "big") * 2
    body[29:33] = zlib.crc32(body[12:29]).to_bytes(4, "big")
    path.write_bytes(body)
    with pytest.raises(DataError, match=r"row 2, column file: 'a\.png': .*pixels"):
        read(path)
    with pytest.raises(DataError, match="more than 67108864"):
        read(write_dicom(tmp_path / "a.dcm", tags={"Rows": 60_000, "Columns": 60_000}))


def test_dicom_in_colours_is_read(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    tags = {
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "PhotometricInterpretation": "RGB",
        "PixelData": red.tobytes(),
    }
    path = write_dicom(tmp_path / "a.dcm", tags={**tags, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7})
    assert read(path, COLOURED)[:, 0, 0].tolist() == [65_535, 0, 0]


NAMED: tuple[dict[str, object], ...] = (
    {"PatientName": "Doe^Jane"},
    {"PatientBirthDate": "19700101"},
    {"OtherPatientNames": ["", "Doe^J"]},
    {"PatientIdentityRemoved": "YES", "PatientBirthDate": "19700101"},
    {"BurnedInAnnotation": "YES"},
)


@pytest.mark.parametrize("tags", NAMED, ids=lambda tags: list(tags)[-1])
def test_dicom_that_names_its_patient_is_refused_unless_the_site_says_otherwise(
    tmp_path: Path, tags: dict[str, object]
) -> None:
    path = write_dicom(tmp_path / "a.dcm", tags=tags)
    with pytest.raises(DataError, match=rf"{list(tags)[-1]} is .*allow_identified_files") as caught:
        read(path)
    assert "Doe" not in str(caught.value)
    assert "1970" not in str(caught.value)
    assert read(path, identified=True).shape == (1, 8, 8)


def test_a_name_inside_a_sequence_is_found_and_a_pseudonym_is_none(tmp_path: Path) -> None:
    from pydicom import Dataset, Sequence  # noqa: PLC0415

    inner = Dataset()
    inner.PatientName = "Doe^Jane"
    with pytest.raises(DataError, match="PatientName is not empty"):
        read(write_dicom(tmp_path / "a.dcm", tags={"ReferencedPatientSequence": Sequence([inner])}))
    removed = {"PatientName": "case-7", "PatientIdentityRemoved": "YES", "PatientBirthDate": ""}
    pseudonym = write_dicom(tmp_path / "b.dcm", tags=removed)
    assert read(pseudonym).shape == (1, 8, 8)


def test_a_volume_is_seen_from_below_however_it_is_stored(tmp_path: Path) -> None:
    body = np.zeros((12, 10, 6), dtype=np.float32)  # right, front, up
    body[9:, :, :], body[:, 8:, :], body[:, :, 5] = 0.5, 0.7, 1.0
    spec = IMAGE.model_copy(update={"size": (10, 12), "window": (0.0, 1.0)})
    found = read(write_nifti(tmp_path / "a.nii", body), spec)[0] / 65_535
    np.testing.assert_allclose(found[9], [0.5] * 3 + [0.0] * 9, atol=1e-4)  # behind; the right side is on the left
    np.testing.assert_allclose(found[0], 0.7, atol=1e-4)
    for axes in ((2, 0, 1), (1, 2, 0), (2, 1, 0), (0, 2, 1)):
        for flipped in (False, True):
            stored = np.transpose(body, axes)
            affine = np.zeros((4, 4))
            affine[3, 3] = 1
            for place, axis in enumerate(axes):
                affine[axis, place] = -2.0 if flipped else 2.0
                affine[axis, 3] = 2.0 * (stored.shape[place] - 1) if flipped else 0.0
            whole = stored[::-1, ::-1, ::-1] if flipped else stored
            again = read(write_nifti(tmp_path / "b.nii.gz", np.ascontiguousarray(whole), affine), spec)[0] / 65_535
            np.testing.assert_allclose(again, found, atol=1e-4)
    top = spec.model_copy(update={"slice": 1.0})
    assert (read(write_nifti(tmp_path / "c.nii", body), top) == 65_535).all()


def test_a_single_plane_is_read_as_it_lies(tmp_path: Path) -> None:
    plane = np.arange(64, dtype=np.int16).reshape(8, 8)
    sideways = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    for affine in (np.eye(4), sideways):
        found = read(write_nifti(tmp_path / "a.nii", plane, affine))[0]
        np.testing.assert_allclose(found / 65_535, plane.T[::-1, ::-1] / 63, atol=1e-4)


def test_of_several_volumes_the_first_is_read(tmp_path: Path) -> None:
    volumes = np.stack([np.zeros((9, 9, 5)), np.ones((9, 9, 5))], axis=-1).astype(np.float32)
    assert not read(write_nifti(tmp_path / "a.nii", volumes), IMAGE.model_copy(update={"window": (0.0, 1.0)})).any()
    assert nibabel.load(tmp_path / "a.nii").shape == (9, 9, 5, 2)


def test_what_is_no_finite_number_is_refused(tmp_path: Path) -> None:
    body = np.full((9, 9, 5), np.nan, dtype=np.float32)
    with pytest.raises(DataError, match=r"row 2, column file: 'a\.nii': a pixel is no finite real number"):
        read(write_nifti(tmp_path / "a.nii", body))
