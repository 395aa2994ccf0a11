"""Every stage is answered once: its reply is on disk before it leaves, and the same request gets the same bytes.

Flower stores a node's context after the reply is sent, so a crash can roll it back. What must survive is here instead:
one entry per (run, round, purpose, stage), written once and durably before the reply; and the secrets of a round
in flight, 0600, erased once the sum is revealed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.policy import Refused
from common.files import drafted, sync_folder

_DIGEST_BYTES = 32
_SYNC_DATA = getattr(os, "fdatasync", os.fsync)  # enough where a file keeps its length, and no turn of the journal


@dataclass(frozen=True)
class Stages:
    """The stages of one (run, round, purpose) at one site."""

    folder: Path

    def once(self, stage: str, request: bytes, compute: Callable[[], bytes], *, spent: tuple[str, ...] = ()) -> bytes:
        """Answer a request, or repeat the answer that was given to the very same request.

        `spent` names the secrets that nobody needs once there is an answer: they are erased.

        Guarantees:
            once: at most one reply ever exists for a stage; it is durable before this function returns.

        Raises:
            Refused: the stage was answered already, to another request.
        """
        digest = hashlib.sha256(request).digest()
        with alone(self.folder):
            _erase_drafts(self.folder)
            entry = self._path(stage, "entry")
            if not entry.exists():
                write_durably(entry, digest + compute())
            self.drop(*spent)
            stored = entry.read_bytes()
        if stored[:_DIGEST_BYTES] != digest:
            raise Refused("replay", f"stage {stage} of {self.folder.name} was answered already, to another request")
        return stored[_DIGEST_BYTES:]

    def begin(self, stage: str, request: bytes) -> tuple[bytes, bool]:
        """Write down that work on a request begins, with the secret that its noise comes from; inside `once`.

        Returns:
            32 secret bytes, and whether they are new. Work that was interrupted finds its own again.

        Raises:
            Refused: work began on another request.
        """
        digest, path = hashlib.sha256(request).digest(), self._path(stage, "secret")
        if path.exists():
            stored = path.read_bytes()
            if stored[:_DIGEST_BYTES] != digest:
                raise Refused("replay", f"stage {stage} of {self.folder.name} was begun already, for another request")
            return stored[_DIGEST_BYTES:], False
        secret = os.urandom(_DIGEST_BYTES)
        write_durably(path, digest + secret)
        return secret, True

    def answered(self, stage: str) -> bool:
        """Tell whether a stage was answered."""
        return self._path(stage, "entry").exists()

    def keep(self, name: str, secret: bytes) -> None:
        """Keep a secret of this round until `erase`; inside `once`, whose entry makes the file last with its own."""
        path = self._path(name, "secret")
        with drafted(path, secret) as draft:
            draft.replace(path)

    def kept(self, name: str) -> bytes:
        """Read a secret of this round back.

        Raises:
            Refused: there is none: the stage before did not take place here, or the round is over.
        """
        path = self._path(name, "secret")
        if not path.exists():
            raise Refused(
                "order", f"{self.folder.name} has no {name}: an earlier stage is missing, or the round is over"
            )
        return path.read_bytes()

    def erase(self) -> None:
        """Erase the secrets, and what a killed process left of them; the entries stay."""
        with alone(self.folder):
            _erase_drafts(self.folder)
            self.drop(*(path.stem for path in self.folder.glob("*.secret")))

    def drop(self, *names: str) -> None:
        """Erase some secrets, where they are there; inside `once`."""
        for path in (self._path(name, "secret") for name in names):
            if path.exists():
                _erase(path)

    def _path(self, name: str, kind: str) -> Path:
        return self.folder / f"{name}.{kind}"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder where there is none, and keep all other processes and threads that ask out of it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _erase_drafts(folder: Path) -> None:
    """Erase what `write_durably` left half done where its process was killed; nobody else may be writing there."""
    for path in folder.glob(".*.draft"):
        _erase(path)


def _erase(path: Path) -> None:
    """Overwrite a file where it lies, durably, and remove it; a disk that remaps its blocks may still hold the old."""
    facts = path.stat()
    if facts.st_nlink == 1:  # a draft that has its name already is the file itself
        with path.open("r+b") as file:
            file.write(b"\0" * facts.st_size)
            file.flush()
            _SYNC_DATA(file.fileno())
    path.unlink()


def write_durably(path: Path, body: bytes) -> None:
    """Write a new file, whole or not at all, and survive a crash right after; inside `alone`, or where nobody erases.

    Raises:
        FileExistsError: the file is there already.
    """
    with drafted(path, body) as draft:
        os.link(draft, path)  # fails where the name is taken, as O_EXCL does, but never shows half a file
    sync_folder(path.parent)
