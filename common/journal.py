"""The run's journal: one row per event, with released values and public facts only."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

_TABLES = """
CREATE TABLE IF NOT EXISTS events (
    kind TEXT NOT NULL, round INTEGER NOT NULL, time REAL NOT NULL, facts TEXT NOT NULL, PRIMARY KEY (kind, round)
);
CREATE TABLE IF NOT EXISTS models (round INTEGER PRIMARY KEY, weights BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Event:
    """One thing that happened: its kind (`enrolled`, `round`, `released`, `ended`), its round and its facts."""

    kind: str
    round: int
    time: float
    facts: dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """A journal file; each write is one transaction, and a repeated round replaces its row."""

    path: Path

    def record(self, kind: str, number: int, facts: Mapping[str, object]) -> None:
        """Write an event."""
        with self._open() as database:
            row = (kind, number, time.time(), json.dumps(dict(facts)))
            database.execute("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?)", row)

    def keep_model(self, number: int, weights: Mapping[str, np.ndarray]) -> None:
        """Keep a released model, by block."""
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (number, save(dict(weights))))

    def events(self, kind: str | None = None) -> tuple[Event, ...]:
        """Read the events, oldest round first."""
        if not self.path.exists():
            return ()
        with self._open() as database:
            rows = database.execute("SELECT * FROM events ORDER BY round, time").fetchall()
        return tuple(Event(row[0], row[1], row[2], json.loads(row[3])) for row in rows if kind in (None, row[0]))

    def models(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Read the released models that were kept, oldest first."""
        with self._open() as database:
            rows = database.execute("SELECT round, weights FROM models ORDER BY round").fetchall()
        yield from ((number, load(body)) for number, body in rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            with database:
                database.executescript(_TABLES)
                yield database
