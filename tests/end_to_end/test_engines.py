"""One ServerApp and one ClientApp: every engine ends in the same released model, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.run import reopen
from tests.federation_run import REPEATABLE, run_toy, same_weights, state_of

SHORT = ("data.normalisation=federated", REPEATABLE, "rounds=2", "privacy.sampling_rate=0.5", "audit.attributes=[sex]")


def _bounded_run(place: Path, *overrides: str) -> tuple[Path, bytes]:
    prepared, _, state = run_toy(place, *SHORT, "seed=1", *overrides)
    return prepared.folder.path, b"".join(state.weights[name].tobytes() for name in sorted(state.weights))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["engine.workers=2", "engine=flower"])
def test_every_engine_releases_the_same_model(engine: str, tmp_path: Path) -> None:
    first, weights = _bounded_run(tmp_path / "one")
    second, others = _bounded_run(tmp_path / "two", engine)
    assert weights == others
    one, two = state_of(reopen(first)), state_of(reopen(second))
    assert same_weights(one, two)
    for purpose, table in one.released.items():
        assert table.tobytes() == two.released[purpose].tobytes()
