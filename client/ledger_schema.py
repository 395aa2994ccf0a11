"""What a ledger's file holds: numbered entries, each chained to the one before it and signed by the institution.

An independent reader needs this page only. Table `entries`; columns seq (0, 1, 2, ...), kind, run, body, previous,
digest, signature. `body` is canonical JSON (sorted keys, no spaces). `previous` is the digest of the entry before, 64
zeros for entry 0. `digest` is the SHA-256, in hex, of the canonical JSON list [FORMAT, seq, kind, run, body, previous].
`signature` is the Ed25519 signature, in hex, of the ASCII digest, by the key that the header names.

kind     run   body
header   ""    site, delta, orders, order (the filter's), adjacency, unit, sampling, public_key, when
reserve  name  plan (hash), charges (list of cohort, purpose, mechanism, noise_multiplier, sampling_rate, count), when
release  name  round, stage, purpose, count, when
settle   name  when
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, Integer, MetaData, String, Table, Text

from client.policy import Refused
from common.privacy.events import Charge, Event
from common.secagg.identity import verify

FORMAT = "fedmosaic ledger 2"
NO_DIGEST = "0" * 64

metadata = MetaData()
entries_table = Table(
    "entries",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("run", String(200), nullable=False),
    Column("body", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("signature", String(128), nullable=False),
)

APPEND_ONLY = tuple(
    f"CREATE TRIGGER IF NOT EXISTS entries_no_{verb.lower()} BEFORE {verb} ON entries"
    " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    for verb in ("UPDATE", "DELETE")
)


class LedgerBroken(Refused):
    """The ledger is not what this institution wrote, or not for this use: nothing is released until someone looks."""

    def __init__(self, reason: str) -> None:
        """Keep the reason under the code `ledger`."""
        super().__init__("ledger", reason)
        self.args = (reason,)  # so that it can be pickled


@dataclass(frozen=True)
class Entry:
    """One line of a ledger."""

    seq: int
    kind: str
    run: str
    body: str
    previous: str
    digest: str
    signature: str

    def facts(self) -> dict[str, object]:
        """Read the body."""
        return dict(json.loads(self.body))

    def expected_digest(self) -> str:
        """Compute the digest that the other columns call for."""
        return digest_of(self.seq, self.kind, self.run, self.body, self.previous)


def digest_of(seq: int, kind: str, run: str, body: str, previous: str) -> str:
    """Chain an entry to the one before it."""
    return hashlib.sha256(canonical([FORMAT, seq, kind, run, body, previous]).encode()).hexdigest()


def canonical(value: object) -> str:
    """Write JSON in the one form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def check_chain(entries: Sequence[Entry], public_key: bytes, *, every_signature: bool) -> None:
    """Check numbering, chain and signatures; the newest signature alone already vouches for the whole chain.

    Raises:
        LedgerBroken: names the first entry that is wrong.
    """
    previous = NO_DIGEST
    for number, entry in enumerate(entries):
        if entry.seq != number:
            raise LedgerBroken(f"entry {number} is missing: the next one is numbered {entry.seq}")
        if entry.previous != previous:
            raise LedgerBroken(f"entry {number} does not follow entry {number - 1}")
        if entry.digest != entry.expected_digest():
            raise LedgerBroken(f"entry {number} was changed: its content is not what was hashed")
        previous = entry.digest
    for entry in entries if every_signature else entries[-1:]:
        try:
            verify(public_key, entry.digest.encode(), bytes.fromhex(entry.signature))
        except ValueError as error:
            raise LedgerBroken(f"entry {entry.seq} is not signed by this institution's key") from error


def charge_to_facts(charge: Charge) -> dict[str, object]:
    """Write a charge with the exact parameters of its event."""
    event = charge.event
    return {
        "cohort": charge.cohort,
        "purpose": charge.purpose,
        "mechanism": event.mechanism,
        "noise_multiplier": event.noise_multiplier,
        "sampling_rate": event.sampling_rate,
        "count": event.count,
    }


def charge_from_facts(facts: Mapping[str, object]) -> Charge:
    """Read a charge back, exactly.

    Raises:
        LedgerBroken: the facts are no charge.
    """
    try:
        cohort, purpose = str(facts["cohort"]), str(facts["purpose"])
        event = Event(facts["mechanism"], facts["noise_multiplier"], facts["sampling_rate"], facts["count"])  # type: ignore[arg-type]  # Event checks
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerBroken(f"a charge cannot be read: {error}") from error
    return Charge(cohort, purpose, event)
