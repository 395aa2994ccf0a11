"""`fedmosaic site approve`: what is new in a roster and a bundle, for somebody to look at, and then to pin."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from client.deployment.approval import Approval, present, read_approval, sha256_of, write_approval
from client.deployment.place import Place
from client.policy import Refused
from common.compose import ConfigError
from common.deployment.documents import fingerprint_of
from common.files import write_whole
from common.secagg.identity import load_identity
from common.secagg.roster import Roster

_MANIFEST = frozenset({"pyproject.toml", "README.md", "LICENSE", ".info/CONTENT"})
_LARGEST_BUNDLE = 2**20


@dataclass(frozen=True)
class Difference:
    """A roster and a bundle that could be approved, against what was approved before.

    Attributes:
        added: institutions that were not on the roster before, with their keys' fingerprints.
        removed: institutions that no longer are.
        changed: institutions that have another key than before: ask them why.
        kept: institutions that are as they were.
        files: what the bundle holds, with sizes in bytes: never code.
        news: what else is another than before: the bundle, the package, Flower.
    """

    added: dict[str, str]
    removed: tuple[str, ...]
    changed: dict[str, str]
    kept: tuple[str, ...]
    files: dict[str, int]
    news: tuple[str, ...]
    approval: Approval
    roster: bytes


def difference(place: Place, roster_path: Path, bundle_path: Path) -> Difference:
    """Check a roster and a bundle, and say what is new in them.

    Raises:
        Refused: the roster is not signed by the consortium of the invitation, or does not have this site with its own
            key; or the bundle holds anything but a manifest.
        ConfigError: a file cannot be read.
    """
    bodies = _read(roster_path), _read(bundle_path)
    roster, files = _roster(place, bodies[0]), _files(bodies[1])
    here = present()
    approval = Approval(roster=sha256_of(bodies[0]), bundle=sha256_of(bodies[1]), package=here.package, flwr=here.flwr)
    before, known = _before(place), roster.keys
    both = set(before) & set(known)
    return Difference(
        added={name: fingerprint_of(key) for name, key in roster.entries if name not in before},
        removed=tuple(sorted(set(before) - set(known))),
        changed={name: fingerprint_of(known[name]) for name in sorted(both) if known[name] != before[name]},
        kept=tuple(sorted(name for name in both if known[name] == before[name])),
        files=files,
        news=_news(place, approval),
        approval=approval,
        roster=bodies[0],
    )


def pin(place: Place, wanted: Difference) -> None:
    """Approve: from now on this roster, this bundle and the installed code are what this site works with."""
    write_whole(place.site().roster_path, wanted.roster)
    write_approval(place.state, wanted.approval)  # it names the roster: a crash in between approves nothing


def _roster(place: Place, body: bytes) -> Roster:
    site = place.site()
    try:
        roster = Roster.from_bytes(body)
    except ValueError as error:
        raise Refused("roster", f"the roster cannot be used: {error}") from error
    if roster.consortium_public_key.hex() != place.invitation().consortium_key:
        raise Refused("roster", "the roster is not signed with the consortium's key that the invitation names")
    if roster.keys.get(site.name) != load_identity(site.identity_path).public_key:
        raise Refused("roster", f"the roster does not have {site.name} with this site's own key")
    return roster


def _files(body: bytes) -> dict[str, int]:
    """What a bundle holds, from its table of contents: nothing is unpacked."""
    if len(body) > _LARGEST_BUNDLE:
        raise Refused("bundle", f"a manifest has less than {_LARGEST_BUNDLE} bytes, the bundle {len(body)}")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Refused("bundle", f"the bundle is no archive: {error}") from error
    names = [entry.filename for entry in entries]
    if odd := sorted(set(names) - _MANIFEST):
        raise Refused("bundle", f"the bundle holds more than a manifest, and no code is taken from a server: {odd[:5]}")
    if len(set(names)) != len(names) or sum(entry.file_size for entry in entries) > _LARGEST_BUNDLE:
        raise Refused("bundle", "the bundle names a file twice, or unpacks to more than a manifest")
    return {entry.filename: entry.file_size for entry in entries}


def _before(place: Place) -> dict[str, bytes]:
    path = place.site().roster_path
    return Roster.from_bytes(path.read_bytes()).keys if path.exists() else {}


def _news(place: Place, approval: Approval) -> tuple[str, ...]:
    try:
        before = read_approval(place.state)
    except Refused:
        return ("nothing was approved before",)
    named = {"bundle": "the bundle", "package": "the installed package", "flwr": "Flower"}
    return tuple(
        f"{words} is another: {getattr(approval, key)[:12]}, before {getattr(before, key)[:12]}"
        for key, words in named.items()
        if getattr(approval, key) != getattr(before, key)
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
