"""Real processes on one ledger: racing for the last of the budget, and killed with SIGKILL at the worst moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.ledger_account import BudgetRefused
from tests.ledger_bench import LedgerBench, charges_of

ROOT = Path(__file__).resolve().parents[2]
PREPARE = """
import os, signal, sys, time
from pathlib import Path
from client.ledger_account import BudgetRefused
from tests.ledger_bench import LedgerBench, charges_of

bench = LedgerBench(Path(sys.argv[1]))
name = sys.argv[2]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def wait_for_start():
    (bench.folder / f"ready-{name}").touch()
    while not (bench.folder / "start").exists():
        time.sleep(0.001)
"""


def start(bench: LedgerBench, name: str, body: str) -> subprocess.Popen[str]:
    bench.identity()
    script = [sys.executable, "-c", PREPARE + body, str(bench.folder), name]
    return subprocess.Popen(script, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def race(bench: LedgerBench, number: int, body: str) -> list[str]:
    """Start so many processes, let them go at one moment, and give what each printed, sorted."""
    runners = [start(bench, str(index), body) for index in range(number)]
    deadline = time.monotonic() + 60
    while len(list(bench.folder.glob("ready-*"))) < number and time.monotonic() < deadline:
        time.sleep(0.01)
    (bench.folder / "start").touch()
    answers = [runner.communicate(timeout=60) for runner in runners]
    assert [error for _, error in answers] == [""] * number
    return sorted(printed.strip() for printed, _ in answers)


def killed(bench: LedgerBench, body: str) -> str:
    """Run a process that kills itself; give what it managed to print."""
    runner = start(bench, "victim", body)
    printed, error = runner.communicate(timeout=60)
    assert (runner.returncode, error) == (-signal.SIGKILL, "")
    return printed.strip()


@pytest.fixture
def bench(tmp_path: Path) -> LedgerBench:
    return LedgerBench(tmp_path)


def test_processes_racing_for_the_last_of_the_budget_spend_it_once(bench: LedgerBench) -> None:
    """Room for one of these runs is left: of three processes, one gets it. The file itself is not there yet either."""
    reserve = """
wait_for_start()
with bench.open() as ledger:
    try:
        ledger.reserve(f"run-{name}", "hash", charges_of(noise=2.5))
        print("reserved")
    except BudgetRefused:
        print("refused")
"""
    assert race(bench, 3, reserve) == ["refused"] * 2 + ["reserved"]
    with bench.open() as ledger:
        ledger.verify()
        assert len(ledger.spent().runs) == 1
        with pytest.raises(BudgetRefused):
            ledger.reserve("late", "hash", charges_of(noise=2.5))


def test_processes_racing_for_one_run_charge_it_once_and_release_each_step_once(bench: LedgerBench) -> None:
    release = """
wait_for_start()
with bench.open() as ledger:
    ledger.reserve("run", "hash", charges_of(steps=10))
    print(sum(ledger.release("run", round, "task", "training", 1) for round in range(10)))
"""
    assert sum(int(count) for count in race(bench, 2, release)) == 10
    with bench.open() as ledger:
        ledger.verify()
        assert ledger.spent().entries == 1 + 1 + 10


def test_a_kill_between_charge_and_reply_costs_budget_once(bench: LedgerBench) -> None:
    charge_and_die = """
with bench.open() as ledger:
    ledger.reserve("run", "hash", charges_of())
    print("charging", flush=True)
    assert ledger.release("run", 1, "task", "training", 1)
    die()
"""
    assert killed(bench, charge_and_die) == "charging"
    with bench.open() as ledger:
        ledger.verify()
        before = ledger.spent()
        assert before.entries == 3
        assert ledger.release("run", 1, "task", "training", 1) is False  # the retry is the same release
        assert ledger.spent() == before


def test_a_kill_before_the_settlement_leaves_the_whole_reservation_charged(bench: LedgerBench) -> None:
    killed(bench, "with bench.open() as ledger:\n    ledger.reserve('run', 'hash', charges_of())\n    die()\n")
    with bench.open() as ledger:
        (line,) = ledger.spent().runs
        assert (line.settled, line.cohorts[0].charged) == (False, charges_of()[:1])


@pytest.mark.parametrize("moment", ["before the commit", "while the ledger is made"])
def test_a_kill_inside_a_transaction_leaves_nothing_half_written(bench: LedgerBench, moment: str) -> None:
    bodies = {
        "before the commit": """
with bench.open() as ledger:
    ledger.reserve("run", "hash", charges_of())
    with ledger.store.writing() as pen:
        pen.append("release", "run", {"round": 1, "stage": "task", "purpose": "training", "count": 1, "when": ""},
                   after=pen.entries())
        die()
""",
        "while the ledger is made": """
identity = bench.identity()
def sign(message):
    die()
from client.ledger import Ledger
Ledger.open(bench.path, site=bench.site, signer=sign, public_key=identity.public_key, delta=1e-3, lifetime_epsilon=20.0)
""",
    }
    killed(bench, bodies[moment])
    with bench.open() as ledger:
        ledger.verify()
        ledger.reserve("run", "hash", charges_of())
        assert ledger.release("run", 1, "task", "training", 1) is True
        ledger.verify()
        assert ledger.spent().entries == 3


def test_a_writer_killed_at_any_moment_keeps_every_answer_it_gave(bench: LedgerBench) -> None:
    body = """
with bench.open() as ledger:
    ledger.reserve(f"run-{name}", "hash", charges_of(noise=500.0, steps=100_000))
    print("ready", flush=True)
    for round in range(100_000):
        ledger.release(f"run-{name}", round, "task", "training", 1)
        os.write(1, b"x")
"""
    written = 0
    for attempt, seconds in enumerate((0.02, 0.113)):
        writer = start(bench, str(attempt), body)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(seconds)
        os.kill(writer.pid, signal.SIGKILL)
        # Not `communicate`: it passes over what came with the first line, where this process was slow to read it.
        answered = len(writer.stdout.read())
        writer.wait(timeout=60)
        assert writer.stderr is not None
        writer.stderr.close()
        writer.stdout.close()
        with bench.open() as ledger:
            ledger.verify()
            entries = ledger.spent().entries
        released = entries - written - (1 if attempt else 2)  # the reservation, and the header the first time
        assert answered <= released <= answered + 1
        written = entries
