"""Messages: their byte form is exact, repeatable and refuses what is no message."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from common.messages import (
    Advert,
    Arrays,
    Enrol,
    Masked,
    MaskRequest,
    Reply,
    Request,
    Task,
    pack,
    unpack,
)
from common.wire import from_records, to_records

MESSAGES: list[Request | Reply] = [
    Enrol("run", "{}", "null"),
    Advert(b"\x00\xff"),
    Task("run", 3, "training", {"fusion": np.arange(4, dtype=np.float32)}, {"sums": np.arange(3)}),
    MaskRequest("run", 1, "audit", ["a"], [b"x"], ["a", "b"], [b"", b"\n"]),
    Masked({"fusion": np.array([2**32 - 1], dtype=np.uint32)}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_bytes_and_records(message: Request | Reply) -> None:
    body = pack(message)
    again = unpack(body)
    assert type(again) is type(message)
    assert pack(again) == body
    assert pack(from_records(to_records(message))) == body


@given(
    names=st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=5),
    kinds=st.lists(st.sampled_from([np.float64, np.int64, np.float32, np.uint32]), min_size=5, max_size=5),
    sizes=st.lists(st.integers(0, 9), min_size=5, max_size=5),
)
def test_the_bytes_are_those_of_the_library_that_reads_them(
    names: list[str], kinds: list[type], sizes: list[int]
) -> None:
    arrays: Arrays = {name: np.arange(size).astype(kind) for name, kind, size in zip(names, kinds, sizes, strict=False)}
    body = pack(Masked(arrays))
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]
    inside = {f"vectors/{name}": array for name, array in arrays.items()}
    read = load(body)
    assert set(read) == set(inside)
    assert all(np.array_equal(read[name], array) and read[name].dtype == array.dtype for name, array in inside.items())
    if len({array.dtype.itemsize for array in arrays.values()}) == len({array.dtype for array in arrays.values()}):
        assert body == save(inside, metadata=header)  # it orders types of one size in a way of its own


def test_array_order_does_not_change_the_bytes() -> None:
    one, two = np.zeros(2, np.float32), np.ones(3, np.float32)
    assert pack(Task("r", 1, "training", {"a": one, "b": two})) == pack(Task("r", 1, "training", {"b": two, "a": one}))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"message|field|missing"):
        unpack(body)


@given(st.data())
def test_a_flipped_header_byte_never_yields_another_kind_of_failure(data: st.DataObject) -> None:
    body = bytearray(pack(MESSAGES[3]))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    try:
        unpack(bytes(body))
    except ValueError:
        return


def test_an_unknown_field_is_refused() -> None:
    body = pack(Enrol("run", "{}", "null")).replace(b'\\"plan\\"', b'\\"plam\\"')
    with pytest.raises(ValueError, match="plan is missing"):
        unpack(body)


TASK = Task("run", 1, "training", {"a": np.arange(4, dtype=np.float32), "b": np.zeros(2, dtype=np.float32)}, {})


@pytest.mark.parametrize(
    "other",
    [
        replace(TASK, run="run2"),
        replace(TASK, round=2),
        replace(TASK, purpose="audit"),
        replace(TASK, weights={}, normalisation=TASK.weights),
        replace(TASK, weights={"a": TASK.weights["a"]}),
        replace(TASK, weights={"a": TASK.weights["b"], "b": TASK.weights["a"]}),
        replace(TASK, weights={**TASK.weights, "a": TASK.weights["a"].reshape(2, 2)}),
        replace(TASK, weights={**TASK.weights, "a": TASK.weights["a"].view(np.int32)}),
        replace(TASK, weights={**TASK.weights, "a": np.nextafter(TASK.weights["a"], np.float32(9))}),
    ],
)
def test_any_other_request_has_another_digest(other: Task) -> None:
    assert other.digest() != TASK.digest()


def test_a_request_that_went_over_the_wire_has_the_same_digest() -> None:
    arrived = unpack(pack(TASK))
    assert isinstance(arrived, Task)
    assert arrived.digest() == TASK.digest()
    swapped = replace(TASK, weights=dict(reversed(TASK.weights.items())))
    assert swapped.digest() == TASK.digest()
