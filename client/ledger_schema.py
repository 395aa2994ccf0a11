"""What a ledger's database holds: numbered entries, each chained to the one before it and signed by the institution.

docs/ledger.md is the specification, written for an independent reader; this file must say the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, Integer, MetaData, String, Table, Text

from client.policy import Refused
from common.privacy.events import Charge, Event
from common.receipts import canonical
from common.secagg.identity import verify

FORMAT = "fedmosaic ledger 2"  # the layout of the hashed list, which has not changed since
VERSION = 3
NO_DIGEST = "0" * 64
UNIT, ADJACENCY, SAMPLING = "subject", "zero-out (add or remove)", "poisson"

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

cohorts_table = Table(
    "cohorts",
    metadata,
    Column("root", String(64), primary_key=True),
    Column("salt", String(64), nullable=False),
    Column("size", Integer, nullable=False),
)
members_table = Table(
    "members",
    metadata,
    Column("root", String(64), primary_key=True),
    Column("pseudonym", String(64), primary_key=True),
)
version_table = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))
APPEND_ONLY = (entries_table.name, cohorts_table.name, members_table.name)


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


def check_chain(
    entries: Sequence[Entry], public_key: bytes, *, every_signature: bool, after: Sequence[Entry] = ()
) -> None:
    """Check numbering, chain and signatures; the newest signature alone already vouches for the whole chain.

    `after` holds the entry before the first of `entries`, where there is one.

    Raises:
        LedgerBroken: names the first entry that is wrong.
    """
    previous, first = (after[-1].digest, after[-1].seq + 1) if after else (NO_DIGEST, 0)
    for number, entry in enumerate(entries, start=first):
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
        "modalities": list(charge.modalities),
        "blocks": list(charge.blocks),
        "sampling": SAMPLING if event.sampling_rate < 1 else "none",
        "adjacency": ADJACENCY,
    }


def charge_from_facts(facts: Mapping[str, object]) -> Charge:
    """Read a charge back, exactly; version 2 did not say what it reads and moves.

    Raises:
        LedgerBroken: the facts are no charge, or of another adjacency than this ledger's.
    """
    try:
        cohort, purpose = str(facts["cohort"]), str(facts["purpose"])
        event = Event(facts["mechanism"], facts["noise_multiplier"], facts["sampling_rate"], facts["count"])  # type: ignore[arg-type]  # Event checks
        modalities, blocks = (_names(facts.get(key, [])) for key in ("modalities", "blocks"))
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerBroken(f"a charge cannot be read: {error}") from error
    if facts.get("adjacency", ADJACENCY) != ADJACENCY:
        raise LedgerBroken(f"a charge is for neighbours by {facts['adjacency']}, the ledger for {ADJACENCY}")
    return Charge(cohort, purpose, event, modalities, blocks)


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"a list of names was expected, got {value!r}")
    return tuple(value)
