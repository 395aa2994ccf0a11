"""The table of objectives that bring modalities together has its rows, its bounds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.compose import ConfigError, compose
from simulations.bench.contrastive import REFUSED, base_of, variants
from simulations.cli import app


def test_every_row_is_a_run_that_can_begin_and_the_refused_one_is_not() -> None:
    names = [variant.name for variant in variants()]
    assert len(names) == 5
    assert REFUSED not in names
    for variant in variants():
        config = compose([*base_of(quick=False), *variant.overrides])
        assert (config.privacy.kind == "none") == variant.name.endswith("no privacy")
    infonce = next(variant for variant in variants() if variant.name == "infonce, no privacy")
    with pytest.raises(ConfigError, match="compares the records of a batch"):
        compose([*base_of(quick=False), *infonce.overrides, "privacy=subject"])


@pytest.mark.slow
def test_the_quick_table_has_recalls_and_for_private_rows_what_steps_showed(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "contrastive", "--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "contrastive.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [variant.name for variant in variants()]
    for row in rows:
        assert {"recall@1/scan>cough", "recall@1/cough>scan"} < set(row["figures"])
        private = row["name"].endswith("epsilon 8")
        assert (row["step"] is not None) == private
        if private:
            charged, shown = row["step"]
            assert 0 <= shown <= charged < row["epsilon"] <= 8
    assert "refused" in done.output
