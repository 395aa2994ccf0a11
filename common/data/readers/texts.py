"""Texts as tokens: each byte of UTF-8 is one, between a beginning and an end. Nothing is learnt from the records."""

from __future__ import annotations

import numpy as np

from common.data.modalities import ModalitySpec, TextSpec
from common.data.readers.cell import Cell
from common.data.readings import BEGIN, END, FIRST_BYTE

SUFFIX = ".txt"
_LARGEST_BYTES = 1 << 24


def read_text(cell: Cell, spec: ModalitySpec) -> np.ndarray:
    """Read a text from its cell, or from the `.txt` file that the cell names: uint16 [token].

    What is longer than the modality's tokens is cut between two characters; the end is always there.

    Raises:
        DataError: the file is no UTF-8, is blank, or is too large to be a record's text.
    """
    if not isinstance(spec, TextSpec):
        raise TypeError(f"a text was expected, got {spec.kind}")
    text = _of_file(cell) if cell.text.lower().endswith(SUFFIX) else cell.text
    room = spec.max_tokens - 2
    body = text.encode()[:room].decode(errors="ignore").encode()
    return np.array([BEGIN, *(FIRST_BYTE + byte for byte in body), END], dtype=np.uint16)


def text_of(tokens: np.ndarray) -> str:
    """The text that tokens [token] stand for, up to the first END; bytes that are no UTF-8 become a mark."""
    ends = np.flatnonzero(tokens == END)
    before = tokens[: ends[0]] if ends.size else tokens
    return bytes((before[before >= FIRST_BYTE] - FIRST_BYTE).tolist()).decode(errors="replace")


def _of_file(cell: Cell) -> str:
    with cell.path().open("rb") as file:
        body = file.read(_LARGEST_BYTES + 1)
    if len(body) > _LARGEST_BYTES:
        raise cell.wrong(f"a text of more than {_LARGEST_BYTES} bytes: keep what belongs to this row")
    try:
        text = body.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise cell.wrong(f"not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    if not text:
        raise cell.wrong("the text is blank: empty the cell where there is none")
    return text
