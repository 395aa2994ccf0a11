"""The papers that change hands before a federation begins, an invitation and an enrolment: public facts, public keys.

The operator's invitation says where the gate is, how to know it, and who signs the roster. An institution's enrolment
says who it is, with which keys, and what its folder is said to hold (its `dataset.yaml`, which names no record).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.compose import ConfigError
from common.data.schema import FolderSpec, Name
from common.files import PUBLIC, write_whole
from common.secagg.identity import Identity, verify

_GROUPS, _GROUP = 8, 4
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\[\]-]{1,253}:[0-9]{1,5}$")]


class _Document(BaseModel):
    """A signed paper: its signature is over everything else in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    signature: Hex64 | Literal[""] = ""

    def body(self) -> bytes:
        """What is signed: the kind of paper, then all fields but the signature, in one spelling."""
        fields = self.model_dump(mode="json", exclude={"signature"})
        return f"fedmosaic/{type(self).__name__}\0".encode() + json.dumps(fields, sort_keys=True).encode()

    def signed(self, identity: Identity) -> Self:
        """The same paper, signed."""
        return self.model_copy(update={"signature": identity.sign(self.body()).hex()})

    def write(self, path: Path) -> Path:
        """Write the paper, for everybody to read."""
        return write_whole(path, json.dumps(self.model_dump(mode="json"), indent=2) + "\n", mode=PUBLIC)


class Invitation(_Document):
    """What an operator gives to institutions.

    Attributes:
        consortium: what the federation is called.
        address: host and port of the gate.
        authority: the certificate (PEM) that the gate's own is signed with.
        consortium_key: whose signature the roster must carry, in hex. Compare `fingerprint_of` it by telephone.
    """

    version: Literal[1] = 1
    consortium: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\p{C}]+$")]  # it goes to terminals
    address: Address
    authority: str
    consortium_key: Hex32

    def check(self) -> None:
        """Check the signature.

        Raises:
            ValueError: it is not the consortium's.
        """
        verify(bytes.fromhex(self.consortium_key), self.body(), bytes.fromhex(self.signature))


class Enrolment(_Document):
    """What an institution gives to the operator.

    Attributes:
        name: the institution's, as its `dataset.yaml` has it.
        identity_key: its Ed25519 key, in hex: what the roster lists, what signs transcripts and receipts.
        transport_key: its EC P-384 key in OpenSSH's form: what opens the gate.
        description: its `dataset.yaml`.
        bundle: hash of the code that runs there.
    """

    version: Literal[1] = 1
    name: Name
    identity_key: Hex32
    transport_key: Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]+$")]
    description: FolderSpec
    bundle: Hex32

    def check(self) -> None:
        """Check the signature, and that the description is this institution's.

        Raises:
            ValueError: one of them is not.
        """
        verify(bytes.fromhex(self.identity_key), self.body(), bytes.fromhex(self.signature))
        if self.description.name != self.name:
            raise ValueError(f"the description is of {self.description.name!r}, not of {self.name!r}")


Paper = TypeVar("Paper", Invitation, Enrolment)


def read_document(path: Path, kind: type[Paper]) -> Paper:
    """Read a paper and check its signature.

    Raises:
        ConfigError: the file is missing, is no such paper, or its signature is wrong.
    """
    try:
        paper = kind.model_validate_json(path.read_bytes())
        paper.check()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise ConfigError(f"{path} is no {kind.__name__.lower()} of this release: {where}: {fault['msg']}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return paper


def fingerprint_of(public_key: bytes) -> str:
    """A key as people read it to each other: eight groups of four hex digits, the first half of its SHA-256."""
    digest = hashlib.sha256(public_key).hexdigest()
    return " ".join(digest[_GROUP * place : _GROUP * (place + 1)] for place in range(_GROUPS))
