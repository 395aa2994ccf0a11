"""Read a ledger's tables and nothing else: no file is made, changed or migrated, whoever writes meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

Row = tuple[object, ...]
_QUERIES: Final = {
    "entries": "SELECT seq, kind, run, body, previous, digest, signature FROM entries ORDER BY seq",
    "cohorts": "SELECT root, salt, size FROM cohorts ORDER BY root",
    "members": "SELECT root, pseudonym FROM members ORDER BY root, pseudonym",
    "schema_version": "SELECT version FROM schema_version",
}
_GUARDED: Final = ("entries", "cohorts", "members")
_ATTEMPTS = 5
_WAIT_SECONDS = 30


class LedgerUnreadable(Exception):
    """Something that was to be read cannot be; the sentence names it and says what to do."""


@dataclass(frozen=True)
class Rows:
    """What the tables hold; None where there is no such table.

    Attributes:
        unguarded: tables that a trigger should keep append-only, and none does; empty where this cannot be asked.
    """

    entries: Sequence[Row]
    cohorts: Sequence[Row] | None
    members: Sequence[Row] | None
    version: Sequence[Row] | None
    unguarded: tuple[str, ...]


def read_ledger(location: str) -> Rows:
    """Read a SQLite file, or any database by its SQLAlchemy URL, as it stands at one moment.

    Raises:
        LedgerUnreadable: there is no such file or server, or it holds no ledger.
    """
    if "://" in location and not location.startswith("sqlite:///"):
        return _read_url(location)
    path = Path(location.removeprefix("sqlite:///"))
    if not path.is_file():
        raise LedgerUnreadable(f"{path} is no file: give the path of a ledger, such as state/ledger.sqlite")
    try:
        return _read_file(path.resolve())  # a link's own folder has no -wal
    except (sqlite3.Error, OSError) as error:
        raise LedgerUnreadable(
            f"{path} cannot be read as a ledger ({error}): give the SQLite file itself, or restore it from a backup"
        ) from error


def _read_file(path: Path) -> Rows:
    """Choose how to open the file so that none of SQLite's helper files is left behind for the institution to trip on.

    With -wal and -shm beside it, a writer is at work (or died): SQLite's own locks give one moment. With neither,
    nobody is: the file alone is the ledger, and it is asked afterwards whether that was still so. With -wal alone, or
    where this user may not lock, a copy is read. (A ledger is write-ahead logged; where some tool made it another kind
    of file, SQLite's locks keep a half-written one from being read.)
    """
    log, index, journal = (path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal"))
    for _ in range(_ATTEMPTS):
        if journal.exists():
            return _open(path, "mode=ro")
        rows = _with_log(path, log, has_index=index.exists()) if log.exists() else _alone(path, log)
        if rows is not None:
            return rows
    raise LedgerUnreadable(f"{path} changes faster than it can be read: try again when no run is at work")


def _alone(path: Path, log: Path) -> Rows | None:
    """Read a file that nobody has open; None where somebody had."""
    before = _state(path)
    try:
        rows = _open(path, "mode=ro&immutable=1")
    except sqlite3.DatabaseError:
        if _state(path) == before and not log.exists():
            raise
        return None
    return rows if _state(path) == before and not log.exists() else None


def _with_log(path: Path, log: Path, *, has_index: bool) -> Rows | None:
    """Read a file and its log, in place where SQLite can lock them there; None where they changed meanwhile."""
    if has_index:
        try:
            return _open(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                raise
    before = _state(path)
    with tempfile.TemporaryDirectory() as folder:
        try:
            copies = [Path(shutil.copyfile(source, Path(folder, source.name))) for source in (path, log)]
        except FileNotFoundError:
            return None
        return _open(copies[0], "mode=ro") if _state(path) == before else None


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _open(path: Path, how: str) -> Rows:
    address = f"file:{quote(str(path))}?{how}"
    with closing(sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
        # Text that is no UTF-8 must reach the checks, as something that cannot be what was signed.
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        connection.execute("BEGIN")
        schema = connection.execute("SELECT type, tbl_name, sql FROM sqlite_master").fetchall()
        tables = {str(name) for kind, name, _ in schema if kind == "table"}
        triggers = [(str(name), str(sql).upper()) for kind, name, sql in schema if kind == "trigger"]
        missing = tuple(
            f"{table} (against {verb})"
            for table in _GUARDED
            for verb in ("UPDATE", "DELETE")
            if table in tables and not any(name == table and _refuses(sql, verb) for name, sql in triggers)
        )
        return _tables(tables, lambda query: connection.execute(query).fetchall(), missing)


def _refuses(trigger: str, verb: str) -> bool:
    words = trigger.split()
    return "RAISE(ABORT" in trigger.replace(" ", "") and "WHEN" not in words and f"BEFORE {verb} ON" in " ".join(words)


def _read_url(url: str) -> Rows:
    from sqlalchemy import create_engine, inspect, text  # noqa: PLC0415  (a SQLite file is read without it)
    from sqlalchemy.engine import make_url  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    try:
        address = make_url(url)
    except SQLAlchemyError as error:
        raise LedgerUnreadable("the location is no database URL: write postgresql+psycopg://user@host/name") from error
    name = address.render_as_string(hide_password=True)
    engine = None
    try:
        engine = create_engine(address)
        if engine.dialect.name == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with engine.connect() as connection:
            tables = set(inspect(connection).get_table_names())
            return _tables(tables, lambda query: [tuple(row) for row in connection.execute(text(query))], ())
    except (SQLAlchemyError, ImportError) as error:
        reason = f"{name} cannot be read ({str(error).splitlines()[0]})"
        raise LedgerUnreadable(f"{reason}: check the address, the account and the driver") from error
    finally:
        if engine is not None:
            engine.dispose()


def _tables(tables: set[str], ask: Callable[[str], list[Row]], unguarded: tuple[str, ...]) -> Rows:
    if "entries" not in tables:
        raise LedgerUnreadable("this database has no table `entries`: it is no ledger; give the ledger's own file")

    def rows(table: str) -> list[Row] | None:
        return ask(_QUERIES[table]) if table in tables else None

    return Rows(rows("entries") or [], rows("cohorts"), rows("members"), rows("schema_version"), unguarded)
