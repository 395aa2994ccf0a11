"""The command: exit codes, one line for every mistake, one JSON object for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulations.cli import app
from tests.federation_run import SMALL, toy_root

WRONG, REFUSED = 2, 3


def _say(place: Path, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["simulate", *arguments, "--runs", str(place / "runs")])
    return done.exit_code, done.stdout, done.stderr


def _toy(place: Path) -> tuple[str, ...]:
    return (*SMALL, "data.normalisation=none", f"data.root={toy_root(place)}", "audit.attributes=[]", "rounds=1")


def _nothing_left(place: Path) -> bool:
    return not list((place / "runs").glob("*/*"))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("privacy.clip_norm=-1", "privacy.clip_norm"),
        ("+privacy.typo=2", "privacy.typo"),
        ("nonsense=1", "nonsense"),
        ("federation.aggregator=median", "federation.aggregator"),
        ("privacy.delta=0.02", "privacy.delta"),
        ("objective.task=height", "objective.task"),
        ("audit.attributes=[shoe]", "audit.attributes"),
        ("drop=[atlantis@1]", "drop"),
        ("data.root=nowhere", "data.root"),
        ("data=heart", "data.root is not read by data=heart; for your own folders: experiment=folders"),
        ("secagg.k_min=5", "secagg.k_min: every sum takes 5 sites at least, and here are 4"),
        ("fusion.kind=cross fusion.query=shoes", "fusion.query"),
    ],
)
def test_a_wrong_key_is_one_line_and_leaves_nothing(tmp_path: Path, override: str, named: str) -> None:
    code, out, err = _say(tmp_path, *_toy(tmp_path), *override.split())
    assert code == WRONG, err
    assert named in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert _nothing_left(tmp_path)


def _drop_column(folder: Path) -> None:
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("pulse", "pulses", 1))


def _bad_label(folder: Path) -> None:
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",1\n", ",perhaps\n", 1))


def _two_splits(folder: Path) -> None:
    description, manifest = folder / "dataset.yaml", folder / "manifest.csv"
    description.write_text(description.read_text() + "split: split\n")
    header, *rows = manifest.read_text().splitlines()
    rows.append(rows[0])
    cells = ["train"] * (len(rows) - 1) + ["test"]
    lines = [f"{header},split", *(f"{row},{cell}" for row, cell in zip(rows, cells, strict=True))]
    manifest.write_text("\n".join(lines) + "\n")


def _leaving_link(folder: Path) -> None:
    outside = folder.parent.parent / "outside.csv"
    (folder / "manifest.csv").rename(outside)
    (folder / "manifest.csv").symlink_to(outside)


def _same_name(folder: Path) -> None:
    description = folder / "dataset.yaml"
    description.write_text(description.read_text().replace(f"name: {folder.name}", "name: site-0"))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_drop_column, "pulse"),
        (_bad_label, "perhaps"),
        (_two_splits, "split"),
        (_leaving_link, "manifest.csv"),
        (_same_name, "site-0"),
    ],
)
def test_a_wrong_site_folder_is_one_line_and_leaves_nothing(tmp_path: Path, spoil: object, named: str) -> None:
    arguments = _toy(tmp_path)
    spoil(tmp_path / "data" / "site-2")  # type: ignore[operator]
    code, out, err = _say(tmp_path, *arguments)
    assert code == WRONG, err
    assert named in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert _nothing_left(tmp_path)


def test_an_exhausted_budget_is_exit_code_three(tmp_path: Path) -> None:
    code, out, err = _say(tmp_path, *_toy(tmp_path), "site.lifetime_epsilon=4")
    assert code == REFUSED
    assert "epsilon" in err
    assert out == ""
    assert _nothing_left(tmp_path)


def test_json_is_one_object_on_stdout(tmp_path: Path) -> None:
    code, out, _ = _say(tmp_path, *_toy(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["test"]["sites"].keys() == {"site-0", "site-1", "site-2", "site-3"}
    assert len(out.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_sweep_is_one_object_a_run(tmp_path: Path) -> None:
    code, out, _ = _say(tmp_path, *_toy(tmp_path), "--json", "--multirun", "privacy.epsilon=2,8")
    assert code == 0
    noise = [json.loads(line)["privacy"]["sites"]["site-0"]["noise_multiplier"] for line in out.strip().splitlines()]
    assert len(noise) == 2
    assert noise[0] > noise[1]


def test_a_key_is_explained(tmp_path: Path) -> None:
    code, out, _ = _say(tmp_path, "--explain", "privacy.clip_norm")
    assert code == 0
    assert "L2 bound" in out


def test_resuming_what_is_no_run_is_wrong_usage(tmp_path: Path) -> None:
    code, _, err = _say(tmp_path, "--resume", str(tmp_path))
    assert code == WRONG
    assert "config.yaml" in err


def test_test_noise_is_refused_outside_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDMOSAIC_TESTING")
    code, _, err = _say(tmp_path, *_toy(tmp_path), "privacy.test_noise_seed=1")
    assert code in {WRONG, REFUSED}
    assert "FEDMOSAIC_TESTING" in err
    assert _nothing_left(tmp_path)


def test_a_site_folder_given_as_the_root_is_told_from_the_folder_around_it(tmp_path: Path) -> None:
    inside = f"data.root={toy_root(tmp_path) / 'site-0'}"
    code, _, err = _say(tmp_path, *SMALL, inside)
    assert code == WRONG
    assert "it is a site folder itself: give the one around it" in err
