"""The ledger in a real PostgreSQL server: the same answers as in a file, and the same guarantees."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from client.cohorts import Pseudonyms
from client.enrolment import open_ledger
from client.ledger import Ledger
from client.ledger_account import BudgetRefused, LedgerSummary
from client.ledger_schema import LedgerBroken
from client.ledger_subjects import Terms
from client.policy import read_policy
from common.secagg.identity import Identity
from simulations.run import run
from tests.federation_run import REPEATABLE, prepare_toy, silent
from tests.killed import dies_at
from tests.ledger_bench import charges_of
from tests.postgresql import Server, postgresql

pytestmark = pytest.mark.slow
IDENTITY = Identity(bytes([7]) * 32)
KEY = Pseudonyms(b"k" * 32)
TERMS = Terms({"train": KEY.cohort("ab"), "test": KEY.cohort("c")}, KEY.check)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgresql() as found:
        yield found


@pytest.fixture
def url(server: Server, request: pytest.FixtureRequest) -> str:
    return server.url(f"ledger_{abs(hash(request.node.name))}")


def opened(location: str | Path, lifetime_epsilon: float = 20.0) -> Ledger:
    return Ledger.open(
        location,
        site="cleveland",
        signer=IDENTITY.sign,
        public_key=IDENTITY.public_key,
        delta=1e-3,
        lifetime_epsilon=lifetime_epsilon,
    )


def story(location: str | Path) -> LedgerSummary:
    """What a ledger lives through."""
    with opened(location) as ledger:
        ledger.reserve("one", "hash", charges_of(), TERMS)
        assert ledger.release("one", 1, "task", "training", 20)
        assert not ledger.release("one", 1, "task", "training", 20)
    with opened(location) as ledger:
        ledger.settle("one")
        ledger.reserve("two", "hash", charges_of(noise=7.0))
        with pytest.raises(BudgetRefused):
            ledger.reserve("greedy", "hash", charges_of(noise=0.5))
        ledger.verify()
        return ledger.spent()


def told(summary: LedgerSummary) -> dict[str, object]:
    """All but the digests and the times, which differ."""
    runs = [(line.run, line.settled, line.cohorts, line.entries) for line in summary.runs]
    return {**vars(summary), "head": "", "runs": runs}


def test_it_says_what_a_file_says(url: str, tmp_path: Path) -> None:
    assert told(story(url)) == told(story(tmp_path / "ledger.sqlite"))


FORBIDDEN = (
    *("DELETE FROM entries", "DELETE FROM cohorts", "DELETE FROM members"),
    *("TRUNCATE entries", "TRUNCATE cohorts", "TRUNCATE members"),
    *("UPDATE entries SET run = 'x'", "UPDATE cohorts SET size = 9", "UPDATE members SET pseudonym = 'x'"),
)


def test_rows_cannot_be_changed_deleted_or_truncated(url: str) -> None:
    story(url)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    for statement in FORBIDDEN:
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    engine.dispose()
    with opened(url) as ledger:
        ledger.verify()


def test_changes_by_who_owns_the_database_are_noticed(url: str) -> None:
    story(url)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE entries DISABLE TRIGGER USER")
        connection.exec_driver_sql("UPDATE entries SET body = replace(body, '9.0', '99.0') WHERE seq = 1")
    engine.dispose()
    with pytest.raises(LedgerBroken, match="entry 1 was changed"):
        opened(url)


RACER = """
import sys
from client.ledger_account import BudgetRefused
from tests.end_to_end.test_ledger_postgresql import opened
from tests.killed import dies_at
from tests.ledger_bench import charges_of
name, url = sys.argv[1:]
with opened(url) as ledger:
    sys.stdin.readline()
    for number in range(4):
        try:
            ledger.reserve(f"{name}-{number}", "hash", charges_of(noise=5.0))
            print(f"{name}-{number}")
        except BudgetRefused:
            pass
"""


def test_processes_that_race_never_spend_more_than_there_is(url: str) -> None:
    opened(url).close()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, name, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("red", "blue")
    ]
    outputs = [process.communicate("go\n", timeout=120)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    taken = sorted(run for output in outputs for run in output)
    with opened(url) as ledger:
        ledger.verify()
        summary = ledger.spent()
        assert sorted(line.run for line in summary.runs) == taken
        with pytest.raises(BudgetRefused):
            ledger.reserve("late", "hash", charges_of(noise=5.0))
    assert 0 < len(taken) < 8
    assert summary.spent <= 20.0


def reserve(url: str) -> None:
    with opened(url) as ledger:
        ledger.reserve("run", "hash", charges_of(), TERMS)


def test_a_writer_killed_at_any_statement_leaves_all_or_nothing(url: str) -> None:
    opened(url).close()
    for number in range(100):
        if not dies_at(partial(reserve, url), number):
            break
        with opened(url) as ledger:
            assert [entry.kind for entry in ledger.entries()] == ["header"]
    assert number > 8
    with opened(url) as ledger:
        assert ledger.members("run", lambda: KEY.check) is not None
        assert [entry.kind for entry in ledger.entries()] == ["header", "reserve"]


def often(act: Callable[[], None]) -> None:
    for _ in range(50):
        act()


def test_a_server_that_does_not_write_durably_is_refused(server: Server, url: str) -> None:
    opened(url).close()
    try:
        server.run("psql", "-c", "ALTER SYSTEM SET fsync = off")
        server.run("psql", "-c", "SELECT pg_reload_conf()")
        with pytest.raises(LedgerBroken, match="power cut"):
            often(lambda: opened(url).close())  # the server takes a moment to read its configuration again
    finally:
        server.run("psql", "-c", "ALTER SYSTEM RESET fsync")
        server.run("psql", "-c", "SELECT pg_reload_conf()")


def test_a_server_that_is_not_there_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(LedgerBroken, match="is no ledger") as refusal:
        opened(f"postgresql://me:secret-word@/ledger?host={tmp_path}")
    assert "secret-word" not in str(refusal.value)


def test_a_whole_run_charges_a_ledger_that_the_policy_names(server: Server, tmp_path: Path) -> None:
    prepared = prepare_toy(
        tmp_path, "data.normalisation=none", "rounds=1", REPEATABLE, f"site.state={tmp_path / 'state'}"
    )
    run(prepared, silent)
    url = server.url("institution")
    site = prepared.sites[0]
    for path in site.state.glob("ledger.*"):
        path.unlink()
    text = site.policy_path.read_text()
    assert "\nledger: null\n" in text
    site.policy_path.write_text(text.replace("\nledger: null\n", f"\nledger: {url}\n"))
    (tmp_path / "state" / "receipts.json").unlink()
    later = prepare_toy(tmp_path, "data.normalisation=none", "rounds=1", REPEATABLE, f"site.state={tmp_path / 'state'}")
    run(later, silent)
    assert not site.ledger_path.exists()
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        ledger.verify()
        assert [entry.kind for entry in ledger.entries()] == ["header", "reserve", *["release"] * 3, "settle"]
