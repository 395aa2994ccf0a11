"""The ledger's file: SQLite, write-ahead logged, synced to disk on every commit, one writer at a time.

Every transaction is opened with BEGIN IMMEDIATE, so that what is read in it is still true when it writes: two processes
cannot both spend the last of a budget. A process that dies before its commit leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from client.ledger_schema import (
    APPEND_ONLY,
    NO_DIGEST,
    Entry,
    LedgerBroken,
    canonical,
    digest_of,
    entries_table,
    metadata,
)

_LOCK_SECONDS = 60


@dataclass(frozen=True)
class Pen:
    """A transaction that may read and append."""

    connection: Connection
    signer: Callable[[bytes], bytes]

    def entries(self) -> tuple[Entry, ...]:
        """Read all entries, oldest first."""
        rows = self.connection.execute(select(entries_table).order_by(entries_table.c.seq))
        return tuple(Entry(*row) for row in rows)

    def append(self, kind: str, run: str, facts: Mapping[str, object], *, after: tuple[Entry, ...]) -> None:
        """Write one entry behind the newest of `after`, which must be what this transaction has read."""
        seq, previous = len(after), after[-1].digest if after else NO_DIGEST
        body = canonical(facts)
        digest = digest_of(seq, kind, run, body, previous)
        entry = Entry(seq, kind, run, body, previous, digest, self.signer(digest.encode()).hex())
        self.connection.execute(insert(entries_table).values(**vars(entry)))


@dataclass(frozen=True)
class Store:
    """An open ledger file."""

    engine: Engine
    signer: Callable[[bytes], bytes]

    @contextmanager
    def writing(self) -> Iterator[Pen]:
        """Hold the file alone; all that was appended is durable when this ends, and nothing of it when it raises."""
        with self.engine.begin() as connection:
            yield Pen(connection, self.signer)

    def close(self) -> None:
        """Let go of the file."""
        self.engine.dispose()


def open_store(location: Path | str, signer: Callable[[bytes], bytes]) -> Store:
    """Open the file, or make it, readable by its owner only.

    Raises:
        ValueError: the location is the URL of another database than SQLite; other ones are not proved yet.
        LedgerBroken: the file is no ledger.
    """
    path = _path_of(location)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _LOCK_SECONDS, "isolation_level": None})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            if not inspect(connection).has_table(entries_table.name):
                metadata.create_all(connection)
                for trigger in APPEND_ONLY:
                    connection.exec_driver_sql(trigger)
    except DatabaseError as error:
        engine.dispose()
        raise LedgerBroken(f"{path.name} is no ledger: {error.orig}") from error
    return Store(engine, signer)


def _path_of(location: Path | str) -> Path:
    if isinstance(location, Path) or "://" not in location:
        return Path(location).resolve()
    url = make_url(location)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise ValueError(f"a ledger is a SQLite file, got the location {url.render_as_string(hide_password=True)}")
    return Path(url.database).resolve()


def _on_connect(connection: SqliteConnection, _record: object) -> None:
    # Order matters: the timeout first, since changing the journal mode waits for other processes too.
    for pragma in (f"busy_timeout = {_LOCK_SECONDS * 1000}", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}").close()
