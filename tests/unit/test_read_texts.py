"""Texts become bytes between a beginning and an end, from their cell or from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.error import DataError
from common.data.modalities import TextSpec
from common.data.readers.cell import Cell
from common.data.readings import BEGIN, END, FIRST_BYTE, NUM_TOKENS
from common.data.records import decode_cell
from tests.files_of_every_kind import TEXT, cell


def said(tokens: np.ndarray) -> str:
    assert tokens[0] == BEGIN
    assert tokens[-1] == END
    return bytes(int(token) - FIRST_BYTE for token in tokens[1:-1]).decode()


def test_a_text_in_its_cell_and_one_in_a_file_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_bytes(b"\xef\xbb\xbf" + "Übel\n".encode())
    from_file = decode_cell(cell(tmp_path / "a.TXT"), TEXT)
    np.testing.assert_array_equal(from_file, decode_cell(Cell(tmp_path / "manifest.csv", 2, "note", "Übel"), TEXT))
    assert said(from_file) == "Übel"
    assert from_file.dtype == np.uint16
    assert from_file.max() < NUM_TOKENS


def test_a_long_text_is_cut_between_two_characters(tmp_path: Path) -> None:
    spec = TextSpec(kind="text", column="note", max_tokens=6)
    for text, kept in (("abcdef", "abcd"), ("abcä", "abc"), ("äö", "äö")):
        assert said(decode_cell(Cell(tmp_path / "manifest.csv", 2, "note", text), spec)) == kept


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\xff\xfe", "not UTF-8 .*: save it as UTF-8"),
        (b" \n", "the text is blank: empty the cell"),
        (b"", "the file is empty"),
        (b"a" * ((1 << 24) + 1), "a text of more than 16777216 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_named_with_row_and_column(tmp_path: Path, body: bytes, says: str) -> None:
    (tmp_path / "a.txt").write_bytes(body)
    with pytest.raises(DataError, match=rf"manifest\.csv, row 2, column file: 'a\.txt': {says}"):
        decode_cell(cell(tmp_path / "a.txt"), TEXT)
