"""Ledgers of version 3 for the tests of common/verify, by a small writer of their own, made from docs/ledger.md."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.policy import Policy, write_policy
from common.verify.anchors import Anchors
from common.verify.read import read_ledger
from common.verify.verdict import Budget, Verdict, verify
from tests.ledger_bench import LedgerBench, charges_of

ORDERS = [1.5, 2, 2.5, 4, 8, 16, 64]
ORDER, DELTA = 4, 1e-3
NO_ANCHORS = Anchors()
TABLES = """
CREATE TABLE entries (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, run TEXT NOT NULL, body TEXT NOT NULL,
    previous TEXT NOT NULL, digest TEXT NOT NULL, signature TEXT NOT NULL);
CREATE TABLE cohorts (root TEXT PRIMARY KEY, salt TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE members (root TEXT NOT NULL, pseudonym TEXT NOT NULL, PRIMARY KEY (root, pseudonym));
CREATE TABLE schema_version (version INTEGER NOT NULL);
"""
TRIGGERS = {
    f"{table}_no_{verb.lower()}": f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}"
    " BEGIN SELECT RAISE(ABORT, 'append-only'); END"
    for table in ("entries", "cohorts", "members", "schema_version")
    for verb in ("UPDATE", "DELETE")
}
Facts = dict[str, object]
Row = tuple[int, str, str, str, str, str, str]


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def pseudonym(name: str) -> str:
    return sha(name.encode()).hex()


def naive_root(salt: str, pseudonyms: Sequence[str]) -> str:
    """The Merkle root by recursion: the left part of a tree is the largest power of two below its size."""
    raw = bytes.fromhex(salt)

    def node(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        half = 1 << (len(leaves) - 1).bit_length() - 1
        return sha(b"\x01", node(leaves[:half]), node(leaves[half:]))

    leaves = [sha(b"\x00", raw, bytes.fromhex(member)) for member in sorted(pseudonyms)]
    return (node(leaves) if leaves else sha(b"\x02", raw)).hex()


@dataclass
class Scribe:
    """Writes what it is told, right or wrong, chained and signed."""

    site: str = "cleveland"
    seed: bytes = b"k" * 32
    rows: list[Row] = field(default_factory=list)
    cohorts: list[tuple[str, str, int]] = field(default_factory=list)
    members: list[tuple[str, str]] = field(default_factory=list)
    versions: list[int] = field(default_factory=lambda: [3])
    minute: int = 0

    @property
    def key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def public_key(self) -> str:
        return self.key.public_key().public_bytes_raw().hex()

    def when(self) -> str:
        self.minute += 1
        return (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=self.minute)).isoformat()

    def header(self, **changed: object) -> Facts:
        return {
            "site": self.site,
            "delta": DELTA,
            "orders": ORDERS,
            "order": ORDER,
            "adjacency": "zero-out (add or remove)",
            "unit": "subject",
            "sampling": "poisson",
            "public_key": self.public_key,
            "schema": 3,
            "when": self.when(),
        } | changed

    def append(self, kind: str, run: str, facts: Facts) -> Row:
        return self.append_body(kind, run, canonical(facts))

    def append_body(self, kind: str, run: str, body: str) -> Row:
        seq, previous = len(self.rows), self.rows[-1][5] if self.rows else "0" * 64
        digest = sha(canonical(["fedmosaic ledger 2", seq, kind, run, body, previous]).encode()).hex()
        row = (seq, kind, run, body, previous, digest, self.key.sign(digest.encode()).hex())
        self.rows.append(row)
        return row

    def cohort(self, names: Sequence[str], salt: str | None = None) -> str:
        salt = salt or sha(b"salt", str(len(self.cohorts)).encode()).hex()
        pseudonyms = [pseudonym(name) for name in names]
        root = naive_root(salt, pseudonyms)
        self.cohorts.append((root, salt, len(names)))
        self.members += [(root, each) for each in pseudonyms]
        return root

    def reserve(self, run: str, charges: Sequence[Facts], cohorts: dict[str, str], **changed: object) -> Row:
        facts: Facts = {"plan": "ab" * 32, "charges": list(charges), "cohorts": cohorts, "bundle": "cd" * 32}
        facts["pseudonyms"] = "ef" * 32
        return self.append("reserve", run, facts | {"when": self.when()} | changed)

    def release(self, run: str, round: int, purpose: str = "training", count: int = 1, **changed: object) -> Row:
        facts: Facts = {"round": round, "stage": "task", "purpose": purpose, "count": count, "request": "ef" * 32}
        return self.append("release", run, facts | {"when": self.when()} | changed)

    def settle(self, run: str) -> Row:
        return self.append("settle", run, {"when": self.when()})

    def receipt(self, entries: int | None = None, **changed: object) -> Facts:
        entries = len(self.rows) if entries is None else entries
        head, site = self.rows[entries - 1][5], changed.get("site", self.site)
        signed = canonical(["fedmosaic receipt 1", site, entries, head, self.public_key])
        signature = self.key.sign(signed.encode()).hex()
        facts: Facts = {"site": site, "entries": entries, "head": head, "public_key": self.public_key}
        return facts | {"signature": signature} | changed

    def write(self, path: Path) -> Path:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(TABLES)
            connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", self.rows)
            connection.executemany("INSERT INTO cohorts VALUES (?, ?, ?)", self.cohorts)
            connection.executemany("INSERT INTO members VALUES (?, ?)", self.members)
            connection.executemany("INSERT INTO schema_version VALUES (?)", [(each,) for each in self.versions])
            if not self.versions:  # version 2 had one table
                connection.executescript("DROP TABLE cohorts; DROP TABLE members; DROP TABLE schema_version")
            for trigger in TRIGGERS.values():
                if self.versions or trigger.startswith("CREATE TRIGGER entries"):
                    connection.execute(trigger)
            connection.commit()
        return path

    def signed_anew(self, seed: bytes) -> Scribe:
        """The same story by another key, which its header then names."""
        scribe = replace(self, seed=seed, rows=[])
        for _, kind, run, body, *_ in self.rows:
            facts = json.loads(body)
            scribe.append(kind, run, facts | ({"public_key": scribe.public_key} if kind == "header" else {}))
        return scribe


def charge(purpose: str, cohort: str, **changed: object) -> Facts:
    sampled = changed.get("sampling_rate", 1.0) != 1.0
    return {
        "cohort": cohort,
        "purpose": purpose,
        "mechanism": "gaussian",
        "noise_multiplier": 5.0,
        "sampling_rate": 1.0,
        "count": 10,
        "modalities": ["ecg"],
        "blocks": ["trunk"],
        "sampling": "poisson" if sampled else "none",
        "adjacency": "zero-out (add or remove)",
    } | changed


TABLE: Facts = {"mechanism": "discrete_gaussian", "noise_multiplier": 3.0, "count": 1, "blocks": []}


def example() -> Scribe:
    """Two runs: one settled after two of ten steps, one open; ada and bob train in both, eve only in the second."""
    scribe = Scribe()
    scribe.append("header", "", scribe.header())
    for run, train in (("run-1", ["ada", "bob", "cyd"]), ("run-2", ["ada", "bob", "eve", "fay"])):
        roots = {"train": scribe.cohort(train), "test": scribe.cohort(["gus", "hal"])}
        training = charge("training", "train", sampling_rate=0.25, modalities=["ecg", "labs"])
        scribe.reserve(run, [training, charge("evaluation", "test", **TABLE)], roots)
        scribe.release(run, 1)
        scribe.release(run, 2)
        if run == "run-1":
            scribe.settle(run)
    return scribe


def old_example() -> Scribe:
    """A ledger of version 2: header, a settled run of two releases, an open run of one."""
    scribe = Scribe(versions=[])
    header = scribe.header()
    del header["schema"]
    scribe.append("header", "", header)
    known = ("cohort", "purpose", "mechanism", "noise_multiplier", "sampling_rate", "count")
    old = {name: value for name, value in charge("training", "train").items() if name in known}
    for run, rounds in (("run-1", 2), ("run-2", 1)):
        scribe.append("reserve", run, {"plan": "hash", "charges": [old], "when": scribe.when()})
        for number in range(1, rounds + 1):
            facts: Facts = {"round": number, "stage": "task", "purpose": "training", "count": 1}
            scribe.append("release", run, facts | {"when": scribe.when()})
        if rounds == 2:
            scribe.settle(run)
    return scribe


def real_ledger(folder: Path) -> LedgerBench:
    """A ledger by the institution's own code: header, reservation, three releases, settlement, and an open run."""
    bench = LedgerBench(folder)
    with bench.open() as ledger:
        ledger.reserve("run-1", "ab" * 32, charges_of())
        ledger.release("run-1", 1, "task", "training", 1)
        ledger.release("run-1", 2, "task", "training", 2)
        ledger.release("run-1", 2, "task", "evaluation", 1)
        ledger.settle("run-1")
        ledger.reserve("run-2", "ab" * 32, charges_of(12.0))
    return bench


def edited(path: Path, *statements: str) -> Path:
    """Change a ledger behind its triggers' back, and put the triggers back as they were."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        triggers = connection.execute(found).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in triggers:
            connection.execute(sql)
    return path


def without_keys(path: Path, table: str) -> Path:
    """Make a table again without its keys, so that rows may stand in it twice."""
    copy = f"CREATE TABLE free AS SELECT * FROM {table}"  # noqa: S608
    return edited(path, copy, f"DROP TABLE {table}", f"ALTER TABLE free RENAME TO {table}")


def judged(path: Path, anchors: Anchors = NO_ANCHORS, budget: float | None = None) -> Verdict:
    return verify(read_ledger(str(path)), anchors, None if budget is None else Budget(budget, None))


def complaints(verdict: Verdict) -> dict[int, list[str]]:
    """The problems by entry; -1 is the ledger."""
    found: dict[int, list[str]] = {}
    for problem in verdict.problems:
        found.setdefault(problem.entry, []).append(problem.text)
    return found


def policy_file(path: Path, epsilon: float, delta: float) -> Path:
    write_policy(path, Policy(lifetime_epsilon=epsilon, lifetime_delta=delta))
    return path
