"""What an institution has approved: a roster, a bundle and the code that runs here, by hash. The rest is refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from client.bundle import bundle_hash
from client.policy import Refused
from client.site import Site
from common.deployment.documents import Hex32
from common.files import write_whole

_FILE = "approved.json"


class Approval(BaseModel):
    """A site's `approved.json`: SHA-256 in hex of each thing, and the version of Flower."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    roster: Hex32
    bundle: Hex32
    package: Hex32
    flwr: str


@dataclass(frozen=True)
class Present:
    """What is here now: the installed code and the installed Flower."""

    package: str
    flwr: str


def present() -> Present:
    """Look at what is installed."""
    return Present(bundle_hash(), version("flwr"))


def sha256_of(body: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(body).hexdigest()


def read_approval(state: Path) -> Approval:
    """Read what was approved.

    Raises:
        Refused: nothing was, or the file is not what `site approve` wrote.
    """
    try:
        return Approval.model_validate_json((state / _FILE).read_bytes())
    except OSError as error:
        raise Refused("bundle", "nothing is approved here: look at the roster with `fedmosaic site approve`") from error
    except ValidationError as error:
        raise Refused("bundle", f"{_FILE} is not what `fedmosaic site approve` wrote: approve again") from error


def write_approval(state: Path, approval: Approval) -> None:
    """Pin what was approved."""
    write_whole(state / _FILE, approval.model_dump_json(indent=2) + "\n")


def check_installed(site: Site, here: Present) -> Approval:
    """Hold what is installed, and the roster that lies here, against what was approved.

    Raises:
        Refused: one of them is another.
    """
    approved = read_approval(site.state)
    if not site.roster_path.exists() or sha256_of(site.roster_path.read_bytes()) != approved.roster:
        raise Refused("roster", "roster.bin is not the roster that was approved: approve it again")
    if here.flwr != approved.flwr:
        raise Refused(
            "bundle", f"flwr {here.flwr} is here, and {approved.flwr} was approved: approve it, and join again"
        )
    if here.package != approved.package:
        raise Refused("bundle", "the package that runs here is not the approved one: approve it, and join again")
    return approved


def check_bundle(site: Site, here: Present, received: str) -> None:
    """Hold what is installed, and a bundle that a server sent, against what was approved.

    Args:
        site: whose approval counts.
        here: what is installed.
        received: SHA-256 of the bundle's bytes, in hex.

    Raises:
        Refused: one of them is another.
    """
    if received != check_installed(site, here).bundle:
        raise Refused("bundle", f"the server sent bundle {received}, which nobody approved here")
