"""Receipts: how far an institution's ledger had come when something left, signed, so that a rollback is seen.

The site keeps its newest one beside the ledger. The server and the other sites of a run keep those that were sent, and
show them again when the next run begins: whoever puts the whole state folder back to an older copy is found out too.
A receipt says nothing that depends on a record: the number of entries follows from what was asked, and the digest
of the newest hides what it covers behind the salts of the cohorts.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from common.files import write_whole
from common.secagg.identity import verify
from common.secagg.roster import Roster

_LAYOUT = "fedmosaic receipt 1"
_LARGEST_BYTES = 2000


@dataclass(frozen=True)
class Receipt:
    """`site`'s ledger had `entries` entries, and the newest had the digest `head`; keys and signature in hex."""

    site: str
    entries: int
    head: str
    public_key: str
    signature: str

    @staticmethod
    def sign(site: str, entries: int, head: str, public_key: bytes, signer: Callable[[bytes], bytes]) -> Receipt:
        """Give a receipt."""
        key = public_key.hex()
        return Receipt(site, entries, head, key, signer(_signed(site, entries, head, key)).hex())

    @staticmethod
    def from_bytes(body: bytes) -> Receipt:
        """Read a receipt and check that its own key signed it.

        Raises:
            ValueError: it is no receipt, or was changed.
        """
        try:
            plain = json.loads(body) if len(body) <= _LARGEST_BYTES else None
        except RecursionError as error:
            raise ValueError("this is no receipt") from error
        kinds = {"site": str, "entries": int, "head": str, "public_key": str, "signature": str}
        if not isinstance(plain, dict) or {name: type(value) for name, value in plain.items()} != kinds:
            raise ValueError("this is no receipt")
        receipt = Receipt(**plain)
        signed = _signed(receipt.site, receipt.entries, receipt.head, receipt.public_key)
        verify(bytes.fromhex(receipt.public_key), signed, bytes.fromhex(receipt.signature))
        return receipt

    def to_bytes(self) -> bytes:
        """Write the receipt as canonical JSON."""
        return canonical(asdict(self)).encode()


def canonical(value: object) -> str:
    """Write JSON in the one form that is hashed and signed: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_receipts(path: Path) -> tuple[Receipt, ...]:
    """Read a list of receipts; what is damaged is left out, since a receipt can only ever add to what is known."""
    found = []
    with suppress(ValueError, TypeError, RecursionError, FileNotFoundError):
        for plain in json.loads(path.read_bytes()):
            with suppress(ValueError):
                found.append(Receipt.from_bytes(canonical(plain).encode()))
    return tuple(found)


def keep_newest(path: Path, bodies: Iterable[bytes], roster: Roster) -> None:
    """Keep the newest receipt of each institution of a roster in a file; what its key did not sign is passed over."""
    handle = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _keep_newest(path, bodies, roster)
    finally:
        os.close(handle)


def _keep_newest(path: Path, bodies: Iterable[bytes], roster: Roster) -> None:
    keys, known = roster.keys, {receipt.site: receipt for receipt in read_receipts(path)}
    before = dict(known)
    for body in bodies:
        with suppress(ValueError):
            receipt = Receipt.from_bytes(body)
            is_own = keys.get(receipt.site, b"").hex() == receipt.public_key
            if is_own and (receipt.site not in known or known[receipt.site].entries < receipt.entries):
                known[receipt.site] = receipt
    if known != before:
        write_whole(path, canonical([asdict(known[site]) for site in sorted(known)]).encode())


def own_receipts(bodies: Sequence[bytes], *, site: str, public_key: bytes) -> tuple[Receipt, ...]:
    """Pick the receipts that one site signed; anything else proves nothing about it, and is passed over."""
    found = []
    for body in bodies:
        with suppress(ValueError):
            receipt = Receipt.from_bytes(body)
            if receipt.public_key == public_key.hex() and receipt.site == site:
                found.append(receipt)
    return tuple(found)


def _signed(site: str, entries: int, head: str, public_key: str) -> bytes:
    return canonical([_LAYOUT, site, entries, head, public_key]).encode()
