"""Numbering, chain, digests and signatures: what holds the entries together, whatever they say."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from common.verify.finding import WHOLE, Finding, is_hex
from common.verify.keys import KEY_BYTES, SIGNATURE_BYTES, is_signed
from common.verify.read import Row

LAYOUT = "fedmosaic ledger 2"
DIGEST_BYTES = 32
BEGINNING = "0" * 64
_TEXTS = ("kind", "run", "body", "previous", "digest", "signature")


@dataclass(frozen=True)
class Entry:
    """One row of the table, and the digest that its content calls for."""

    seq: int
    kind: str
    run: str
    body: str
    previous: str
    digest: str
    signature: str
    expected: str


def canonical(value: object) -> str:
    """Write JSON in the one form that is hashed and signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_entries(rows: Iterable[Row]) -> tuple[tuple[Entry, ...], list[Finding]]:
    """Give every row a number and texts; what has another type is named, and cannot have been signed."""
    entries, found = [], []
    for position, row in enumerate(rows):
        number, *texts = row
        seq = number if isinstance(number, int) else position
        if seq is not number:
            found.append(Finding(seq, f"its number is {number!r}, which is none"))
        odd = [name for name, value in zip(_TEXTS, texts, strict=True) if not isinstance(value, str)]
        if odd:
            found.append(Finding(seq, f"it has no text in {', '.join(odd)}"))
        kind, run, body, previous, digest, signature = (x if isinstance(x, str) else repr(x) for x in texts)
        content = canonical([LAYOUT, seq, kind, run, body, previous]).encode()
        expected = hashlib.sha256(content).hexdigest()
        entries.append(Entry(seq, kind, run, body, previous, digest, signature, expected))
    return tuple(entries), found


def check_chain(entries: Sequence[Entry]) -> Iterator[Finding]:
    """Check that the numbers run from 0 without a gap, that each digest is its content's, and each follows the last.

    An entry follows another if it names the digest that the other shows or the one that its content calls for: where
    these differ, the other entry is named for it.
    """
    yield from _check_numbers(entries)
    before: Entry | None = None
    for entry in entries:
        if entry.digest != entry.expected:
            yield Finding(entry.seq, "it was changed: its content is not what was hashed")
        if entry.seq == 0 and entry.previous != BEGINNING:
            yield Finding(0, "it does not stand at the beginning: it names an entry before it")
        is_next = before is not None and before.seq == entry.seq - 1
        if before is not None and is_next and entry.previous not in (before.digest, before.expected):
            yield Finding(entry.seq, f"it does not follow entry {before.seq}: it names another digest")
        before = entry


def _check_numbers(entries: Sequence[Entry]) -> Iterator[Finding]:
    expected = 0
    for number, times in sorted(Counter(entry.seq for entry in entries).items()):
        if times > 1:
            yield Finding(number, f"it stands here {times} times")
        if number < 0:
            yield Finding(number, "entries are numbered from 0")
        elif number > expected:
            gap = f"entry {expected} is" if number == expected + 1 else f"entries {expected} to {number - 1} are"
            yield Finding(expected, f"{gap} missing: the next one is numbered {number}")
        expected = max(expected, number + 1)
    if not entries:
        yield Finding(0, "the ledger is empty: entry 0, the header, is missing")


def check_signatures(entries: Sequence[Entry], public_key: str | None) -> Iterator[Finding]:
    """Check every signature under the key that the header names (or, if it names none, one known from outside)."""
    if not entries:
        return
    if not is_hex(public_key, KEY_BYTES):
        yield Finding(WHOLE, "no signature could be checked: the header names no key")
        return
    key = bytes.fromhex(str(public_key))
    wrong = [entry for entry in entries if not _is_signed(entry, key)]
    if len(wrong) == len(entries) > 1:
        yield Finding(entries[0].seq, "no entry is signed by the key that the header names")
        return
    for entry in wrong:
        yield Finding(entry.seq, "it is not signed by the key that the header names")


def _is_signed(entry: Entry, key: bytes) -> bool:
    if not is_hex(entry.signature, SIGNATURE_BYTES):
        return False
    signature = bytes.fromhex(entry.signature)
    digests = dict.fromkeys((entry.digest, entry.expected))
    return any(is_signed(key, digest.encode("utf-8", "surrogateescape"), signature) for digest in digests)
