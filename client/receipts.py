"""The site's newest receipt of its own ledger, in a file beside it: an older ledger than that is refused."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.ledger_schema import Entry, LedgerBroken
from common.files import write_whole
from common.receipts import Receipt


@dataclass(frozen=True)
class ReceiptBook:
    """Where the receipt lies, and who signs it."""

    path: Path
    site: str
    public_key: bytes
    signer: Callable[[bytes], bytes]

    def check(self, entries: Sequence[Entry]) -> None:
        """Hold the ledger against the newest receipt.

        Raises:
            LedgerBroken: the ledger is older than the receipt, or another one, or the receipt cannot be read.
        """
        if self.path.exists():
            check_receipt(self._read(), entries)
        elif any(entry.kind == "reserve" and '"cohorts":' in entry.body for entry in entries):
            raise LedgerBroken(f"{self.path.name} is gone: restore it, or an older ledger could pass for this one")

    def keep(self, entries: Sequence[Entry]) -> Receipt:
        """Give the receipt of these entries; it is on disk, durably, unless a newer one is there."""
        receipt = Receipt.sign(self.site, len(entries), entries[-1].digest, self.public_key, self.signer)
        handle = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for draft in self.path.parent.glob(f".{self.path.name}.*.draft"):  # of a process that was killed
                draft.unlink()
            if not self.path.exists() or self._read().entries < receipt.entries:
                write_whole(self.path, receipt.to_bytes())
        finally:
            os.close(handle)
        return receipt

    def _read(self) -> Receipt:
        try:
            receipt = Receipt.from_bytes(self.path.read_bytes())
        except (OSError, ValueError) as error:
            raise LedgerBroken(f"{self.path.name} is damaged ({error}): restore it with its ledger") from error
        if receipt.public_key != self.public_key.hex():
            raise LedgerBroken(f"{self.path.name} was signed with another key than this site's")
        return receipt


def check_receipt(receipt: Receipt, entries: Sequence[Entry]) -> None:
    """Hold a ledger against a receipt of its own that someone kept.

    Raises:
        LedgerBroken: the ledger has fewer entries, or another one at that place.
    """
    if len(entries) < receipt.entries:
        raise LedgerBroken(
            f"this ledger has {len(entries)} entries and had {receipt.entries}: it was put back to an older copy;"
            " restore the newest one, nothing is released before"
        )
    if entries[receipt.entries - 1].digest != receipt.head:
        raise LedgerBroken(f"entry {receipt.entries - 1} is not the one of a receipt: the ledger's history was changed")
