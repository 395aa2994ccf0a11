"""What server and sites say to each other, as frozen dataclasses, and their one byte form.

A message is made of scalars, byte strings, lists of those, and named arrays. Its byte form is a safetensors file:
the arrays as they are, the rest as JSON in the header. Nothing in it can run code when it is read.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from common.large_messages import LargeReply, LargeStageRequest
from common.secagg.layout import join, write_number

Arrays = dict[str, np.ndarray]
_LARGEST_NUMBER = 2**63
_AGREEMENT, _TASK_LAYOUT = b"fedmosaic/agreement/1", b"fedmosaic/task/1"


@dataclass(frozen=True)
class Enrol:
    """Server to site, once a run: may this run, with this plan, take place here? With the receipts it was given."""

    run: str
    config: str
    plan: str
    receipts: list[bytes] = field(default_factory=list)

    def digest(self) -> bytes:
        """Name configuration and plan together, as ledgers keep it."""
        return hashlib.sha256(join([_AGREEMENT, self.config.encode(), self.plan.encode()])).digest()


@dataclass(frozen=True)
class Enrolled:
    """Site to server: it may. Names the institution and the modalities it holds; both are public."""

    institution: str
    modalities: list[str]


@dataclass(frozen=True)
class Task:
    """Server to site, stage 0: compute a contribution for `purpose` on these released weights."""

    run: str
    round: int
    purpose: str
    weights: Arrays = field(default_factory=dict)
    normalisation: Arrays = field(default_factory=dict)

    def digest(self) -> bytes:
        """Hash the whole request in one fixed layout; sites sign this, so that all were asked for the same.

        The layout: a version, run, round, purpose; then weights and normalisation, each the names in order with every
        array's type, shape and little-endian bytes.
        """
        arrays = (
            join(part for name in sorted(group) for part in (name.encode(), *_array_fields(group[name])))
            for group in (self.weights, self.normalisation)
        )
        head = (_TASK_LAYOUT, self.run.encode(), write_number(self.round), self.purpose.encode())
        return hashlib.sha256(join([*head, *arrays])).digest()


@dataclass(frozen=True)
class Advert:
    """Site to server: a signed advert, and its ledger's receipt; the contribution itself waits at the site."""

    advert: bytes
    receipt: bytes = b""


@dataclass(frozen=True)
class Plain:
    """Site to server where secure aggregation is off: the contribution itself, each block with its weight last."""

    institution: str
    vectors: Arrays
    receipt: bytes = b""


@dataclass(frozen=True)
class ShareRequest:
    """Server to site, stage 1: everybody's adverts and the threshold."""

    run: str
    round: int
    purpose: str
    threshold: int
    adverts: list[bytes]


@dataclass(frozen=True)
class Shares:
    """Site to server: one ciphertext per peer and a signature on what the site saw."""

    peers: list[str]
    ciphertexts: list[bytes]
    signature: bytes


@dataclass(frozen=True)
class MaskRequest:
    """Server to site, stage 2: the ciphertexts addressed to it and the signatures of all who shared."""

    run: str
    round: int
    purpose: str
    senders: list[str]
    ciphertexts: list[bytes]
    signers: list[str]
    signatures: list[bytes]


@dataclass(frozen=True)
class Masked:
    """Site to server: one masked uint32 vector per block."""

    vectors: Arrays


@dataclass(frozen=True)
class CheckRequest:
    """Server to site, stage 3: who survived, and which blocks will be summed."""

    run: str
    round: int
    purpose: str
    survivors: list[str]
    blocks: list[str]


@dataclass(frozen=True)
class Checked:
    """Site to server: its signature on the survivors."""

    signature: bytes


@dataclass(frozen=True)
class RevealRequest:
    """Server to site, stage 4: the survivors' signatures."""

    run: str
    round: int
    purpose: str
    signers: list[str]
    signatures: list[bytes]


@dataclass(frozen=True)
class Revealed:
    """Site to server: the shares that unmask the sum."""

    shares: bytes


@dataclass(frozen=True)
class Settle:
    """Server to site: the run is over. With the receipts of all, once the server has them, for each to keep."""

    run: str
    receipts: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Settled:
    """Site to server: the budget is settled; the receipt of its ledger, so that a rollback would be seen."""

    receipt: bytes


@dataclass(frozen=True)
class Refusal:
    """Site to server: no. A fixed code and nothing else: the reason stays in the site's own log."""

    code: str


StageRequest = Task | ShareRequest | MaskRequest | CheckRequest | RevealRequest | LargeStageRequest
Request = Enrol | StageRequest | Settle
Reply = Enrolled | Advert | Plain | Shares | Masked | Checked | Revealed | Settled | Refusal | LargeReply

_KINDS: dict[str, type[Request] | type[Reply]] = {kind.__name__: kind for kind in get_args(Request) + get_args(Reply)}
_ARRAY_FIELD = "Arrays"
_TYPES = {"float64": "F64", "int64": "I64", "float32": "F32", "uint32": "U32"}
_ALIGNMENT = 8


def pack(message: Request | Reply) -> bytes:
    """Write a message as bytes; the same message always gives the same bytes."""
    arrays: Arrays = {}
    plain: dict[str, object] = {}
    for item in fields(message):
        value = getattr(message, item.name)
        if item.type == _ARRAY_FIELD:
            arrays |= {f"{item.name}/{name}": _plain(value[name]) for name in sorted(value)}
        else:
            plain[item.name] = _to_json(value)
    header = json.dumps({"kind": type(message).__name__, "fields": plain}, sort_keys=True)
    return _safetensors(arrays, header)


def unpack(body: bytes) -> Request | Reply:
    """Read a message back.

    Raises:
        ValueError: the bytes are no message of ours, or a field is missing, unknown or of another type.
    """
    try:
        length = int.from_bytes(body[:8], "little")
        header = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["message"])
        kind, plain = _KINDS[header["kind"]], header["fields"]
        arrays = load(body)
    except (KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise ValueError("these bytes are no message of this protocol") from error
    values: dict[str, Any] = {}
    for item in fields(kind):
        if item.type == _ARRAY_FIELD:
            prefix = f"{item.name}/"
            values[item.name] = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        elif isinstance(plain, dict) and item.name in plain:
            values[item.name] = _from_json(plain.pop(item.name), str(item.type), where=f"{kind.__name__}.{item.name}")
        else:
            raise ValueError(f"{kind.__name__}.{item.name} is missing")
    if plain:
        raise ValueError(f"{kind.__name__} has no field called {sorted(plain)[0]}")
    return kind(**values)


def _safetensors(arrays: Arrays, message: str) -> bytes:
    """Write a safetensors file in one copy of the arrays; the library's own writer makes two.

    Source: the format's description, https://huggingface.co/docs/safetensors; larger types first, so that all align.
    """
    layout: dict[str, object] = {"__metadata__": {"message": message}}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    start = 0
    for name in order:
        array, end = arrays[name], start + arrays[name].nbytes
        layout[name] = {"dtype": _TYPES[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
        start = end
    header = json.dumps(layout, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return b"".join([len(header).to_bytes(_ALIGNMENT, "little"), header, *(arrays[name].data for name in order)])


def _array_fields(array: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """Type, shape and bytes of an array, the same on every machine."""
    plain = _plain(array)
    return plain.dtype.str.encode(), join(write_number(size) for size in plain.shape), plain.tobytes()


def _plain(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _to_json(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return value


def _from_json(value: object, kind: str, *, where: str) -> object:
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        return [_from_json(item, kind[5:-1], where=where) for item in value]
    if kind == "bytes" and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if kind == "str" and isinstance(value, str):
        return value
    if kind == "int" and type(value) is int and 0 <= value < _LARGEST_NUMBER:
        return value
    raise ValueError(f"{where} is not of type {kind}")
