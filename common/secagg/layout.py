"""One byte form for everything that is signed, hashed or kept: fields one after the other, each behind its length.

Two different lists of fields never give the same bytes, so a hash or a signature over them has one meaning.
"""

from __future__ import annotations

from collections.abc import Iterable

_LENGTH_BYTES = 4
_NUMBER_BYTES = 8
_MAX_NAME_BYTES = 255


def join(fields: Iterable[bytes]) -> bytes:
    """Write fields, each behind its length (4 bytes, big-endian)."""
    return b"".join(len(field).to_bytes(_LENGTH_BYTES, "big") + field for field in fields)


def split(body: bytes) -> tuple[bytes, ...]:
    """Read all fields back.

    Raises:
        ValueError: the bytes end within a field.
    """
    fields, start = [], 0
    while start < len(body):
        first = start + _LENGTH_BYTES
        start = first + int.from_bytes(body[start:first], "big")
        if first > len(body) or start > len(body):
            raise ValueError(f"these {len(body)} bytes end within a field")
        fields.append(body[first:start])
    return tuple(fields)


def join_names(names: Iterable[str]) -> bytes:
    """Write names of sites or blocks, in UTF-8."""
    return join(name.encode() for name in names)


def split_names(body: bytes) -> tuple[str, ...]:
    """Read names back.

    Raises:
        ValueError: the bytes are no names.
    """
    return tuple(read_name(field) for field in split(body))


def read_name(field: bytes) -> str:
    """Read one name.

    Raises:
        ValueError: it is empty, longer than 255 bytes, or no UTF-8.
    """
    if not 1 <= len(field) <= _MAX_NAME_BYTES:
        raise ValueError(f"a name must have 1 to {_MAX_NAME_BYTES} bytes, got {len(field)}")
    return field.decode()


def write_number(number: int) -> bytes:
    """Write a number below 2^64 (8 bytes, big-endian)."""
    return number.to_bytes(_NUMBER_BYTES, "big")


def read_number(field: bytes) -> int:
    """Read a number back.

    Raises:
        ValueError: the field is not 8 bytes.
    """
    if len(field) != _NUMBER_BYTES:
        raise ValueError(f"a number has {_NUMBER_BYTES} bytes, got {len(field)}")
    return int.from_bytes(field, "big")
