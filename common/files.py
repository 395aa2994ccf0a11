"""Write a file whole or not at all, and so that it survives a crash right after."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

PRIVATE, PUBLIC = 0o600, 0o644


def write_whole(path: Path, body: bytes | str, *, mode: int = PRIVATE) -> Path:
    """Replace a file, or make it, so that no reader ever sees half of it; returns the path.

    Args:
        path: the file; its folder is made where there is none.
        body: what it will hold; text becomes UTF-8.
        mode: who may read it; PRIVATE: its owner alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path, body.encode() if isinstance(body, str) else body) as draft:
        draft.chmod(mode)
        draft.replace(path)
    sync_folder(path.parent)
    return path


def write_secret(path: Path, body: bytes) -> None:
    """Make a durable file that only its owner may read.

    Raises:
        FileExistsError: there is one already; a secret is never overwritten.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(handle, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def drafted(path: Path, body: bytes) -> Iterator[Path]:
    """A durable file beside `path`, its owner's alone, which is gone afterwards unless it was given the name itself."""
    draft = path.with_name(f".{path.name}.{token_hex(8)}.draft")  # a process number is not unique across containers
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
