"""Who pays for a run, without names: keyed pseudonyms of a folder's subjects, and a commitment to each cohort of them.

A cohort is frozen when a run is reserved. Renaming the folder changes no pseudonym, so it resets nothing; who is new
starts at zero; who has left the folder keeps what was spent. A subject is known by its identifier alone: whoever writes
identifiers anew starts everybody at zero, which nothing here can notice. docs/ledger.md has the exact layout.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from unicodedata import normalize

from client.stages import alone, write_durably

_KEY_BYTES = 32
_KEY_CHECK = b"\0fedmosaic pseudonym key 1"
_LEAF, _NODE, _EMPTY = b"\0", b"\1", b"\2"


@dataclass(frozen=True)
class Cohort:
    """The members of one cohort of one run: pseudonyms, sorted, 32 bytes each, and the salt of its commitment."""

    members: tuple[bytes, ...]
    salt: bytes = field(default_factory=lambda: os.urandom(_KEY_BYTES))

    @property
    def root(self) -> str:
        """The salted Merkle root over the members, in hex; it tells nobody who they are, or how many."""
        if not self.members:
            return _hash(_EMPTY, self.salt).hex()
        level = [_hash(_LEAF, self.salt, member) for member in self.members]
        while len(level) > 1:
            pairs = [_hash(_NODE, *level[place : place + 2]) for place in range(0, len(level) - 1, 2)]
            level = pairs + level[len(pairs) * 2 :]
        return level[0].hex()

    def without(self, left_out: Iterable[bytes]) -> Cohort:
        """Leave members out."""
        gone = set(left_out)
        return replace(self, members=tuple(member for member in self.members if member not in gone))


@dataclass(frozen=True)
class Pseudonyms:
    """The institution's secret pseudonym key."""

    key: bytes = field(repr=False)

    @property
    def check(self) -> str:
        """What stands in the ledger for the key, in hex, so that no other key is ever used with it."""
        return hmac.digest(self.key, _KEY_CHECK, "sha256").hex()

    def of(self, subjects: tuple[str, ...]) -> tuple[bytes, ...]:
        """Name subjects by pseudonyms, in the same order: 32 bytes each."""
        return _pseudonyms(self.key, subjects)

    def cohort(self, subjects: Iterable[str]) -> Cohort:
        """Freeze a cohort of these subjects under a fresh salt."""
        return Cohort(tuple(sorted(self.of(tuple(subjects)))))


def load_pseudonyms(path: Path, *, may_make: bool) -> Pseudonyms:
    """Read the institution's pseudonym key, or make it, once, as a file that only its owner may read.

    Raises:
        FileNotFoundError: there is none, and none may be made.
        ValueError: others may read the file, or it is no key.
    """
    if may_make:
        with alone(path.parent):
            if not path.exists():
                write_durably(path, os.urandom(_KEY_BYTES))
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path.name} can be read by others: its mode must be 0600")
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path.name} must hold {_KEY_BYTES} bytes, got {len(key)}")
    return Pseudonyms(key)


@lru_cache(maxsize=16)  # a task asks for the same folder's several times
def _pseudonyms(key: bytes, subjects: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(hmac.digest(key, normalize("NFC", subject).encode(), "sha256") for subject in subjects)


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()
