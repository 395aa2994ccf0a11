"""The table of a site folder: CSV, JSON lines or Parquet, read as text cells with the line that each row stands on."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.data.error import wrong


@dataclass(frozen=True)
class Row:
    """One row: its line in the file (1-based, the header counts) and its cells by column."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """A site's table."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_manifest(folder: Path) -> Manifest:
    """Read the folder's one manifest.

    Raises:
        DataError: there is none or more than one, it leaves the folder, or it cannot be read.
    """
    found = [folder / name for name in READERS if (folder / name).exists() or (folder / name).is_symlink()]
    if not found:
        raise wrong(folder, f"no manifest: expected one of {', '.join(READERS)}")
    if len(found) > 1:
        raise wrong(folder, f"more than one manifest: {', '.join(path.name for path in found)}")
    path = inside(folder, found[0].name)
    columns, rows = READERS[path.name](path)
    for column in columns:
        if columns.count(column) > 1:
            raise wrong(path, "the column appears twice in the header", row=1, column=column)
    return Manifest(path, columns, rows)


def inside(folder: Path, relative: str) -> Path:
    """Give the path of a file that a folder names, if it truly lies in that folder.

    Raises:
        DataError: the path is absolute, climbs out with `..` or through a symbolic link, or is no file.
    """
    path = folder / relative
    if Path(relative).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise wrong(path, "the path leaves the site folder")
    if not path.is_file():
        raise wrong(path, "no such file")
    return path


def _read_csv(path: Path) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = tuple(cell.strip() for cell in next(reader, ()))
            if not columns:
                raise wrong(path, "the file is empty: a header was expected", row=1)
            if len(columns) == 1 and (other := next((mark for mark in ";\t|" if mark in columns[0]), None)):
                raise wrong(path, f"its cells are divided by {other!r}: save it with commas", row=1)
            line = reader.line_num + 1
            for cells in reader:  # a quoted cell may span lines: a row is named by its first
                if cells and len(cells) != len(columns):
                    raise wrong(path, f"{len(cells)} cells under a header of {len(columns)}", row=line)
                if cells:
                    rows.append(Row(line, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise wrong(path, f"not a readable CSV file ({error}): save it as UTF-8") from error
    except (csv.Error, OSError) as error:
        raise wrong(path, f"not a readable CSV file ({error})") from error
    return columns, tuple(rows)


def _read_jsonl(path: Path) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise wrong(path, f"not a readable text file ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise wrong(path, f"not JSON ({error})", row=number) from error
        if not isinstance(entry, dict):
            raise wrong(path, "a JSON object was expected", row=number)
        columns.update(dict.fromkeys(entry))
        rows.append(Row(number, {column: _text(path, number, column, cell) for column, cell in entry.items()}))
    names = tuple(columns)
    return names, tuple(Row(row.line, {column: row.cells.get(column, "") for column in names}) for row in rows)


def _read_parquet(path: Path) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    try:
        from pyarrow import ArrowException  # noqa: PLC0415  (an optional package, and slow to import)
        from pyarrow.parquet import read_table  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise wrong(path, "reading Parquet needs the package pyarrow; CSV and JSON lines need nothing") from error
    try:
        table = read_table(path)
    except (ArrowException, OSError) as error:
        raise wrong(path, f"not a readable Parquet file ({error})") from error
    columns = tuple(str(column) for column in table.column_names)
    return columns, tuple(
        Row(number, {column: _text(path, number, column, cell) for column, cell in entry.items()})
        for number, entry in enumerate(table.to_pylist(), start=1)
    )


def _text(path: Path, row: int, column: str, cell: object) -> str:
    """Write a typed cell as a CSV would hold it; null and NaN are an empty cell, 1.0 is 1, true is 1."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, str | int | float):
        return str(cell).strip()
    raise wrong(path, f"a text, number or nothing was expected, got {type(cell).__name__}", row=row, column=column)


READERS: dict[str, Callable[[Path], tuple[tuple[str, ...], tuple[Row, ...]]]] = {
    "manifest.csv": _read_csv,
    "manifest.jsonl": _read_jsonl,
    "manifest.parquet": _read_parquet,
}
