"""The ledger's database: SQLite in a file of the site, or PostgreSQL; one writer at a time, durable at every commit.

Every transaction takes the writers' lock when it begins, so that what is read in it is still true when it writes: two
processes cannot both spend the last of a budget. A process that dies before its commit leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

from sqlalchemy import Connection, Engine, create_engine, event, func, insert, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from client.cohorts import Cohort
from client.ledger_schema import (
    APPEND_ONLY,
    NO_DIGEST,
    VERSION,
    Entry,
    LedgerBroken,
    cohorts_table,
    digest_of,
    entries_table,
    members_table,
    metadata,
    version_table,
)
from common.receipts import canonical

_LOCK_SECONDS = 60
_WRITERS_LOCK = 0x6665_646D_6F73_6169  # one number for all writers of a PostgreSQL ledger: "fedmosai"
_BEGIN = {
    "sqlite": ("BEGIN IMMEDIATE",),
    "postgresql": (
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",  # a snapshot from before the lock would be an older ledger
        "SET LOCAL synchronous_commit = on",
        f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'",
        f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})",
    ),
}
_GUARD = {
    "sqlite": tuple(
        f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb.lower()} BEFORE {verb} ON {table}"
        " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        for table in APPEND_ONLY
        for verb in ("UPDATE", "DELETE")
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION ledger_append_only() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
        *(
            f"CREATE OR REPLACE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only()"
            for table in APPEND_ONLY
        ),
    ),
}


@dataclass(frozen=True)
class Pen:
    """A transaction that may read and append."""

    connection: Connection
    signer: Callable[[bytes], bytes]

    def entries(self, *, start: int = 0) -> tuple[Entry, ...]:
        """Read the entries from number `start` on, oldest first."""
        wanted = select(entries_table).where(entries_table.c.seq >= start).order_by(entries_table.c.seq)
        return tuple(Entry(*row) for row in self.connection.execute(wanted))

    def digest_at(self, seq: int) -> str | None:
        """Read the digest of one entry; None where there is no such entry."""
        wanted = select(entries_table.c.digest).where(entries_table.c.seq == seq)
        return self.connection.execute(wanted).scalar_one_or_none()

    def members(self, root: str) -> frozenset[bytes]:
        """Read the pseudonyms of one cohort.

        Raises:
            LedgerBroken: they are not those that the root commits to.
        """
        wanted = select(members_table.c.pseudonym).where(members_table.c.root == root)
        names = tuple(sorted(bytes.fromhex(name) for name in self.connection.execute(wanted).scalars()))
        salt = self.connection.execute(select(cohorts_table.c.salt).where(cohorts_table.c.root == root)).scalar()
        if salt is None or Cohort(names, bytes.fromhex(salt)).root != root:
            raise LedgerBroken(f"the members of cohort {root[:16]} are not those that were written down: restore them")
        return frozenset(names)

    def append(self, kind: str, run: str, facts: Mapping[str, object], *, after: tuple[Entry, ...]) -> Entry:
        """Write one entry behind the newest of `after`, which must be what this transaction has read."""
        seq, previous = len(after), after[-1].digest if after else NO_DIGEST
        body = canonical(facts)
        digest = digest_of(seq, kind, run, body, previous)
        entry = Entry(seq, kind, run, body, previous, digest, self.signer(digest.encode()).hex())
        self.connection.execute(insert(entries_table).values(**vars(entry)))
        return entry

    def keep(self, cohort: Cohort) -> str:
        """Write a cohort down, and give its root."""
        root, names = cohort.root, [member.hex() for member in cohort.members]
        self.connection.execute(insert(cohorts_table).values(root=root, salt=cohort.salt.hex(), size=len(names)))
        if names:
            self.connection.execute(insert(members_table), [{"root": root, "pseudonym": name} for name in names])
        return root

    def version(self) -> int:
        """Tell which version the tables have: 0 for none, 2 for those that do not say."""
        found = inspect(self.connection)
        if not found.has_table(entries_table.name):
            return 0
        if not found.has_table(version_table.name):
            return 2
        return int(self.connection.execute(select(func.max(version_table.c.version))).scalar_one())

    def make_tables(self) -> None:
        """Make the tables that are missing, and guard them; part of this transaction like everything else."""
        metadata.create_all(self.connection)
        for statement in _GUARD[self.connection.dialect.name]:
            self.connection.exec_driver_sql(statement)
        self.connection.execute(insert(version_table).values(version=VERSION))


@dataclass(frozen=True)
class Store:
    """An open ledger database; `name` is what messages call it, `path` its file where it has one."""

    engine: Engine
    signer: Callable[[bytes], bytes]
    name: str
    path: Path | None

    @contextmanager
    def writing(self) -> Iterator[Pen]:
        """Hold the ledger alone; all that was appended is durable when this ends, and nothing of it when it raises.

        Raises:
            LedgerBroken: the database cannot be read or written; nothing was charged.
        """
        try:
            with self.engine.begin() as connection:
                for statement in _BEGIN[self.engine.dialect.name]:
                    connection.exec_driver_sql(statement)
                yield Pen(connection, self.signer)
        except DBAPIError as error:
            raise LedgerBroken(f"{self.name} cannot be used: {_words(error)}; nothing was charged") from error

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()


def open_store(location: Path | str, signer: Callable[[bytes], bytes]) -> Store:
    """Open the database; a file is made where there is none, readable by its owner only.

    Raises:
        ValueError: the location is neither a path nor the URL of a SQLite file or a PostgreSQL database.
        LedgerBroken: the file cannot be opened or made, or is no ledger; or the server does not write durably.
    """
    if isinstance(location, str) and "://" in location and not location.startswith("sqlite:"):
        return _open_postgresql(location, signer)
    path = _path_of(location)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise LedgerBroken(f"{path.name} cannot be used: {error.strerror}; nothing was charged") from error
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _LOCK_SECONDS, "isolation_level": None})
    event.listen(engine, "connect", _on_connect)
    return _usable(Store(engine, signer, path.name, path), "SELECT count(*) FROM sqlite_master")


def _open_postgresql(location: str, signer: Callable[[bytes], bytes]) -> Store:
    try:
        url = make_url(location)
    except ArgumentError as error:
        raise ValueError("a ledger is a SQLite file or a PostgreSQL database; this is the URL of neither") from error
    name = url.render_as_string(hide_password=True)
    if url.get_backend_name() != "postgresql" or not url.database:
        raise ValueError(f"a ledger is a SQLite file or a PostgreSQL database, got the location {name}")
    store = Store(create_engine(url.set(drivername="postgresql+psycopg")), signer, name, None)
    return _usable(store, "SHOW fsync", needed="on")


def _usable(store: Store, question: str, *, needed: str = "") -> Store:
    """Ask the database something, so that what is no database is found out here."""
    try:
        with store.engine.connect() as connection:
            said = connection.exec_driver_sql(question).scalar_one()
    except DBAPIError as error:
        store.close()
        raise LedgerBroken(
            f"{store.name} is no ledger or cannot be used: {_words(error)}; nothing was charged"
        ) from error
    if needed and said != needed:
        store.close()
        raise LedgerBroken(f"{store.name} says {question} is {said}: a charge would not survive a power cut")
    return store


def _words(error: DBAPIError) -> str:
    """What the database itself said, on one line."""
    return " ".join(str(error.orig).split())


def _path_of(location: Path | str) -> Path:
    if isinstance(location, Path) or "://" not in location:
        return Path(location).resolve()
    url = make_url(location)
    if not url.database or url.database == ":memory:":
        raise ValueError(f"a ledger is a SQLite file, got the location {url.render_as_string(hide_password=True)}")
    return Path(url.database).resolve()


def _on_connect(connection: SqliteConnection, _record: object) -> None:
    # Order matters: the timeout first, since changing the journal mode waits for other processes too.
    for pragma in (f"busy_timeout = {_LOCK_SECONDS * 1000}", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}").close()
