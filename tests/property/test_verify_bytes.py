"""Any single byte of any field of any row, changed to any other: it is found."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verify_ledgers import example, judged, old_example, real_ledger

FIELDS = {
    "entries": ("seq", "kind", "run", "body", "previous", "digest", "signature"),
    "cohorts": ("root", "salt", "size"),
    "members": ("root", "pseudonym"),
    "schema_version": ("version",),
}
KINDS = ("the institution's own", "version 2", "version 3")


@contextmanager
def own_copy(kind: str) -> Iterator[Path]:
    """A ledger in a folder of its own, to be changed."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "the institution's own":
            yield real_ledger(Path(folder)).path
        else:
            yield {"version 2": old_example, "version 3": example}[kind]().write(Path(folder) / "ledger.sqlite")


def change(path: Path, data: st.DataObject) -> tuple[str, str, object, object]:
    """Change one byte of one field, as it would stand in a text; whole numbers too."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        filled = [
            name
            for name in sorted(names & FIELDS.keys())
            if connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608
        ]
        table = data.draw(st.sampled_from(filled), "table")
        column = data.draw(st.sampled_from(FIELDS[table]), "column")
        rows = connection.execute(f"SELECT rowid, CAST({column} AS BLOB) FROM {table}").fetchall()  # noqa: S608
        row, raw = data.draw(st.sampled_from([(row, raw) for row, raw in rows if raw]), "row")
        place, byte = data.draw(st.integers(0, len(raw) - 1), "place"), data.draw(st.integers(0, 255), "byte")
        changed = raw[:place] + bytes([byte if byte != raw[place] else byte ^ 1]) + raw[place + 1 :]
        free = f"CREATE TABLE free AS SELECT rowid AS place, * FROM {table}"  # noqa: S608
        for statement in (free, f"DROP TABLE {table}", f"ALTER TABLE free RENAME TO {table}"):
            connection.execute(statement)
        value: object = int(changed) if column in {"seq", "size", "version"} and changed.isdigit() else changed
        place_of = "?" if isinstance(value, int) else "CAST(? AS TEXT)"
        connection.execute(f"UPDATE {table} SET {column} = {place_of} WHERE place = ?", (value, row))  # noqa: S608
    return table, column, raw, value


@pytest.mark.parametrize("kind", KINDS)
def test_an_unchanged_ledger_has_no_problem(kind: str) -> None:
    with own_copy(kind) as path:
        assert judged(path).problems == ()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(data=st.data())
def test_any_changed_byte_is_found(kind: str, data: st.DataObject) -> None:
    with own_copy(kind) as path:
        table, column, raw, value = change(path, data)
        problems = [problem for problem in judged(path).problems if "append-only" not in problem.text]
        assert problems, f"{table}.{column}: {raw!r} became {value!r}, and nothing was found"
