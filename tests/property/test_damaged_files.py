"""Damaged real files of every kind: a reader says a value or one sentence, and nothing else, in little time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.error import DataError
from common.data.records import READERS, decode_cell, no_records
from tests.files_of_every_kind import FILES, cell

_LONGEST_SECONDS = 5.0


@dataclass(frozen=True)
class Damage:
    """Bytes to change, at parts of the file's length, the head more often than the rest; and how much is left."""

    changes: tuple[tuple[float, int], ...]
    left: float

    def done_to(self, body: bytes) -> bytes:
        found = bytearray(body)
        for part, value in self.changes:
            found[int(part**3 * (len(body) - 1))] = value
        return bytes(found[: max(1, int(self.left * len(body)))])


DAMAGE = st.builds(
    Damage,
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6).map(tuple),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=DAMAGE)
def test_a_damaged_file_gives_a_value_or_a_sentence(tmp_path: Path, name: str, damage: Damage) -> None:
    write, spec = FILES[name]
    path = tmp_path / name
    write(path)
    victims = [path] if name != "one.hea" else [path, tmp_path / "one.dat"]
    for victim in victims:
        write(path)
        victim.write_bytes(damage.done_to(victim.read_bytes()))
        started = time.monotonic()
        try:
            found = decode_cell(cell(path), spec)
        except DataError as error:
            says = str(error)
            assert f"manifest.csv, row 2, column file: '{name}': " in says and "\n" not in says  # noqa: PT018
        else:
            blank = no_records(spec, 1).values[0]
            assert found.dtype == blank.dtype
            assert found.shape[1:] == blank.shape[1:]
            assert len(found) <= len(blank)
            assert np.isfinite(found.astype(np.float64)).all()
        assert time.monotonic() - started < _LONGEST_SECONDS


def test_every_kind_of_file_is_among_the_victims() -> None:
    assert {spec.kind for _, spec in FILES.values()} == set(READERS)
