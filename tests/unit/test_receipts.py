"""A ledger that was put back to an older copy is found out, by the receipt beside it or by those that others keep."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from client.ledger import Ledger
from client.ledger_schema import LedgerBroken
from client.receipts import check_receipt
from common.receipts import Receipt, keep_newest, own_receipts, read_receipts
from common.secagg.identity import Identity, new_identity
from common.secagg.roster import Roster, sign_roster
from tests.ledger_bench import LedgerBench, charges_of

KEY = Identity(bytes([7]) * 32)


@dataclass(frozen=True)
class Kept:
    """A ledger with a receipt beside it."""

    bench: LedgerBench

    @property
    def receipt(self) -> Path:
        return self.bench.folder / "ledger.receipt"

    def open(self) -> Ledger:
        identity = self.bench.identity()
        return Ledger.open(
            self.bench.path,
            site="cleveland",
            signer=identity.sign,
            public_key=identity.public_key,
            delta=1e-3,
            lifetime_epsilon=20.0,
            receipt_path=self.receipt,
        )


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(LedgerBench(tmp_path))


def rolled_back(kept: Kept, *, to: int) -> None:
    """Keep a copy of the ledger with one run, go on, and put the copy back; `to` rounds follow after that."""
    with kept.open() as ledger:
        ledger.reserve("run", "hash", charges_of())
    copy = kept.bench.folder / "copy"
    shutil.copyfile(kept.bench.path, copy)
    with kept.open() as ledger:
        ledger.release("run", 1, "task", "training", 1)
        ledger.release("run", 2, "task", "training", 1)
    receipt = kept.receipt.read_bytes()
    kept.receipt.unlink()
    shutil.copyfile(copy, kept.bench.path)
    with kept.open() as ledger:
        for round in range(to):
            ledger.release("run", 10 + round, "task", "training", 1)
    kept.receipt.write_bytes(receipt)


def test_every_entry_has_its_receipt_when_the_call_returns(kept: Kept) -> None:
    with kept.open() as ledger:
        for act in (
            lambda: ledger.reserve("run", "hash", charges_of()),
            lambda: ledger.release("run", 1, "task", "training", 1),
            lambda: ledger.settle("run"),
        ):
            act()
            receipt = Receipt.from_bytes(kept.receipt.read_bytes())
            assert (receipt.entries, receipt.head) == (ledger.spent().entries, ledger.spent().head)
    assert kept.receipt.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("to", "complaint"), [(0, "put back to an older copy"), (2, "not the one of a receipt")])
def test_a_rolled_back_ledger_is_refused(kept: Kept, to: int, complaint: str) -> None:
    rolled_back(kept, to=to)
    with pytest.raises(LedgerBroken, match=complaint):
        kept.open()


def test_a_ledger_that_is_ahead_of_its_receipt_opens_and_brings_it_up_to_date(kept: Kept) -> None:
    with kept.open() as ledger:
        ledger.reserve("run", "hash", charges_of())
    older = kept.receipt.read_bytes()
    with kept.open() as ledger:
        ledger.release("run", 1, "task", "training", 1)
    kept.receipt.write_bytes(older)  # killed between the commit and the receipt
    with kept.open() as ledger:
        assert ledger.release("run", 1, "task", "training", 1) is False
    assert Receipt.from_bytes(kept.receipt.read_bytes()).entries == 3


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda body: body[:-9],
    "more entries": lambda body: body.replace(b'"entries":2', b'"entries":3'),
    "no JSON": lambda _: b"\xff",
    "deep": lambda _: b"[" * 1999,
    "a list": lambda _: b"[]",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_receipt_is_refused_by_name(kept: Kept, name: str) -> None:
    with kept.open() as ledger:
        ledger.reserve("run", "hash", charges_of())
    kept.receipt.write_bytes(DAMAGES[name](kept.receipt.read_bytes()))
    with pytest.raises(LedgerBroken, match=r"ledger\.receipt is damaged"):
        kept.open()


def test_a_foreign_receipt_locks_nobody_out(kept: Kept) -> None:
    with kept.open() as ledger:
        ledger.spent()
    own = Receipt.from_bytes(kept.receipt.read_bytes())
    stranger = new_identity()
    forged = Receipt.sign("cleveland", 99, "0" * 64, stranger.public_key, stranger.sign).to_bytes()
    as_ours = replace(own, entries=99).to_bytes()
    elsewhere = Receipt.sign("hungary", 99, "0" * 64, kept.bench.identity().public_key, kept.bench.identity().sign)
    bodies = [forged, as_ours, elsewhere.to_bytes(), b"", b"{}", own.to_bytes()]
    assert own_receipts(bodies, site="cleveland", public_key=kept.bench.identity().public_key) == (own,)
    with kept.open() as ledger:
        check_receipt(own, ledger.entries())


def roster_of(**keys: Identity) -> Roster:
    return sign_roster({name: key.public_key for name, key in keys.items()}, new_identity())


def receipt_of(site: str, entries: int, key: Identity) -> bytes:
    return Receipt.sign(site, entries, f"{entries:064x}", key.public_key, key.sign).to_bytes()


def test_the_newest_receipt_of_each_site_is_kept_and_no_forged_one(tmp_path: Path) -> None:
    path, one, two = tmp_path / "receipts.json", KEY, new_identity()
    roster = roster_of(a=one, b=two)
    keep_newest(path, [receipt_of("a", 3, one), receipt_of("b", 9, two)], roster)
    keep_newest(path, [receipt_of("a", 5, one), receipt_of("b", 7, two), receipt_of("a", 50, two), b"x"], roster)
    keep_newest(path, [receipt_of("stranger", 5, one)], roster)
    assert [(receipt.site, receipt.entries) for receipt in read_receipts(path)] == [("a", 5), ("b", 9)]


def test_a_damaged_list_of_receipts_keeps_what_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "receipts.json"
    other = new_identity()
    keep_newest(path, [receipt_of("a", 3, KEY), receipt_of("b", 4, other)], roster_of(a=KEY, b=other))
    plain = json.loads(path.read_text())
    plain[0]["entries"] = 4
    path.write_text(json.dumps([*plain, 7, None]))
    assert [receipt.site for receipt in read_receipts(path)] == ["b"]
    path.write_text("[")
    assert read_receipts(path) == ()


def test_lists_that_are_no_lists_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "receipts.json"
    for body in ("5", "null", "[" * 5000):
        path.write_text(body)
        assert read_receipts(path) == ()


def test_writers_at_once_lose_no_receipt(tmp_path: Path) -> None:
    path, keys = tmp_path / "receipts.json", {f"site-{number}": new_identity() for number in range(6)}
    roster = sign_roster({name: key.public_key for name, key in keys.items()}, new_identity())
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=keep_newest, args=(path, [receipt_of(name, 3, key)], roster))
        for name, key in keys.items()
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [receipt.site for receipt in read_receipts(path)] == sorted(keys)
