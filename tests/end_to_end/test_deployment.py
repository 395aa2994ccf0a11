"""A deployment on one machine: the same model as in process, over TLS, real programs and real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployed import QUICK, deployed, processes_of
from tests.federation_run import same_weights, state_of
from tests.toy_federation import write_toy_sites

pytestmark = pytest.mark.slow


def test_a_deployed_run_releases_the_model_of_the_run_in_process(tmp_path: Path) -> None:
    from common.compose import compose  # noqa: PLC0415
    from simulations.run import begin, run  # noqa: PLC0415
    from tests.federation_run import silent  # noqa: PLC0415

    folders = write_toy_sites(tmp_path / "sites")
    short = ("rounds=2", "privacy.sampling_rate=0.5")
    with deployed(tmp_path / "real", folders) as made:
        folder = made.run(*short)
        deployed_state = made.final(folder)
        status = made.status()
        written = {path.name for path in folder.path.iterdir()}
    assert processes_of(made) == []
    simulated = begin(compose((*QUICK, *short, f"data.root={tmp_path / 'sites'}")), tmp_path / "runs")
    run(simulated, silent)
    own = state_of(simulated)
    assert same_weights(deployed_state, own)
    assert {name: table.tobytes() for name, table in deployed_state.released.items()} == {
        name: table.tobytes() for name, table in own.released.items()
    }
    assert status["troubles"] == []
    assert {"model.safetensors", "report.html", "fairness.html", "model_card.md", "privacy.html"} <= written
