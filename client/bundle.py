"""Which code asks: a hash of the sources of `client` and `common` as they lie on this machine."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

PACKAGES = ("client", "common")


@cache
def bundle_hash() -> str:
    """Hash this site's own sources, in hex: for the ledger, and for a policy that allows certain versions only.

    It finds a wrong version out, not a hostile one: code that lies can say any hash. Who signs for an institution pins
    and reviews what runs there; a bundle that a server sends must be checked before it runs, by other means.
    """
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*") if _is_source(path)):
        body = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(body)}\0".encode() + body)
    return digest.hexdigest()


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
