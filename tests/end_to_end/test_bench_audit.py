"""`fedmosaic bench audit`: the figures that docs/audit.md quotes come from a command that works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.bench.command import Asked, run_bench


def test_bench_audit_says_what_was_shown_and_what_noise_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_bench("audit", "heart", tmp_path, Asked(as_json=True, quick=True))
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "audit.json").read_text())
    for one in said["shown"]:
        assert 0.3 * one["claimed_epsilon"] < one["shown_epsilon"] < 1.3 * one["claimed_epsilon"]
    assert {one["claimed_epsilon"] for one in said["shown"]} == {8.0, 4.6}
    assert all(cost["step"] > 0 for cost in said["noise"])


def test_bench_audit_prints_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_bench("audit", "heart", tmp_path, Asked(quick=True))
    said = capsys.readouterr().out
    assert "claimed epsilon" in said
    assert "100,000" in said
