"""Signal files become named channels at one rate, through one filter; gaps are bridged, infinite values refused."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from common.data.error import DataError
from common.data.readers.rates import resampled
from common.data.records import decode_cell
from tests.files_of_every_kind import FILES, SIGNAL, WAVES, cell, write_edf, write_table, write_wfdb

KINDS = ("one.csv", "one.npy", "one.hea", "one.edf")


def read(path: Path, **changes: object) -> np.ndarray:
    return decode_cell(cell(path), SIGNAL.model_copy(update=changes))


def table(path: Path, values: np.ndarray, header: str = "a,b") -> Path:
    text = io.StringIO()
    np.savetxt(text, values, delimiter=",", header=header, comments="")
    path.write_text(text.getvalue())
    return path


@pytest.mark.parametrize("name", KINDS)
def test_channels_are_found_by_name_and_brought_to_the_rate(tmp_path: Path, name: str) -> None:
    found = read(FILES[name][0](tmp_path / name))
    assert found.shape == (100, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[10:-10], WAVES[20:180:2], atol=2e-3)


@pytest.mark.parametrize("name", ["one.csv", "one.hea", "one.edf"])
def test_a_channel_that_is_not_there_is_named_beside_those_that_are(tmp_path: Path, name: str) -> None:
    path = FILES[name][0](tmp_path / name)
    with pytest.raises(DataError, match=r"row 2, column file: 'one\..*no channel 'c' among b, (time, )?a"):
        read(path, channels=("a", "c"))


def test_a_channel_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than one channel 'a'"):
        read(table(tmp_path / "a.csv", WAVES, "a,a"))


def test_a_record_shorter_than_the_modality_keeps_its_length(tmp_path: Path) -> None:
    assert read(table(tmp_path / "a.csv", WAVES[:50])).shape == (25, 2)
    assert read(table(tmp_path / "b.csv", WAVES[:1])).shape == (1, 2)


def test_gaps_are_bridged_and_a_channel_of_gaps_is_the_middle_of_its_bounds(tmp_path: Path) -> None:
    holed = np.tile(np.arange(8.0)[:, None], (1, 2))
    holed[[0, 3, 4, 7], 0] = np.nan
    holed[:, 1] = np.nan
    spec = {"file_rate": 50.0, "bounds": {"b": (2.0, 6.0)}}
    found = read(table(tmp_path / "a.csv", holed), **spec)
    np.testing.assert_allclose(found[:, 0], [1, 1, 2, 3, 4, 5, 6, 6], atol=1e-6)
    np.testing.assert_array_equal(found[:, 1], np.full(8, 4.0))
    np.save(tmp_path / "b.npy", holed)
    np.testing.assert_array_equal(read(tmp_path / "b.npy", **spec), found)
    assert len(read(table(tmp_path / "c.csv", np.full((8, 2), np.nan)))) == 0, "nothing was measured: it is missing"


def test_an_infinite_value_is_refused(tmp_path: Path) -> None:
    for large in (np.inf, -1e38):
        np.save(tmp_path / "a.npy", np.array([[1.0, large]]))
        with pytest.raises(DataError, match="channel b holds an infinite or huge value"):
            read(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((0, 2)))
    with pytest.raises(DataError, match=r"row 2, column file: 'b\.npy'"):
        read(tmp_path / "b.npy")


def test_a_bad_cell_of_a_table_is_named_by_its_line(tmp_path: Path) -> None:
    for line, says in (("x,1", "line 3: 'x' is not a number"), ("1", "line 3 has 1 cells")):
        (tmp_path / "a.csv").write_text(f"a,b\n1,2\n{line}\n")
        with pytest.raises(DataError, match=says):
            read(tmp_path / "a.csv")


def test_a_filter_lets_its_band_through_and_shifts_nothing(tmp_path: Path) -> None:
    seconds = np.arange(400) / 50
    slow, middle, fast = (np.sin(2 * np.pi * hertz * seconds) for hertz in (0.3, 4.0, 20.0))
    path = table(tmp_path / "a.csv", np.stack([slow + middle + fast] * 2, axis=1))
    for band, left in (((2.0, 8.0), middle), ((0.0, 1.5), slow), ((10.0, 25.0), fast)):
        found = read(path, file_rate=50.0, seconds=8.0, band=band)[:, 0]
        np.testing.assert_allclose(found[100:-100], left[100:-100], atol=0.05)
    whole = read(path, file_rate=50.0, seconds=8.0, band=(0.0, 25.0))[:, 0]
    np.testing.assert_allclose(whole, slow + middle + fast, atol=1e-5)
    assert len(read(table(tmp_path / "b.csv", np.ones((2, 2))), file_rate=50.0, band=(2.0, 8.0))) == 2


def test_rates_that_divide_badly_keep_time() -> None:
    for before, after in ((44_100.0, 16_000.0), (360.0, 125.0), (99.97, 50.0), (1 / 60, 1 / 150)):
        length = int(min(before, 1000) * 20) or 400
        clock = np.arange(length) / before
        found = resampled(np.sin(clock / clock[-1] * 20), before, after)
        assert len(found) == pytest.approx(length * after / before, abs=1)
        expected = np.sin(np.arange(len(found)) / after / clock[-1] * 20)
        middle = slice(len(found) // 4, -len(found) // 4)
        np.testing.assert_allclose(found[middle], expected[middle], atol=0.02)


def test_nothing_that_could_run_code_is_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(b"\x80\x04}\x94.")
    np.savez(tmp_path / "c.npz", WAVES)
    (tmp_path / "c.npz").rename(tmp_path / "c.npy")
    (tmp_path / "d.pkl").write_bytes(b"\x80\x04}\x94.")
    for name in ("a.npy", "b.npy", "c.npy", "d.pkl"):
        with pytest.raises(DataError, match=r"row 2, column file"):
            read(tmp_path / name)


def test_an_array_that_claims_to_be_huge_is_refused_at_once(tmp_path: Path) -> None:
    for shape in ("(99999999999, 2)", "(2, 99999999999)", "(3, " + "1, " * 9000 + ")"):
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
        head = b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little")
        (tmp_path / "a.npy").write_bytes(head + header + b"\0" * 64)
        with pytest.raises(DataError, match=r"row 2, column file: 'a\.npy'"):
            read(tmp_path / "a.npy")


def test_complex_numbers_and_other_shapes_are_refused(tmp_path: Path) -> None:
    for array, says in ((WAVES * 1j, "complex128 is no signal"), (WAVES[:, :1], r"\(samples, 2\) was expected")):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(DataError, match=says):
            read(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside.dat", "sub/../../outside.dat"])
def test_a_header_cannot_name_files_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    path = write_wfdb(folder / "one.hea")
    (tmp_path / "outside.dat").write_bytes((folder / "one.dat").read_bytes())
    path.write_text(path.read_text().replace("one.dat", name))
    with pytest.raises(DataError, match=r"which is not beside it.*leaves the site folder"):
        read(path)


def test_a_header_that_two_readers_read_in_two_ways_does_not_lead_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    path = write_wfdb(folder / "one.hea")
    data = (folder / "one.dat").read_bytes()
    (tmp_path / "outside.dat").write_bytes(data)
    (folder / "two.dat").symlink_to(tmp_path / "outside.dat")
    plain = path.read_text().replace("one.dat", "two.dat")
    first, *rest = plain.splitlines()
    for hides in (" #x", "# x\x85one.dat 16"):  # a remark to one reader, a signal's line to another
        (folder / "#x").write_bytes(data)
        path.write_bytes("\n".join([first, *[hides] * 2, *rest]).encode("latin-1"))
        with pytest.raises(DataError, match=r"which is not beside it|read in two ways"):
            read(path)


def test_a_recording_that_was_cut_off_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path, data in ((write_wfdb(tmp_path / "one.hea"), "one.dat"), (write_edf(tmp_path / "one.edf"), "one.edf")):
        (tmp_path / data).write_bytes((tmp_path / data).read_bytes()[:-600])
        with pytest.raises(DataError, match=r"row 2, column file: 'one\."):
            read(path, seconds=60.0)
    assert capfd.readouterr() == ("", ""), "no library says anything of its own"
    (tmp_path / "one.dat").unlink()
    with pytest.raises(DataError, match=r"'one\.dat', which is not beside it.*no such file"):
        read(tmp_path / "one.hea")


def test_edf_that_names_its_patient_is_refused_unless_the_site_says_otherwise(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "one.edf", PatientName="Jane_Doe")
    with pytest.raises(DataError, match=r"patient field has more than a code.*allow_identified_files") as caught:
        read(path)
    assert "Doe" not in str(caught.value)
    assert decode_cell(cell(path, identified=True), SIGNAL).shape == (100, 2)
    assert len(read(write_edf(tmp_path / "two.edf", PatientCode="p7", Sex=1))) == 100
    with pytest.raises(DataError, match="patient field"):
        read(write_edf(tmp_path / "three.edf", Birthdate=date(1970, 1, 1)))


@pytest.mark.parametrize(("field", "named"), [("", False), ("p7", False), ("Jane Doe", True), ("X X X X", False)])
def test_in_a_plain_edf_one_word_is_a_code(tmp_path: Path, field: str, named: bool) -> None:
    path = write_edf(tmp_path / "one.edf")
    body = bytearray(path.read_bytes())
    body[8:88], body[192:236] = field.ljust(80).encode(), b" " * 44
    path.write_bytes(body)
    if named:
        with pytest.raises(DataError, match="patient field"):
            read(path)
    assert decode_cell(cell(path, identified=named), SIGNAL).shape == (100, 2)


def test_an_array_of_one_channel_needs_no_second_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", WAVES[:, 0])
    np.save(tmp_path / "b.npy", np.asfortranarray(WAVES[:, :1].astype(">f4")))
    one, other = read(tmp_path / "a.npy", channels=("a",)), read(tmp_path / "b.npy", channels=("a",))
    assert one.shape == (100, 1)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_short_table_is_read_at_its_own_rate_by_default(tmp_path: Path) -> None:
    found = read(write_table(tmp_path / "a.csv"), file_rate=None)
    np.testing.assert_allclose(found, WAVES[:100], atol=1e-4)
