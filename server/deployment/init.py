"""`server init` and `server enrol`: a new operator's folder, and who may take part."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from common.compose import ConfigError
from common.deployment.documents import Enrolment, Invitation, fingerprint_of, read_document
from common.files import PRIVATE, PUBLIC, write_whole
from common.secagg.identity import create_identity, load_identity
from common.secagg.roster import sign_roster
from server.deployment.bundle import write_bundle
from server.deployment.certificates import Certified, certify, new_authority
from server.deployment.control import write_connection
from server.deployment.gate import write_gate
from server.deployment.place import Consortium, Place
from server.deployment.units import write_units

_LOOPBACK = ("localhost", "127.0.0.1")


def create(path: Path, consortium: Consortium) -> Place:
    """Make an operator's folder: keys, certificates, invitation, bundle, gate, units, README.

    Guarantees:
        whole: it is there with all that it holds, or not at all.

    Raises:
        ConfigError: there is something already.
    """
    if path.exists() and any(path.iterdir()):
        raise ConfigError(f"{path} holds something already: keys are never overwritten; take an empty folder")
    path.mkdir(parents=True, exist_ok=True)
    place = Place(path.resolve())
    try:
        _fill(place, consortium)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return place


def _fill(place: Place, consortium: Consortium) -> None:
    for folder in ("keys", "enrolled", "runs", "work"):
        (place.path / folder).mkdir(mode=0o700)
    write_whole(place.path / "consortium.json", consortium.model_dump_json(indent=1) + "\n", mode=PUBLIC)
    authority = new_authority(consortium.name)
    _keep(place, "authority", authority)
    certify_servers(place)
    signer = create_identity(place.key("consortium.pem"))
    write_whole(place.key("superexec.secret"), secrets.token_hex(32))
    invitation = Invitation(
        consortium=consortium.name,
        address=consortium.address,
        authority=authority.certificate.decode(),
        consortium_key=signer.public_key.hex(),
    )
    invitation.signed(signer).write(place.invitation_path)
    write_bundle(place)
    write_connection(place)
    write_gate(place)
    write_units(place)
    page = files("server.deployment").joinpath("folder.md").read_text(encoding="utf-8")
    known = {"name": consortium.name, "address": consortium.address, "path": str(place.path)}
    write_whole(place.path / "README.md", page.format(**known, fingerprint=fingerprint(place)), mode=PUBLIC)


def certify_servers(place: Place) -> None:
    """Make the certificates of gate and SuperLink anew; the authority's stays, so that institutions notice nothing."""
    known = Certified(place.key("authority.key").read_bytes(), place.certificate("authority").read_bytes())
    days = place.consortium.days
    _keep(place, "gate", certify(known, (place.consortium.host,), days=days))
    _keep(place, "link", certify(known, _LOOPBACK, days=days))


def fingerprint(place: Place) -> str:
    """What institutions compare by telephone."""
    return fingerprint_of(load_identity(place.key("consortium.pem")).public_key)


def enrol(place: Place, papers: Sequence[Path], *, remove: Sequence[str] = ()) -> tuple[str, ...]:
    """Add institutions, or take them off, and sign the roster anew; returns who is on it.

    Raises:
        ConfigError: a paper is none, another institution has its name or key, or nobody of that name is enrolled.
    """
    enrolled = place.enrolments()
    for name in remove:
        if name not in enrolled:
            raise ConfigError(f"--remove {name}: enrolled are {', '.join(sorted(enrolled)) or 'none'}")
        del enrolled[name]
    for path in papers:
        paper = read_document(path, Enrolment)
        known = enrolled.get(paper.name)
        if known is not None and known.identity_key != paper.identity_key:
            raise ConfigError(
                f"{path}: {paper.name} is enrolled with another identity key: if the institution has lost it, take it"
                f" off first (--remove {paper.name}) and speak to them"
            )
        enrolled[paper.name] = paper
    try:
        keys = {name: bytes.fromhex(paper.identity_key) for name, paper in enrolled.items()}
        roster = sign_roster(keys, load_identity(place.key("consortium.pem")))
    except ValueError as error:
        raise ConfigError(f"the roster: {error}") from error
    if len({paper.transport_key for paper in enrolled.values()}) != len(enrolled):
        raise ConfigError("two institutions have the same transport key: each makes its own with `site init`")
    for name in remove:
        (place.path / "enrolled" / f"{name}.json").unlink()
    for name, paper in enrolled.items():
        paper.write(place.path / "enrolled" / f"{name}.json")
    write_whole(place.roster_path, roster.to_bytes(), mode=PUBLIC)
    return tuple(sorted(enrolled))


def _keep(place: Place, name: str, made: Certified) -> None:
    write_whole(place.key(f"{name}.key"), made.key, mode=PRIVATE)
    write_whole(place.certificate(name), made.certificate, mode=PUBLIC)
    os.chmod(place.key(f"{name}.key"), PRIVATE)
