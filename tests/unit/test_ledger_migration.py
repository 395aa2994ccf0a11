"""A ledger of version 2 goes on as one of version 3: nothing forgotten, nothing rewritten, all or nothing."""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from client.cohorts import Pseudonyms
from client.ledger import Ledger
from client.ledger_schema import LedgerBroken
from client.ledger_subjects import Terms
from common.secagg.identity import Identity
from tests.killed import dies_at
from tests.ledger_bench import charges_of

IDENTITY = Identity(bytes([7]) * 32)  # the golden ledger's own; it signs nothing else
OLD = Path(__file__).parent.parent / "golden" / "ledger" / "version-2.sql"
SPENT = 2.3865716423327474  # what the code of version 2 said of it
KEY = Pseudonyms(b"k" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(found)
    connection.executescript(OLD.read_text())
    connection.close()
    return found


def opened(path: Path) -> Ledger:
    return Ledger.open(
        path,
        site="cleveland",
        signer=IDENTITY.sign,
        public_key=IDENTITY.public_key,
        delta=1e-3,
        lifetime_epsilon=20.0,
    )


def rows(path: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT * FROM entries ORDER BY seq").fetchall()
    connection.close()
    return found


def test_an_old_ledger_goes_on_where_it_was(path: Path) -> None:
    before = rows(path)
    with opened(path) as ledger:
        ledger.verify()
        summary = ledger.spent()
        assert summary.spent == pytest.approx(SPENT, rel=1e-12)
        assert ledger.spent_by(KEY.of(("anybody",))[0]).spent == pytest.approx(SPENT, rel=1e-12)  # everybody pays
        assert ledger.release("old-open", 2, "task", "training", 5)
        ledger.reserve(
            "new", "hash", charges_of(), Terms({"train": KEY.cohort("a"), "test": KEY.cohort("b")}, KEY.check)
        )
        member, stranger = (ledger.spent_by(KEY.of((name,))[0]).spent for name in "ax")
        ledger.verify()
    assert stranger == pytest.approx(SPENT, rel=1e-12)
    assert stranger < member
    after = rows(path)
    assert after[: len(before)] == before
    kinds = [str(row[1]) for row in after[len(before) :]]
    assert kinds == ["migrate", "release", "reserve"]
    facts = json.loads(str(after[len(before)][3]))
    assert (facts["from"], facts["to"]) == (2, 3)


def test_it_is_migrated_once(path: Path) -> None:
    for _ in range(3):
        opened(path).close()
    assert [row[1] for row in rows(path)].count("migrate") == 1


def test_a_tampered_old_ledger_is_not_migrated(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TRIGGER entries_no_update; UPDATE entries SET body = replace(body, '9.0', '99.0') WHERE seq = 1"
    )
    connection.close()
    with pytest.raises(LedgerBroken, match="entry 1 was changed"):
        opened(path)
    assert "migrate" not in {row[1] for row in rows(path)}


def test_a_ledger_of_a_newer_release_is_refused_by_its_number(path: Path) -> None:
    opened(path).close()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO schema_version VALUES (4)")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerBroken, match="version 4, this release writes 3"):
        opened(path)


def migrate(path: Path) -> None:
    opened(path).close()


def test_a_migration_that_is_killed_leaves_the_old_ledger(path: Path) -> None:
    before = rows(path)
    for number in range(100):
        if not dies_at(partial(migrate, path), number):
            break
        assert rows(path) == before
    assert number > 5
    assert [row[1] for row in rows(path)][-1] == "migrate"
