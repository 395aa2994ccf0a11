"""`bench ledger` and `bench dp` run to the end and say what they are for; their sizes here mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simulations.bench.dp import TARGETS


def said(name: str, place: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "simulations.cli", "bench", name, "--quick", "--json", "--out", str(place)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    assert json.loads((place / f"{name}.json").read_text()) == found
    return found


def test_the_ledgers_figures_are_those_of_a_ledger_that_verifies(tmp_path: Path) -> None:
    found = said("ledger", tmp_path)
    assert found.pop("entries") == 300
    assert all(value > 0 for value in found.values())
    assert sorted(found) == ["charge_milliseconds", "cold_seconds", "door_milliseconds", "verified_seconds"]


@pytest.mark.slow
def test_every_way_of_a_step_gives_our_clipped_sum(tmp_path: Path) -> None:
    found = said("dp", tmp_path)
    for name in TARGETS:
        assert set(found[name]) == {"non-private", "ours", "Opacus hooks", "Opacus ghost", "torch.func"}
        for variant, cell in found[name].items():
            assert cell["cpu_seconds"] > 0
            assert variant == "non-private" or cell["difference"] < 1e-4
