"""How fast a privacy ledger is, on this machine's disk: a charge, a cold opening, and the independent reader."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from client.ledger import Ledger
from client.ledger_book import now
from common.privacy.events import Charge, Event
from common.secagg.identity import Identity, new_identity
from common.verify.anchors import Anchors
from common.verify.read import read_ledger
from common.verify.verdict import verify

_RUN, _DELTA, _LIFETIME = "run", 1e-5, 50.0


@dataclass(frozen=True)
class LedgerSpeed:
    """Medians in milliseconds; the last two in seconds.

    Attributes:
        charge: a release in an open ledger, durable, with its receipt.
        door: the same with opening and closing the ledger, as a site does it.
        cold: opening a ledger that this process has not read.
        verified: processor time of `fedmosaic verify`.
    """

    entries: int
    charge_milliseconds: float
    door_milliseconds: float
    cold_seconds: float
    verified_seconds: float


def measure_ledger(entries: int, repeats: int) -> LedgerSpeed:
    """Fill a ledger, then charge it some more.

    Raises:
        ValueError: the independent reader finds something wrong with it.
    """
    with tempfile.TemporaryDirectory(prefix="fedmosaic-bench-") as place:
        folder, identity = Path(place), new_identity()
        # In another process, so that this one has not read it.
        filling = get_context("fork").Process(target=_fill, args=(folder, identity, entries, repeats))
        filling.start()
        filling.join()
        started = time.perf_counter()
        _open(folder, identity).close()
        cold = time.perf_counter() - started
        door = statistics.median(_timed(folder, identity, range(entries, entries + repeats)))
        with _open(folder, identity) as ledger:
            charge = statistics.median(_charges(ledger, range(entries + repeats, entries + 2 * repeats)))
        started = time.process_time()
        if verify(read_ledger(str(folder / "ledger.sqlite")), Anchors(), None).problems:
            raise ValueError("the ledger is broken")
        return LedgerSpeed(entries, charge, door, cold, time.process_time() - started)


def _open(folder: Path, identity: Identity) -> Ledger:
    return Ledger.open(
        folder / "ledger.sqlite",
        site="bench",
        signer=identity.sign,
        public_key=identity.public_key,
        delta=_DELTA,
        lifetime_epsilon=_LIFETIME,
        receipt_path=folder / "ledger.receipt",
    )


def _fill(folder: Path, identity: Identity, entries: int, repeats: int) -> None:
    """Write most of the entries in one transaction: what is measured is the ones that come after."""
    steps = Charge("train", "training", Event("gaussian", 300.0, 1.0, entries + 2 * repeats))
    with _open(folder, identity) as ledger:
        ledger.reserve(_RUN, "plan", (steps,))
        with ledger.store.writing() as pen:
            written = pen.entries()
            for number in range(entries - len(written)):
                facts = {
                    "round": number,
                    "stage": "task",
                    "purpose": "training",
                    "count": 1,
                    "request": "",
                    "when": now(),
                }
                written = (*written, pen.append("release", _RUN, facts, after=written))


def _timed(folder: Path, identity: Identity, rounds: range) -> Iterator[float]:
    for number in rounds:
        started = time.perf_counter()
        with _open(folder, identity) as ledger:
            ledger.release(_RUN, number, "task", "training", 1)
        yield (time.perf_counter() - started) * 1000


def _charges(ledger: Ledger, rounds: range) -> Iterator[float]:
    for number in rounds:
        started = time.perf_counter()
        ledger.release(_RUN, number, "task", "training", 1)
        yield (time.perf_counter() - started) * 1000
