"""The privacy ledger that the institution owns: it outlives every run, shows tampering, and says no at the end.

Write-ahead: a run's whole plan is *reserved* before any record is read; each *release* is written before it is
computed; *settle* gives back what did not run. A crash without a settlement leaves the whole reservation charged. The
server never decides: whatever it asks for, this file answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from client.ledger_account import (
    LedgerSummary,
    RunAccount,
    by_modality,
    check_budget,
    check_reserved,
    check_same,
    known_account,
    run_accounts,
    run_lines,
    standing,
)
from client.ledger_book import Book, begin_book, check_header, let_go, now, open_book, read_book, remember
from client.ledger_schema import Entry, charge_to_facts, check_chain
from client.ledger_store import Pen, Store, open_store
from client.ledger_subjects import Accounts, SubjectClass, Terms, check_key, freeze, summarise
from client.policy import Refused
from client.receipts import ReceiptBook
from common.privacy.events import Charge
from common.privacy.renyi import filter_order


@dataclass(frozen=True)
class Ledger(AbstractContextManager["Ledger"]):
    """An open ledger; use it as a context, or close it.

    Guarantees:
        filter: at the filter's Renyi order, the sum over runs of each run's costliest cohort never exceeds what
            (lifetime_epsilon, delta) allows, however many processes write.
        durable: when a method returns, its entry is on disk; when it raises, or the process dies, there is no entry,
            unless it was the receipt alone that could not be written.
        append-only: entries are chained and signed; changed, missing or reordered ones are noticed when it is opened.
        monotonic: a ledger that is older than the newest receipt beside it is refused; with `receipts`, the receipt of
            an entry is durable when the method that wrote it returns.
    """

    site: str
    delta: float
    lifetime_epsilon: float
    public_key: bytes
    store: Store
    receipts: ReceiptBook | None = None

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
        receipt_path: Path | None = None,
    ) -> Ledger:
        """Open a ledger, or make a new one whose header is fixed for ever.

        Args:
            location: a path, or the URL of a SQLite file or a PostgreSQL database.
            site: the institution's name.
            signer: signs with the institution's Ed25519 key.
            public_key: the key that the signatures must verify under, 32 bytes.
            delta: delta of the lifetime budget; the header's is the only one allowed.
            lifetime_epsilon: the policy's lifetime budget of today.
            is_made: a ledger was made here before, so that one without entries has lost them.
            receipt_path: where the newest receipt is kept; None: none is.

        Raises:
            LedgerBroken: entries are gone or older than the receipt, chain or newest signature are wrong, the header
                says something else, or the database cannot be used.
            ValueError: the location is no database of ours, or delta or lifetime_epsilon are out of range.
        """
        if not (0 < delta < 1 and 0 < lifetime_epsilon < float("inf")):
            raise ValueError(f"delta must be in (0, 1) and lifetime_epsilon > 0, got {delta} and {lifetime_epsilon}")
        receipts = None if receipt_path is None else ReceiptBook(receipt_path, site, public_key, signer)
        ledger = Ledger(site, delta, lifetime_epsilon, public_key, open_store(location, signer), receipts)
        try:
            header: dict[str, object] = {"site": site, "delta": delta, "public_key": public_key.hex()}
            with ledger.store.writing() as pen:
                book = open_book(ledger.store, pen, public_key, is_made=is_made)
                if not book.entries:
                    book = begin_book(pen, header, filter_order(lifetime_epsilon, delta))
                check_header(book, header)
                if receipts is not None:
                    receipts.check(book.entries)
            if receipts is not None:
                receipts.keep(book.entries)
            remember(ledger.store, book, public_key)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def reserve(self, run: str, plan_hash: str, charges: Sequence[Charge], terms: Terms | None = None) -> None:
        """Reserve everything that a run may ever release, before any record is read.

        Without `terms` nobody knows who takes part, and every subject pays.

        Guarantees:
            once: the same run with the same plan is charged once, however often it is asked for; its cohorts are those
                of the first time.
            tells nothing: whether it is refused depends on no record. With `terms.leave_out` it is refused only where
                an empty ledger would not hold it; whoever has no budget left for it is left out of its cohorts.

        Raises:
            BudgetRefused: the lifetime budget does not hold it.
            Refused: the run is known here under another plan, or is over.
            LedgerBroken: the pseudonyms were made with another key than the ledger's.
            ValueError: two charges have one purpose.
        """
        purposes = [charge.purpose for charge in charges]
        if not run or len(set(purposes)) < len(purposes):
            raise ValueError(f"a reservation needs a run and every purpose once, got {run!r}: {', '.join(purposes)}")
        with self._writing() as (pen, book):
            if run in book.accounts:
                check_same(book.accounts[run], plan_hash, charges)
                return
            asked = RunAccount(run, plan_hash, now(), tuple(charges))
            earlier = () if terms is not None and terms.leave_out else tuple(book.accounts.values())
            check_budget(self.site, (*earlier, asked), self.lifetime_epsilon, order=book.order, delta=self.delta)
            reserved = [charge_to_facts(charge) for charge in charges]
            facts: dict[str, object] = {"plan": plan_hash, "charges": reserved, "bundle": ""}
            if terms is not None:
                accounts = self._accounts(pen, book) if terms.leave_out else None
                facts |= freeze(
                    pen,
                    terms,
                    charges,
                    book.accounts.values(),
                    lambda cohort, own: (
                        frozenset() if accounts is None else accounts.without_budget(cohort, own, self.lifetime_epsilon)
                    ),
                )
            pen.append("reserve", run, {**facts, "when": asked.when}, after=book.entries)

    def release(  # noqa: PLR0913  (what stands in the entry)
        self, run: str, round: int, stage: str, purpose: str, event_count: int, *, plan: str = "", request: str = ""
    ) -> bool:
        """Write down that `event_count` reserved events are about to be released; do it before computing them.

        `plan` is the hash under which the run was reserved, `request` that of what was asked for, both in hex.

        Returns:
            True the first time; False where the very same release is written down already.

        Raises:
            BudgetRefused: that is more than was reserved for this purpose.
            Refused: the run was never reserved here, or under another plan, is over, or released something else at
                this place.
            ValueError: event_count is below 1.
        """
        if event_count < 1:
            raise ValueError(f"event_count must be >= 1, got {event_count}")
        with self._writing() as (pen, book):
            account = known_account(book.accounts, run)
            if plan not in ("", account.plan_hash):
                raise Refused("replay", f"run {run} was reserved under another plan")
            written = account.releases.get((round, stage, purpose))
            if written is not None:
                if written != event_count:
                    raise Refused("replay", f"{purpose} of round {round} in run {run} was {written}, not {event_count}")
                return False
            check_reserved(account, purpose, event_count)
            facts: dict[str, object] = {"round": round, "stage": stage, "purpose": purpose, "count": event_count}
            pen.append("release", run, {**facts, "request": request, "when": now()}, after=book.entries)
        return True

    def check_lifetime(self, run: str, charges: Sequence[Charge] = (), *, leave_out: bool) -> None:
        """Hold all runs, with this one, reserved or asked for, to the budget of today; with `leave_out` this one alone.

        Raises:
            BudgetRefused: the budget does not hold it, or was lowered and does not hold it any more.
        """
        with self._writing() as (_, book):
            account = book.accounts.get(run, RunAccount(run, "", now(), tuple(charges)))
            others = () if leave_out else tuple(other for other in book.accounts.values() if other is not account)
            check_budget(self.site, (*others, account), self.lifetime_epsilon, order=book.order, delta=self.delta)

    def settle(self, run: str) -> None:
        """Close a run and give back what it reserved and did not release; closing it again changes nothing.

        Raises:
            Refused: the run was never reserved here.
        """
        with self._writing() as (pen, book):
            if not known_account(book.accounts, run).settled:
                pen.append("settle", run, {"when": now()}, after=book.entries)

    def spent(self) -> LedgerSummary:
        """Add everything up."""
        with self._writing() as (pen, book):
            subjects = summarise(self._accounts(pen, book))
            accounts = tuple(book.accounts.values())
        stands = standing(accounts, order=book.order, delta=self.delta)
        return LedgerSummary(
            site=self.site,
            lifetime_epsilon=self.lifetime_epsilon,
            delta=self.delta,
            order=book.order,
            needed=stands.needed,
            spent=stands.spent,
            left=max(0.0, self.lifetime_epsilon - stands.spent),
            entries=len(book.entries),
            head=book.entries[-1].digest,
            public_key=self.public_key.hex(),
            runs=run_lines(accounts, self.delta),
            by_modality=by_modality(accounts, self.delta),
            subjects=subjects,
        )

    def spent_by(self, pseudonym: bytes) -> SubjectClass:
        """What one subject has spent; one whom no run knows has spent what runs of version 2 cost everybody."""
        with self._writing() as (pen, book):
            accounts = self._accounts(pen, book)
        own = frozenset(root for root, members in accounts.members.items() if pseudonym in members)
        return accounts.summary(own, 1)

    def members(self, run: str, pseudonyms: Callable[[], str]) -> dict[str, frozenset[bytes]] | None:
        """The members of a run's frozen cohorts, by cohort; None where nobody wrote down who takes part.

        `pseudonyms` gives what stands for the key that they will be compared by, where there is somebody to compare.

        Raises:
            Refused: the run was never reserved here.
            LedgerBroken: the cohorts were frozen under another key.
        """
        with self._writing() as (pen, book):
            account = known_account(book.accounts, run)
            if account.cohorts is None:
                return None
            check_key([account], pseudonyms())
            return {name: pen.members(root) for name, root in account.cohorts.items()}

    def entries(self) -> tuple[Entry, ...]:
        """Read all entries, oldest first; the first one is the header."""
        with self.store.writing() as pen:
            return pen.entries()

    def verify(self) -> None:
        """Check numbering, chain, every signature, and that the entries make sense.

        Raises:
            LedgerBroken: names the first entry that is wrong.
        """
        check_chain(entries := self.entries(), self.public_key, every_signature=True)
        run_accounts(entries)

    def close(self) -> None:
        """Let go of the database."""
        self.store.close()
        let_go(self.store, self.public_key)

    def __enter__(self) -> Self:
        """Give the open ledger."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[tuple[Pen, Book]]:
        """Hold the ledger alone with what is in it; the receipt of what is written is durable when this ends."""
        with self.store.writing() as pen:
            book = read_book(self.store, pen, self.public_key)
            if self.receipts is not None:
                self.receipts.check(book.entries)
            yield pen, book
            book = book.with_entries(pen.entries(start=len(book.entries)))
        remember(self.store, book, self.public_key)
        if self.receipts is not None:
            self.receipts.keep(book.entries)

    def _accounts(self, pen: Pen, book: Book) -> Accounts:
        roots = (root for run in book.accounts.values() for root in (run.cohorts or {}).values())
        members = {root: pen.members(root) for root in roots}
        return Accounts(tuple(book.accounts.values()), members, book.order, self.delta)
