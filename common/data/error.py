"""What is wrong with a site's files, in one sentence that its engineer can act on."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """A site folder that cannot be used; the sentence names file, row and column."""


def wrong(path: Path, problem: str, *, row: int | None = None, column: str | None = None) -> DataError:
    """Build the error: `manifest.csv, row 3, column age: not a number`; row 1 is the first line of the file."""
    place = (
        str(path) + (f", row {row}" if row is not None else "") + (f", column {column}" if column is not None else "")
    )
    return DataError(f"{place}: {problem}")
