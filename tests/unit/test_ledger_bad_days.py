"""A full disk, a file that may not be written, a clock that was set back: refused or harmless, never half-written."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client import ledger_book
from client.ledger import Ledger
from client.ledger_schema import LedgerBroken
from common.secagg.identity import Identity
from tests.ledger_bench import charges_of

IDENTITY = Identity(bytes([7]) * 32)
NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user may look into."""
    with tempfile.TemporaryDirectory(prefix="fedmosaic-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def opened(folder: Path) -> Ledger:
    return Ledger.open(
        folder / "ledger.sqlite",
        site="cleveland",
        signer=IDENTITY.sign,
        public_key=IDENTITY.public_key,
        delta=1e-3,
        lifetime_epsilon=20.0,
        receipt_path=folder / "ledger.receipt",
    )


def in_a_child(act: Callable[[], None]) -> str:
    """Act in another process, and give what it was refused with."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
        except LedgerBroken as refusal:
            os.write(writing, str(refusal).encode())
        except BaseException as error:
            os.write(writing, f"another error: {error!r}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        words = said.read()
    os.waitpid(child, 0)
    return words


def kinds(folder: Path) -> list[str]:
    with closing(opened(folder)) as ledger:
        ledger.verify()
        return [entry.kind for entry in ledger.entries()]


def test_a_full_disk_refuses_and_leaves_the_ledger_as_it_was(folder: Path) -> None:
    with opened(folder) as ledger:
        ledger.reserve("run", "hash", charges_of())
    written = folder / "written"
    written.touch()

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
        with opened(folder) as ledger:
            for round in range(500):
                ledger.release("run", round, "task", "training", 1)
                with written.open("ab") as file:
                    file.write(b".")

    said = in_a_child(full)
    assert "ledger.sqlite" in said
    assert "cannot be used" in said
    assert "nothing was charged" in said
    assert 0 < written.stat().st_size < 60  # the run reserved 60 steps: it was the disk that said no
    assert kinds(folder) == ["header", "reserve", *["release"] * written.stat().st_size]


def test_a_receipt_that_cannot_be_read_stops_everything_before_the_charge(folder: Path) -> None:
    with opened(folder) as ledger:
        ledger.reserve("run", "hash", charges_of())
        (folder / "ledger.receipt").unlink()
        (folder / "ledger.receipt").mkdir()
        with pytest.raises(LedgerBroken, match=r"ledger\.receipt"):
            ledger.release("run", 1, "task", "training", 1)
        (folder / "ledger.receipt").rmdir()
        assert ledger.release("run", 1, "task", "training", 1) is True
        assert (folder / "ledger.receipt").exists()
    assert kinds(folder) == ["header", "reserve", "release"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_written_is_refused_by_name(folder: Path, what: str) -> None:
    with opened(folder) as ledger:
        ledger.reserve("run", "hash", charges_of())
    before = kinds(folder)
    if what == "file":
        (folder / "ledger.sqlite").chmod(0o444)
    else:
        (folder / "ledger.sqlite").chmod(0o666)

    def somebody_else() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        opened(folder).close()

    said = in_a_child(somebody_else)
    assert "ledger.sqlite" in said
    assert "cannot be used" in said
    assert "nothing was charged" in said
    assert kinds(folder) == before


class SetBack(datetime):
    """A clock of many years ago."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime(1999, 12, 31, tzinfo=UTC)


def test_a_clock_that_was_set_back_changes_nothing_that_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder) as ledger:
        ledger.reserve("run", "hash", charges_of())
        ledger.release("run", 1, "task", "training", 59)
        before = ledger.spent().spent
    monkeypatch.setattr(ledger_book, "datetime", SetBack)
    monkeypatch.setattr("client.ledger.now", ledger_book.now)
    with opened(folder) as ledger:
        assert ledger.release("run", 2, "task", "training", 1)
        with pytest.raises(Exception, match="asks for 1"):
            ledger.release("run", 3, "task", "training", 1)
        ledger.settle("run")
        ledger.verify()
        assert ledger.spent().spent == before
        assert "1999" in ledger.entries()[-1].body
