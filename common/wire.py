"""Messages to Flower records and back: the only file that knows record keys."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from flwr.app.message import Array

from common.messages import Reply, Request, pack, unpack

_RECORD = "fedmosaic"
_BODY = "message"


def to_records(message: Request | Reply) -> RecordDict:
    """Wrap a message for Flower: one byte array, which Flower sends in chunks."""
    body = np.frombuffer(pack(message), dtype=np.uint8)
    return RecordDict({_RECORD: ArrayRecord({_BODY: Array(body)})})


def from_records(records: RecordDict) -> Request | Reply:
    """Unwrap a message.

    Raises:
        ValueError: the records hold no message of this protocol.
    """
    return unpack(_body_of(records).numpy().tobytes())


def size_of(records: RecordDict) -> int:
    """Count the bytes of a message, without decoding any of it.

    Raises:
        ValueError: the records hold no message of this protocol.
    """
    return len(_body_of(records).data)


def _body_of(records: RecordDict) -> Array:
    if set(records) != {_RECORD} or not isinstance(records[_RECORD], ArrayRecord):
        raise ValueError("these records hold no message of this protocol")
    body = records[_RECORD].get(_BODY)
    if not isinstance(body, Array) or len(records[_RECORD]) != 1:
        raise ValueError("these records hold no message of this protocol")
    return body
