"""What ties a ledger to the world outside it: receipts that left the site, and the key that others know it by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.verify.chain import DIGEST_BYTES, Entry, canonical
from common.verify.facts import Header
from common.verify.finding import WHOLE, Finding, is_hex, shown
from common.verify.keys import KEY_BYTES, SIGNATURE_BYTES, is_signed, roster_keys
from common.verify.read import LedgerUnreadable

RECEIPT = "fedmosaic receipt 1"
_BYTES: Final = {"head": DIGEST_BYTES, "public_key": KEY_BYTES, "signature": SIGNATURE_BYTES}


@dataclass(frozen=True)
class Receipt:
    """How far a ledger had come when something left the site."""

    source: str
    site: str
    entries: int
    head: str
    public_key: str
    signature: str

    def is_genuine(self) -> bool:
        """Whether the key that it names signed it."""
        signed = canonical([RECEIPT, self.site, self.entries, self.head, self.public_key])
        return is_signed(bytes.fromhex(self.public_key), signed.encode(), bytes.fromhex(self.signature))


@dataclass(frozen=True)
class Anchors:
    """What is known from outside.

    Attributes:
        public_key: the key that the ledger must be signed with, in hex.
        roster: keys by institution, in hex.
    """

    receipts: tuple[Receipt, ...] = ()
    public_key: str | None = None
    roster: Mapping[str, str] | None = None

    def known_key(self, site: str | None) -> str | None:
        """Give a key of this site that is known from outside, if there is one."""
        genuine = [receipt.public_key for receipt in self.receipts if receipt.is_genuine()]
        listed = (self.roster or {}).get(site or "")
        return self.public_key or listed or (genuine[0] if genuine else None)


def read_anchors(receipts: Sequence[Path], public_key: str | None, roster: Path | None) -> Anchors:
    """Read what the options name.

    Raises:
        LedgerUnreadable: a file is missing or holds no receipt or roster, or the key is no key.
    """
    if public_key is not None and not is_hex(public_key.lower(), KEY_BYTES):
        raise LedgerUnreadable(f"--public-key must be {2 * KEY_BYTES} hex digits, got {shown(public_key)}")
    found = tuple(receipt for path in receipts for receipt in _read_receipts(path))
    key = None if public_key is None else public_key.lower()
    return Anchors(found, key, None if roster is None else roster_keys(roster))


def check_anchors(anchors: Anchors, header: Header | None, entries: Sequence[Entry]) -> Iterator[Finding]:
    """Hold the ledger against all that is known from outside."""
    by_number = {entry.seq: entry for entry in entries}
    # A run's list has the receipts of all its sites: where this one's is among them, the others say nothing of it.
    own = [receipt for receipt in anchors.receipts if header is not None and receipt.site == header.site]
    for receipt in own or anchors.receipts:
        yield from _check_receipt(receipt, header, by_number)
    if header is None:
        return
    another = f"the header names the key {header.public_key[:16]}..., and another one was expected"
    if anchors.public_key not in (None, header.public_key):
        yield Finding(0, f"{another} (--public-key): the ledger was signed anew, or is another institution's")
    if anchors.roster is not None and anchors.roster.get(header.site) != header.public_key:
        reason = "the roster has another one" if header.site in anchors.roster else "the roster does not list the site"
        yield Finding(0, f"the key {header.public_key[:16]}... is not that of {shown(header.site)}: {reason}")


def anchor_sentence(anchors: Anchors, header: Header | None, entries: Sequence[Entry]) -> str:
    """Say plainly what is tied to the world outside, and what is not."""
    if header is None:
        return "The header cannot be read, so that nothing of this ledger can be tied to anything outside it."
    by_number, length = {entry.seq: entry for entry in entries}, len(entries)
    fitting = [each.entries for each in anchors.receipts if not any(_check_receipt(each, header, by_number))]
    if fitting:
        vouched = max(fitting)
        later = f" What was appended since (entries {vouched} to {length - 1}) could still be dropped unseen."
        return f"A receipt vouches for the first {vouched} entries." + (later if vouched < length else "")
    known = [key for key in (anchors.public_key, (anchors.roster or {}).get(header.site)) if key is not None]
    if known and set(known) == {header.public_key}:
        return (
            "The key is known from outside: only its holder can have signed these entries. No receipt vouches for them:"
            " an older copy of this ledger, or one that its own institution wrote anew, would pass as well."
        )
    if known or anchors.roster is not None:
        return "What is known from outside is not this ledger's key: nothing vouches for it."
    return (
        "Nothing from outside anchors this ledger: whoever holds the file could have written all of it anew with a key"
        " of their own, or put an older copy in its place. Give --receipt, and --public-key or --roster."
    )


def _check_receipt(receipt: Receipt, header: Header | None, entries: Mapping[int, Entry]) -> Iterator[Finding]:
    name = f"receipt {shown(receipt.source)}"
    if not receipt.is_genuine():
        yield Finding(WHOLE, f"{name} is forged: the key that it names did not sign it")
        return
    if header is not None and receipt.site != header.site:
        yield Finding(WHOLE, f"{name} is of site {shown(receipt.site)}, and the ledger is of {shown(header.site)}")
        return
    if header is not None and receipt.public_key != header.public_key:
        yield Finding(0, f"the header names another key than {name}: the ledger was signed anew with another key")
    length = max(entries, default=-1) + 1
    last = receipt.entries - 1
    if receipt.entries > length:
        seen = f"{name} saw {receipt.entries} entries, and there are {length}"
        yield Finding(length, f"it is missing: {seen}; the ledger was rolled back")
    elif last in entries and entries[last].expected != receipt.head:
        yield Finding(last, f"it is not the one that {name} saw: history up to here was replaced")


def _read_receipts(path: Path) -> tuple[Receipt, ...]:
    try:
        values: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LedgerUnreadable(f"{path} cannot be read as a receipt ({error}): give a receipt's JSON file") from error
    parts = values if isinstance(values, list) else [values]
    names = [str(path) if len(parts) == 1 else f"{path} (number {place})" for place in range(1, len(parts) + 1)]
    return tuple(_receipt(name, part) for name, part in zip(names, parts, strict=True))


def _receipt(source: str, values: object) -> Receipt:
    fields = {"site", "entries", *_BYTES}
    if not isinstance(values, dict) or set(values) != fields:
        raise LedgerUnreadable(f"{source} is no receipt: one has exactly {', '.join(sorted(fields))}")
    entries, site = values["entries"], values["site"]
    if not isinstance(entries, int) or isinstance(entries, bool) or entries < 1 or not isinstance(site, str):
        raise LedgerUnreadable(f"{source} is no receipt: site must be text and entries a whole number of at least 1")
    for name, size in _BYTES.items():
        if not is_hex(values[name], size):
            raise LedgerUnreadable(f"{source} is no receipt: {name} must be {2 * size} lower-case hex digits")
    return Receipt(source, site, entries, str(values["head"]), str(values["public_key"]), str(values["signature"]))
