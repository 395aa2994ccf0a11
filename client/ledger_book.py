"""What a ledger's database says, read and checked: its entries and what they add up to.

Reading ten thousand entries takes a tenth of a second, and every charge needs all of them. So a process remembers what
it has read and checked of a file, for as long as nobody else has touched the file; a new process reads it all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from client.ledger_account import RunAccount, run_accounts
from client.ledger_schema import ADJACENCY, SAMPLING, UNIT, VERSION, Entry, LedgerBroken, check_chain
from client.ledger_store import Pen, Store
from common.privacy.renyi import ORDERS

_FOR_EVER = {"orders": list(ORDERS), "adjacency": ADJACENCY, "unit": UNIT, "sampling": SAMPLING}
_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Book:
    """A ledger's entries, oldest first, and the accounts of its runs; both checked, neither to be changed."""

    entries: tuple[Entry, ...] = ()
    accounts: Mapping[str, RunAccount] = field(default_factory=dict)

    @property
    def order(self) -> float:
        """The Renyi order that this ledger's filter works at, as its header says.

        Raises:
            LedgerBroken: it is none of the orders.
        """
        order = self.entries[0].facts().get("order")
        if not isinstance(order, int | float) or order not in ORDERS:
            raise LedgerBroken(f"the ledger's filter works at order {order}, which is none of its orders")
        return order

    def with_entries(self, new: tuple[Entry, ...]) -> Book:
        """Add entries that follow the ones that are here."""
        return Book(self.entries + new, run_accounts(new, self.accounts)) if new else self


# By file and key: how the file looked when this process last let go of it, and what was in it. Nothing but a cache.
_known: dict[tuple[Path, bytes], tuple[_Stamp, Book]] = {}


def read_book(store: Store, pen: Pen, public_key: bytes) -> Book:
    """Read the ledger inside a transaction, and check chain and newest signature of what is new.

    Raises:
        LedgerBroken: names the first entry that is wrong.
    """
    book = _remembered(store, public_key)
    if book.entries and pen.digest_at(len(book.entries) - 1) != book.entries[-1].digest:
        book = Book()
    new = pen.entries(start=len(book.entries))
    if new and new[0].kind == "header" and not book.entries and '"order":' not in new[0].body:
        raise LedgerBroken("this ledger is of an earlier release: its filter's order was chosen by the first run")
    check_chain(new, public_key, every_signature=False, after=book.entries[-1:])
    return book.with_entries(new)


def remember(store: Store, book: Book, public_key: bytes) -> None:
    """Keep what was read until somebody else writes."""
    if store.path is not None:
        _known[store.path, public_key] = (_stamp(store.path), book)


def open_book(store: Store, pen: Pen, public_key: bytes, *, is_made: bool) -> Book:
    """Read a ledger for the first time, and bring its tables to today's version in the same transaction.

    Raises:
        LedgerBroken: the ledger was written by a newer release, is broken, or is empty and was not (`is_made`).
    """
    version = pen.version()
    if version > VERSION:
        raise LedgerBroken(f"{store.name} has version {version}, this release writes {VERSION}: use the newer release")
    book = read_book(store, pen, public_key) if version else Book()
    if not book.entries and is_made:
        raise LedgerBroken("this ledger is empty: restore it; a new one would forget what was spent")
    if version == VERSION:
        return book
    pen.make_tables()
    if not book.entries:
        return book
    return book.with_entries(
        (pen.append("migrate", "", {"from": version, "to": VERSION, "when": now()}, after=book.entries),)
    )


def begin_book(pen: Pen, header: Mapping[str, object], order: float) -> Book:
    """Write the header of a new ledger.

    The filter's order is the institution's choice, made before anybody asks for anything, and kept for ever.
    """
    facts = {**header, **_FOR_EVER, "schema": VERSION, "order": order, "when": now()}
    return Book().with_entries((pen.append("header", "", facts, after=()),))


def check_header(book: Book, header: Mapping[str, object]) -> None:
    """Hold a ledger's header against what it must say.

    Raises:
        LedgerBroken: it says something else.
    """
    written = book.entries[0].facts()
    for name, value in {**header, **_FOR_EVER, "order": book.order}.items():
        if written.get(name) != value:
            raise LedgerBroken(f"the ledger's {name} is {written.get(name)} for ever, not {value}")


def let_go(store: Store, public_key: bytes) -> None:
    """Note how the file looks once it is closed: closing it moves the write-ahead log into it."""
    if store.path is not None and (store.path, public_key) in _known:
        remember(store, _known[store.path, public_key][1], public_key)


def now() -> str:
    """The UTC time for an entry. Nothing that is allowed or refused depends on a clock."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _remembered(store: Store, public_key: bytes) -> Book:
    if store.path is None or (store.path, public_key) not in _known:
        return Book()
    stamp, book = _known[store.path, public_key]
    return book if stamp == _stamp(store.path) else Book()


def _stamp(path: Path) -> _Stamp:
    """What changes whenever anybody writes to the file: time, size and number of the file and its write-ahead log."""
    beside = (path, path.with_name(f"{path.name}-wal"))
    facts = [place.stat() for place in beside if place.exists()]
    # Opening a ledger makes an empty log, which says nothing.
    return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in facts if one.st_size)
