"""The privacy ledger that the institution owns: it outlives every run, shows tampering, and says no at the end.

Write-ahead: a run's whole plan is *reserved* before any record is read; each *release* is written before it is
computed; *settle* gives back what did not run. A crash without a settlement leaves the whole reservation charged. The
server never decides: whatever it asks for, this file answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from client.ledger_account import LedgerSummary, RunAccount, run_accounts, run_lines, standing
from client.ledger_schema import Entry, LedgerBroken, charge_to_facts, check_chain
from client.ledger_store import Pen, Store, open_store
from client.policy import Refused
from common.privacy.events import Charge
from common.privacy.renyi import ORDERS, filter_order


class BudgetRefused(Refused):
    """The institution's lifetime budget does not hold what was asked for."""

    def __init__(self, reason: str) -> None:
        """Keep the reason under the code `budget`."""
        super().__init__("budget", reason)
        self.args = (reason,)  # so that it can be pickled


@dataclass(frozen=True)
class Ledger(AbstractContextManager["Ledger"]):
    """An open ledger; use it as a context, or close it.

    Guarantees:
        filter: at the filter's Renyi order, the sum over runs of each run's costliest cohort never exceeds what
            (lifetime_epsilon, delta) allows, however many processes write.
        durable: when a method returns, its entry is on disk; when it raises, or the process dies, there is no entry.
        append-only: entries are chained and signed; changed, missing or reordered ones are noticed when it is opened.
    """

    site: str
    delta: float
    lifetime_epsilon: float
    public_key: bytes
    store: Store

    @staticmethod
    def open(  # noqa: PLR0913  (each of them is fixed by the institution, none has a default)
        location: Path | str,
        *,
        site: str,
        signer: Callable[[bytes], bytes],
        public_key: bytes,
        delta: float,
        lifetime_epsilon: float,
        is_made: bool = False,
    ) -> Ledger:
        """Open a ledger, or make a new one whose header is fixed for ever.

        Args:
            location: a path, or a SQLite URL.
            site: the institution's name.
            signer: signs with the institution's Ed25519 key.
            public_key: the key that the signatures must verify under, 32 bytes.
            delta: delta of the lifetime budget; the header's is the only one allowed.
            lifetime_epsilon: the policy's lifetime budget of today.
            is_made: a ledger was made here before, so that one without entries has lost them.

        Raises:
            LedgerBroken: entries are gone, chain or newest signature are wrong, or the header says something else.
            ValueError: the location is no SQLite file, or delta or lifetime_epsilon are out of range.
        """
        if not (0 < delta < 1 and 0 < lifetime_epsilon < float("inf")):
            raise ValueError(f"delta must be in (0, 1) and lifetime_epsilon > 0, got {delta} and {lifetime_epsilon}")
        ledger = Ledger(site, delta, lifetime_epsilon, public_key, open_store(location, signer))
        try:
            with ledger.store.writing() as pen:
                ledger._check_header(pen, is_made=is_made)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def reserve(self, run: str, plan_hash: str, charges: Sequence[Charge]) -> None:
        """Reserve everything that a run may ever release, before any record is read.

        Guarantees:
            once: the same run with the same plan is charged once, however often it is asked for.

        Raises:
            BudgetRefused: the lifetime budget does not hold it.
            Refused: the run is known here under another plan, or is over.
            ValueError: two charges have one purpose.
        """
        purposes = [charge.purpose for charge in charges]
        if not run or len(set(purposes)) < len(purposes):
            raise ValueError(f"a reservation needs a run and every purpose once, got {run!r}: {', '.join(purposes)}")
        with self.store.writing() as pen:
            entries = pen.entries()
            accounts = run_accounts(entries)
            if run in accounts:
                _check_same(accounts[run], plan_hash, charges)
                return
            asked = RunAccount(run, plan_hash, _now(), tuple(charges))
            self._check_budget((*accounts.values(), asked), _order_of(entries))
            reserved = [charge_to_facts(charge) for charge in charges]
            facts: dict[str, object] = {"plan": plan_hash, "charges": reserved, "when": asked.when}
            pen.append("reserve", run, facts, after=entries)

    def release(self, run: str, round: int, stage: str, purpose: str, event_count: int) -> bool:
        """Write down that `event_count` reserved events are about to be released; do it before computing them.

        Returns:
            True the first time; False where the very same release is written down already.

        Raises:
            BudgetRefused: that is more than was reserved for this purpose.
            Refused: the run was never reserved here, is over, or released something else at this place.
            ValueError: event_count is below 1.
        """
        if event_count < 1:
            raise ValueError(f"event_count must be >= 1, got {event_count}")
        with self.store.writing() as pen:
            entries = pen.entries()
            account = _known(run_accounts(entries), run)
            written = account.releases.get((round, stage, purpose))
            if written is not None:
                if written != event_count:
                    raise Refused("replay", f"{purpose} of round {round} in run {run} was {written}, not {event_count}")
                return False
            _check_reserved(account, purpose, event_count)
            facts: dict[str, object] = {"round": round, "stage": stage, "purpose": purpose, "count": event_count}
            pen.append("release", run, {**facts, "when": _now()}, after=entries)
        return True

    def settle(self, run: str) -> None:
        """Close a run and give back what it reserved and did not release; closing it again changes nothing.

        Raises:
            Refused: the run was never reserved here.
        """
        with self.store.writing() as pen:
            entries = pen.entries()
            accounts = run_accounts(entries)
            if run not in accounts:
                raise Refused("not-enrolled", f"run {run} was never reserved here")
            if not accounts[run].settled:
                pen.append("settle", run, {"when": _now()}, after=entries)

    def spent(self) -> LedgerSummary:
        """Add everything up."""
        entries = self.entries()
        accounts = tuple(run_accounts(entries).values())
        order = _order_of(entries)
        stands = standing(accounts, order=order, delta=self.delta)
        return LedgerSummary(
            site=self.site,
            lifetime_epsilon=self.lifetime_epsilon,
            delta=self.delta,
            order=order,
            spent=stands.spent,
            left=max(0.0, self.lifetime_epsilon - stands.spent),
            entries=len(entries),
            head=entries[-1].digest,
            public_key=self.public_key.hex(),
            runs=run_lines(accounts, self.delta),
        )

    def entries(self) -> tuple[Entry, ...]:
        """Read all entries, oldest first; the first one is the header."""
        with self.store.writing() as pen:
            return pen.entries()

    def head(self) -> tuple[int, bytes]:
        """The number of entries and the digest of the newest: what a receipt carries, so that a rollback is seen."""
        entries = self.entries()
        return len(entries), bytes.fromhex(entries[-1].digest)

    def verify(self) -> None:
        """Check numbering, chain, every signature, and that the entries make sense.

        Raises:
            LedgerBroken: names the first entry that is wrong.
        """
        entries = self.entries()
        check_chain(entries, self.public_key, every_signature=True)
        run_accounts(entries)

    def close(self) -> None:
        """Let go of the file."""
        self.store.close()

    def __enter__(self) -> Self:
        """Give the open ledger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _check_header(self, pen: Pen, *, is_made: bool) -> None:
        header: dict[str, object] = {
            "site": self.site,
            "delta": self.delta,
            "orders": list(ORDERS),
            "adjacency": "zero-out (add or remove)",
            "unit": "subject",
            "sampling": "poisson",
            "public_key": self.public_key.hex(),
        }
        entries = pen.entries()
        if not entries and is_made:
            raise LedgerBroken("this ledger is empty: restore it; a new one would forget what was spent")
        if not entries:
            # The filter's order is the institution's choice, made before anybody asks for anything, and kept for ever.
            order = filter_order(self.lifetime_epsilon, self.delta)
            pen.append("header", "", {**header, "order": order, "when": _now()}, after=entries)
            return
        if entries[0].kind == "header" and '"order":' not in entries[0].body:
            raise LedgerBroken("this ledger is of an earlier release: its filter's order was chosen by the first run")
        check_chain(entries, self.public_key, every_signature=False)
        _order_of(entries)
        written = entries[0].facts()
        for name, value in header.items():
            if written.get(name) != value:
                raise LedgerBroken(f"the ledger's {name} is {written.get(name)} for ever, not {value}")

    def _check_budget(self, accounts: Sequence[RunAccount], order: float) -> None:
        after = standing(accounts, order=order, delta=self.delta)
        if not after.needed <= self.lifetime_epsilon:  # what cannot be compared is refused too
            before = standing(accounts[:-1], order=order, delta=self.delta)
            raise BudgetRefused(
                f"{self.site}: run {accounts[-1].run} needs a lifetime epsilon of {after.needed:.3g} at delta"
                f" {self.delta:g}; {self.lifetime_epsilon:g} is allowed, {before.spent:.3g} is spent"
            )


def _order_of(entries: Sequence[Entry]) -> float:
    """The Renyi order that this ledger's filter works at, as its header says."""
    order = entries[0].facts()["order"]
    if not isinstance(order, int | float) or order not in ORDERS:
        raise LedgerBroken(f"the ledger's filter works at order {order}, which is none of its orders")
    return order


def _check_same(account: RunAccount, plan_hash: str, charges: Sequence[Charge]) -> None:
    if account.plan_hash != plan_hash or account.reserved != tuple(charges):
        raise Refused("replay", f"run {account.run} was reserved under another plan")
    if account.settled:
        raise Refused("settled", f"run {account.run} is over")


def _known(accounts: dict[str, RunAccount], run: str) -> RunAccount:
    if run not in accounts:
        raise Refused("not-enrolled", f"run {run} was never reserved here")
    return accounts[run]


def _check_reserved(account: RunAccount, purpose: str, event_count: int) -> None:
    if account.settled:
        raise Refused("settled", f"run {account.run} is over")
    reserved = sum(charge.event.count for charge in account.reserved if charge.purpose == purpose)
    released = account.released.get(purpose, 0)
    if released + event_count > reserved:
        raise BudgetRefused(
            f"run {account.run} reserved {reserved} events of {purpose}, released {released}, asks for {event_count}"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
