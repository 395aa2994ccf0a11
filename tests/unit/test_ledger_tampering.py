"""Somebody with access to the ledger's file but not to the institution's key: every change is noticed, by entry."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from client.ledger_schema import LedgerBroken
from tests.ledger_bench import LedgerBench, charges_of


@pytest.fixture
def bench(tmp_path: Path) -> LedgerBench:
    return LedgerBench(tmp_path)


def test_rows_cannot_be_changed_or_deleted_through_the_database(bench: LedgerBench) -> None:
    bench.open().close()
    with sqlite3.connect(bench.path) as connection:
        for statement in ("UPDATE entries SET run = 'x'", "DELETE FROM entries"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    connection.close()


TAMPERINGS: dict[str, tuple[str, str]] = {
    "a changed charge": ("UPDATE entries SET body = replace(body, '9.0', '9.5') WHERE seq = 1", "entry 1 was changed"),
    "a renamed run": ("UPDATE entries SET run = 'run-9' WHERE seq = 2", "entry 2 was changed"),
    "another kind": ("UPDATE entries SET kind = 'settle' WHERE seq = 3", "entry 3 was changed"),
    "a dropped row": ("DELETE FROM entries WHERE seq = 2", "entry 2 is missing"),
    "a dropped header": ("DELETE FROM entries WHERE seq = 0", "entry 0 is missing"),
    "a dropped and renumbered row": (
        "DELETE FROM entries WHERE seq = 2; UPDATE entries SET seq = 2 WHERE seq = 3",
        "entry 2 does not follow",
    ),
    "two rows swapped": (
        "UPDATE entries SET seq = 9 WHERE seq = 2; UPDATE entries SET seq = 2 WHERE seq = 3;"
        "UPDATE entries SET seq = 3 WHERE seq = 9",
        "entry 2 does not follow",
    ),
    "a changed digest": ("UPDATE entries SET digest = upper(digest) WHERE seq = 3", "entry 3 was changed"),
    "a foreign signature": (
        "UPDATE entries SET signature = (SELECT signature FROM entries WHERE seq = 1) WHERE seq = 3",
        "entry 3 is not signed",
    ),
    "a signature that is none": ("UPDATE entries SET signature = 'zz' WHERE seq = 3", "entry 3 is not signed"),
}


def tamper(bench: LedgerBench, statements: str) -> None:
    with bench.open() as ledger:
        ledger.reserve("run-1", "hash", charges_of())
        ledger.release("run-1", 1, "task", "training", 1)
        ledger.release("run-1", 2, "task", "training", 1)
    connection = sqlite3.connect(bench.path)
    connection.executescript(f"DROP TRIGGER entries_no_update; DROP TRIGGER entries_no_delete; {statements}")
    connection.close()


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_noticed_when_the_ledger_is_opened_and_the_entry_is_named(bench: LedgerBench, name: str) -> None:
    statements, complaint = TAMPERINGS[name]
    tamper(bench, statements)
    with pytest.raises(LedgerBroken, match=complaint) as refusal:
        bench.open()
    assert refusal.value.code == "ledger"


def test_the_untampered_ledger_of_that_test_opens(bench: LedgerBench) -> None:
    tamper(bench, "")
    with bench.open() as ledger:
        ledger.verify()


def test_verify_checks_every_signature(bench: LedgerBench) -> None:
    tamper(bench, "UPDATE entries SET signature = (SELECT signature FROM entries WHERE seq = 0) WHERE seq = 1")
    with bench.open() as ledger, pytest.raises(LedgerBroken, match="entry 1 is not signed"):
        ledger.verify()
