"""The operator's folder: what lies where, and what it says of the consortium."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.compose import ConfigError
from common.deployment.documents import Enrolment, Invitation, read_document

Port = Annotated[int, Field(ge=1, le=65535)]


class Consortium(BaseModel):
    """What `server init` was told; `consortium.json`.

    Attributes:
        name: what the federation is called.
        host: where institutions reach the gate, a host name or an IP address.
        port: the gate's.
        listen: the address that the gate listens on.
        link_port: the SuperLink's, on loopback.
        days: how long the gate's certificate is valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$")]
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    port: Port = 9443
    listen: str = "0.0.0.0"  # noqa: S104  (the gate is what the outside may reach)
    link_port: Port = 9444
    days: Annotated[float, Field(gt=0, le=3650)] = 365.0

    @property
    def address(self) -> str:
        """Host and port of the gate, as institutions use it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Place:
    """An operator's folder. Everything in `keys/` is secret; nothing else is."""

    path: Path

    @cached_property
    def consortium(self) -> Consortium:
        """What the consortium is.

        Raises:
            ConfigError: this is no operator's folder.
        """
        path = self.path / "consortium.json"
        try:
            return Consortium.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{self.path} is no operator's folder: {path.name} cannot be read ({error.strerror});"
                " make one with: fedmosaic server init DIR --host NAME"
            ) from error
        except ValidationError as error:
            raise ConfigError(f"{path}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error

    def key(self, name: str) -> Path:
        """A secret's file."""
        return self.path / "keys" / name

    def certificate(self, name: str) -> Path:
        """A certificate's file: authority, gate or link."""
        return self.path / "certificates" / f"{name}.pem"

    @property
    def invitation_path(self) -> Path:
        """What institutions are given."""
        return self.path / "invitation.json"

    @property
    def roster_path(self) -> Path:
        """The signed roster of all who are enrolled."""
        return self.path / "roster.bin"

    @property
    def bundle_folder(self) -> Path:
        """What the bundle is built from."""
        return self.path / "bundle"

    @property
    def bundle_path(self) -> Path:
        """The bundle, which institutions approve."""
        return self.path / "fedmosaic.fab"

    @property
    def receipts_path(self) -> Path:
        """The newest receipt of each institution's ledger that any run was given."""
        return self.path / "receipts.json"

    @property
    def nodes_path(self) -> Path:
        """Which node of the SuperLink is which institution."""
        return self.path / "nodes.json"

    @property
    def runs(self) -> Path:
        """The run folders."""
        return self.path / "runs"

    def work(self, program: str) -> Path:
        """Where one of the programs works, and keeps its log."""
        return self.path / "work" / program

    @property
    def invitation(self) -> Invitation:
        """The invitation."""
        return read_document(self.invitation_path, Invitation)

    def enrolments(self) -> dict[str, Enrolment]:
        """All institutions that are enrolled, by name."""
        found = (read_document(path, Enrolment) for path in sorted((self.path / "enrolled").glob("*.json")))
        return {one.name: one for one in found}


def consortium_of(facts: Mapping[str, object]) -> Consortium:
    """Check what a new consortium is to be.

    Raises:
        ConfigError: a fact is wrong; the sentence names the option.
    """
    try:
        return Consortium.model_validate(facts)
    except ValidationError as error:
        fault = error.errors()[0]
        option = str(fault["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option}: {fault['msg']}, got {fault['input']!r}") from error
