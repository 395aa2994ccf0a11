"""Whoever changes a ledger behind its institution's back: `verify` finds it and names the entry."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.verify_ledgers import complaints, edited, example, judged, old_example, real_ledger, without_keys

Maker = Callable[[Path], Path]


def todays(folder: Path) -> Path:
    return real_ledger(folder).path


def version_2(folder: Path) -> Path:
    return old_example().write(folder / "ledger.sqlite")


def version_3(folder: Path) -> Path:
    return example().write(folder / "ledger.sqlite")


MAKERS: dict[str, Maker] = {"the institution's own": todays, "version 2": version_2, "version 3": version_3}
COLUMNS = ("kind", "run", "body", "previous", "digest", "signature")
LAST = {"the institution's own": 6, "version 2": 6, "version 3": 7}


@pytest.fixture(params=MAKERS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ledger(version: str, tmp_path: Path) -> Path:
    return MAKERS[version](tmp_path)


def flipped(path: Path, seq: int, column: str, bit: int) -> Path:
    """Flip one bit in the middle of a text, whatever bytes come out."""
    with closing(sqlite3.connect(path)) as connection:
        query = f"SELECT CAST({column} AS BLOB) FROM entries WHERE seq = {seq}"  # noqa: S608
        text = bytearray(connection.execute(query).fetchone()[0])
    text[len(text) // 2] ^= 1 << bit
    change = f"UPDATE entries SET {column} = CAST(x'{text.hex()}' AS TEXT) WHERE seq = {seq}"  # noqa: S608
    return edited(path, change)


def test_an_untouched_ledger_passes(ledger: Path) -> None:
    verdict = judged(ledger)
    assert verdict.problems == ()
    assert verdict.totals is not None


@pytest.mark.parametrize("bit", [0, 5, 7])
@pytest.mark.parametrize(
    ("seq", "column"), [(seq, name) for seq in (0, 1, 2, 5, 6) for name in COLUMNS if (seq, name) != (0, "run")]
)
def test_a_flipped_bit_is_found_and_its_entry_named(ledger: Path, seq: int, column: str, bit: int) -> None:
    found = complaints(judged(flipped(ledger, seq, column, bit)))
    assert seq in found
    assert min(number for number in found if number >= 0) == seq
    if column in {"digest", "signature", "previous"}:
        assert set(found) == {seq}


TAMPERINGS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a dropped row": (("DELETE FROM entries WHERE seq = 3",), 3, "entry 3 is missing"),
    "dropped rows": (("DELETE FROM entries WHERE seq IN (2, 3)",), 2, "entries 2 to 3 are missing"),
    "a dropped header": (("DELETE FROM entries WHERE seq = 0",), 0, "entry 0 is missing"),
    "a dropped and renumbered row": (
        ("DELETE FROM entries WHERE seq = 2", "UPDATE entries SET seq = seq - 1 WHERE seq > 2"),
        2,
        "it does not follow entry 1",
    ),
    "two rows swapped": (
        (
            "UPDATE entries SET seq = 99 WHERE seq = 2",
            "UPDATE entries SET seq = 2 WHERE seq = 3",
            "UPDATE entries SET seq = 3 WHERE seq = 99",
        ),
        2,
        "it does not follow entry 1",
    ),
    "a row copied to the end": (
        (
            "INSERT INTO entries SELECT (SELECT max(seq) + 1 FROM entries), kind, run, body, previous,"
            " substr(digest, 2) || '0', signature FROM entries WHERE seq = 2",
        ),
        -2,
        "it was changed",
    ),
    "a number below 0": (("UPDATE entries SET seq = -4 WHERE seq = 0",), -4, "entries are numbered from 0"),
    "everything gone": (("DELETE FROM entries",), 0, "the ledger is empty"),
    "another signature": (
        ("UPDATE entries SET signature = (SELECT signature FROM entries WHERE seq = 1) WHERE seq = 3",),
        3,
        "it is not signed",
    ),
    "a signature in capitals": (("UPDATE entries SET signature = upper(signature) WHERE seq = 3",), 3, "not signed"),
    "a blob for a text": (("UPDATE entries SET run = CAST(run AS BLOB) WHERE seq = 2",), 2, "it has no text in run"),
    "less noise": (
        ("UPDATE entries SET body = replace(body, '\"count\":1', '\"count\":0') WHERE seq = 2",),
        2,
        "it was changed: its content is not what was hashed",
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found_and_the_entry_is_named(ledger: Path, version: str, name: str) -> None:
    statements, seq, complaint = TAMPERINGS[name]
    found = complaints(judged(edited(ledger, *statements)))
    expected = LAST[version] + 1 if seq == -2 else seq
    assert any(complaint in text for text in found[expected]), found


def test_a_row_that_stands_twice_is_found(ledger: Path) -> None:
    edited(without_keys(ledger, "entries"), "INSERT INTO entries SELECT * FROM entries WHERE seq = 3")
    assert "it stands here 2 times" in complaints(judged(ledger))[3]


def test_an_inserted_entry_is_found_though_all_behind_it_are_chained_anew(tmp_path: Path) -> None:
    scribe = example()
    genuine = scribe.rows[:]
    scribe.rows = genuine[:3]
    scribe.seed = b"m" * 32
    scribe.release("run-1", 7)
    for _, kind, run, body, *_ in genuine[3:]:
        scribe.append_body(kind, run, body)
    found = complaints(judged(scribe.write(tmp_path / "ledger.sqlite")))
    assert set(found) == set(range(3, len(scribe.rows)))
    assert found[3] == ["it is not signed by the key that the header names"]


def test_changed_triggers_are_found_with_what_was_edited_under_them(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER entries_no_update")
        connection.execute("CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries BEGIN SELECT 1; END")
        connection.execute("UPDATE entries SET body = replace(body, '1', '2') WHERE seq = 2")
    found = complaints(judged(ledger))
    assert "it was changed: its content is not what was hashed" in found[2]
    assert found[-1] == ["no trigger keeps the table entries (against UPDATE) append-only"]


def test_a_trigger_that_never_fires_guards_nothing(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER entries_no_delete")
        connection.execute(
            "CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries WHEN 0 BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    assert complaints(judged(ledger)) == {-1: ["no trigger keeps the table entries (against DELETE) append-only"]}


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE cohorts SET salt = 'ff' || substr(salt, 3) WHERE {it}", "salt and members do not give its root"),
        ("UPDATE cohorts SET salt = upper(salt) WHERE {it}", "root or salt are not 32 bytes in hex"),
        ("UPDATE cohorts SET size = size + 1 WHERE {it}", "its size is 5, and it has 4 members"),
        ("UPDATE cohorts SET size = 'four' WHERE {it}", "its size is four"),
        ("UPDATE cohorts SET root = 'ff' || substr(root, 3) WHERE {it}", "is not in the table of cohorts"),
        ("DELETE FROM cohorts WHERE {it}", "4 members of cohort"),
        ("DELETE FROM members WHERE rowid = (SELECT min(rowid) FROM members WHERE {it})", "its size is 4"),
        ("INSERT INTO members SELECT root, substr(pseudonym, 3) || 'ff' FROM members WHERE {it} LIMIT 1", "its size"),
        (
            "UPDATE members SET pseudonym = substr(pseudonym, 3) || 'ff'"
            " WHERE rowid = (SELECT min(rowid) FROM members WHERE {it})",
            "salt and members do not give its root",
        ),
        ("UPDATE members SET pseudonym = upper(pseudonym) WHERE {it}", "pseudonyms are not 32 bytes in hex"),
        ("UPDATE members SET root = 'ff' || substr(root, 3) WHERE {it}", "its size is 4, and it has 0 members"),
    ],
)
def test_a_changed_cohort_is_found_and_the_entry_that_reserves_for_it_is_named(
    tmp_path: Path, statement: str, complaint: str
) -> None:
    scribe = example()
    root = scribe.cohorts[2][0]  # who trains in run-2, which entry 5 reserves
    path = edited(scribe.write(tmp_path / "ledger.sqlite"), statement.format(it=f"root = '{root}'"))
    assert any(complaint in text for text in complaints(judged(path))[5])


def test_a_member_that_stands_twice_is_found(tmp_path: Path) -> None:
    path = without_keys(version_3(tmp_path), "members")
    edited(path, "INSERT INTO members SELECT * FROM members LIMIT 1")
    assert any("a pseudonym stands in it more than once" in problem.text for problem in judged(path).problems)


def test_a_cohort_that_nobody_can_be_trusted_to_be_in_is_paid_by_everyone(tmp_path: Path) -> None:
    scribe = example()
    path = scribe.write(tmp_path / "ledger.sqlite")
    before = judged(path).totals
    after = judged(edited(path, f"DELETE FROM members WHERE root = '{scribe.cohorts[2][0]}'")).totals  # noqa: S608
    assert before is not None
    assert after is not None
    assert before.everyone == 0
    assert after.everyone == pytest.approx(before.runs[1].counted()[before.at])
    assert after.needed == before.needed


def test_tables_of_another_version_than_the_entries_say_are_found(tmp_path: Path) -> None:
    path = edited(version_3(tmp_path), "UPDATE schema_version SET version = 2")
    assert complaints(judged(path)) == {-1: ["schema_version says 2; the entries come to version 3"]}
    edited(path, "UPDATE schema_version SET version = 3", "INSERT INTO schema_version VALUES (3)")
    assert complaints(judged(path)) == {-1: ["schema_version says 3, 3; the entries come to version 3"]}
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE schema_version; DROP TABLE members")
    assert "schema_version says nothing; the entries come to version 3" in complaints(judged(path))[-1]
    assert "the tables cohorts and members are missing" in complaints(judged(path))[-1]


def test_all_problems_are_named_not_only_the_first(ledger: Path) -> None:
    for seq, column in ((1, "signature"), (2, "digest"), (4, "previous"), (5, "signature")):
        flipped(ledger, seq, column, 0)
    assert set(complaints(judged(ledger))) == {1, 2, 4, 5}


def test_a_copy_elsewhere_passes_too(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "a folder?#%").mkdir()
    assert judged(Path(shutil.copy(ledger, tmp_path / "a folder?#%" / "copy"))).problems == ()
