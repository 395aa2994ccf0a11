"""Reading changes nothing: no file is made or touched, whoever owns or writes the ledger meanwhile."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from common.verify import read
from common.verify.read import LedgerUnreadable, read_ledger
from tests.verify_ledgers import example, judged, real_ledger

READ_BY_NOBODY = """
import os, sys
from common.verify.read import read_ledger
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(len(read_ledger(sys.argv[1]).entries))
"""


BUSY = """
import sys
from pathlib import Path
from tests.ledger_bench import LedgerBench, charges_of
bench = LedgerBench(Path(sys.argv[1]))
for number in range(25):
    with bench.open() as ledger:
        ledger.reserve(f"busy-{number}", "ab" * 32, charges_of(2000.0))
        ledger.release(f"busy-{number}", 1, "task", "training", 1)
"""


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_reading_a_closed_ledger_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    real_ledger(tmp_path)
    before = state(tmp_path)
    assert len(read_ledger(str(tmp_path / "ledger.sqlite")).entries) == 7
    assert state(tmp_path) == before


def test_a_ledger_is_read_while_its_writer_has_it_open(tmp_path: Path) -> None:
    bench = real_ledger(tmp_path)
    with bench.open() as ledger:
        ledger.release("run-2", 1, "task", "training", 1)
        assert (tmp_path / "ledger.sqlite-wal").stat().st_size > 0
        names = sorted(path.name for path in tmp_path.iterdir())
        assert len(read_ledger(str(bench.path)).entries) == 8
        assert sorted(path.name for path in tmp_path.iterdir()) == names
        ledger.release("run-2", 2, "task", "training", 1)
        assert len(read_ledger(f"sqlite:///{bench.path}").entries) == 9
    assert judged(bench.path).problems == ()


def test_a_link_to_a_ledger_is_followed_to_its_log(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    bench = real_ledger(tmp_path / "site")
    (tmp_path / "link.sqlite").symlink_to(bench.path)
    with bench.open() as ledger:
        ledger.release("run-2", 1, "task", "training", 1)
        assert len(read_ledger(str(tmp_path / "link.sqlite")).entries) == 8


def test_a_ledger_is_read_while_somebody_holds_it_locked(tmp_path: Path) -> None:
    bench = real_ledger(tmp_path)
    with bench.open() as ledger, ledger.store.writing():
        assert len(read_ledger(str(bench.path)).entries) == 7


def test_every_moment_of_a_busy_writer_is_a_whole_ledger(tmp_path: Path) -> None:
    bench, lengths = real_ledger(tmp_path), []
    with subprocess.Popen([sys.executable, "-c", BUSY, str(tmp_path)]) as writer:
        while writer.poll() is None:
            verdict = judged(bench.path)
            assert verdict.problems == ()
            lengths.append(len(verdict.entries))
    assert writer.returncode == 0
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    assert len(judged(bench.path).entries) == 7 + 2 * 25
    # A reader that is there when the writer leaves keeps it from clearing its log away; the reader adds nothing.
    left = {path.name for path in tmp_path.iterdir()} - {"ledger.sqlite-wal", "ledger.sqlite-shm"}
    assert left == {"identity.pem", "ledger.sqlite"}


@pytest.mark.parametrize("index", [True, False])
def test_a_ledger_that_a_crash_left_with_its_log_is_read_whole(tmp_path: Path, index: bool) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "left").mkdir()
    bench = real_ledger(tmp_path / "live")
    with bench.open() as ledger:
        ledger.release("run-2", 1, "task", "training", 1)
        for end in ("", "-wal", "-shm") if index else ("", "-wal"):
            shutil.copy(bench.path.with_name(f"ledger.sqlite{end}"), tmp_path / "left")
    before = {name: raw for name, (_, raw) in state(tmp_path / "left").items() if not name.endswith("-shm")}
    assert len(read_ledger(str(tmp_path / "left" / "ledger.sqlite")).entries) == 8
    after = {name: raw for name, (_, raw) in state(tmp_path / "left").items() if not name.endswith("-shm")}
    assert after == before


def test_a_half_written_file_of_another_journal_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_WAIT_SECONDS", 0.1)
    path = example().write(tmp_path / "ledger.sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("BEGIN EXCLUSIVE")
        connection.executemany("INSERT INTO members VALUES (?, 'x' || zeroblob(3000))", [(i,) for i in range(100)])
        assert (tmp_path / "ledger.sqlite-journal").exists()
        with pytest.raises(LedgerUnreadable, match="locked"):
            read_ledger(str(path))
        connection.execute("ROLLBACK")
    assert judged(path).problems == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write here")
@pytest.mark.parametrize("live", [True, False])
def test_somebody_who_may_only_read_can_verify(live: bool) -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        bench = real_ledger(folder)
        ledger = stack.enter_context(bench.open())
        ledger.release("run-2", 1, "task", "training", 1)
        if not live:
            ledger.close()
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o444)
        names = sorted(path.name for path in folder.iterdir())
        assert ("ledger.sqlite-wal" in names) == live
        command = [sys.executable, "-c", READ_BY_NOBODY, str(bench.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "8", done.stderr
        assert sorted(path.name for path in folder.iterdir()) == names


def test_the_reader_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = example().write(tmp_path / "ledger.sqlite")
    monkeypatch.setitem(read._QUERIES, "entries", "INSERT INTO schema_version VALUES (9)")
    with pytest.raises(LedgerUnreadable, match="readonly"):
        read_ledger(str(path))


def test_a_file_that_changes_all_the_time_is_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = example().write(tmp_path / "ledger.sqlite")
    states = iter(range(100))
    monkeypatch.setattr(read, "_state", lambda _: (next(states), 0, 0))
    with pytest.raises(LedgerUnreadable, match="changes faster than it can be read"):
        read_ledger(str(path))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "is no file: give the path of a ledger"),
        (b"", "has no table `entries`: it is no ledger"),
        (b"no database at all" * 100, "cannot be read as a ledger .*: give the SQLite file itself"),
    ],
)
def test_what_is_no_ledger_is_named_with_what_to_do(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "other.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LedgerUnreadable, match=complaint):
        read_ledger(str(path))
    assert path.exists() == (content is not None)


def test_another_databases_tables_are_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE entries (number INTEGER)")
    with pytest.raises(LedgerUnreadable, match="no such column: seq"):
        read_ledger(str(path))


def test_a_torn_file_is_no_crash(tmp_path: Path) -> None:
    path = example().write(tmp_path / "ledger.sqlite")
    raw = path.read_bytes()
    path.write_bytes(raw[:4096] + b"\xff" * 8192 + raw[12288:])
    with pytest.raises(LedgerUnreadable, match="cannot be read as a ledger"):
        read_ledger(str(path))


@pytest.mark.parametrize(
    "url", ["postgresql+nodriver://hospital:secret@127.0.0.1/x", "sqlite+pysqlite:////nowhere/at/all", "x y://"]
)
def test_a_server_that_is_not_there_is_named_without_its_password(url: str) -> None:
    with pytest.raises(LedgerUnreadable, match=r"cannot be read|is no database URL") as refusal:
        read_ledger(url)
    assert "secret" not in str(refusal.value)


def test_a_database_by_its_url_gives_the_same_rows(tmp_path: Path) -> None:
    path = example().write(tmp_path / "ledger.sqlite")
    rows, same = read_ledger(str(path)), read_ledger(f"sqlite+pysqlite:///{path}")
    assert (rows.entries, rows.cohorts, rows.members, rows.version) == (
        same.entries, same.cohorts, same.members, same.version
    )  # fmt: skip
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM entries")).scalar() == len(rows.entries)
    engine.dispose()
