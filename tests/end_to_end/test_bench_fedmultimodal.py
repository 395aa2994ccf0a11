"""An experiment's records lie where FedMultimodal's trainer looks for them, and its figures come back beside ours."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from simulations.bench.fedmultimodal import Exported, export
from simulations.cli import app

SMALL = (
    *("experiment=synthetic", "data.synthetic.kinds=[image,audio]", "data.synthetic.subjects=12", "rounds=1"),
    *("model.width=8", "model.feedforward=8", "audit.attributes=[]", "privacy=none"),
)
# What of FedMultimodal the command touches: it is started with a data folder, reads lists of records, and leaves a
# result in its own tree. Its accuracy is per cent.
TRAINER = """
import argparse, json, pathlib, pickle
parser = argparse.ArgumentParser()
for name in ("data_dir", "sample_rate", "num_epochs"):
    parser.add_argument("--" + name)
asked = parser.parse_args()
assert (float(asked.sample_rate), int(asked.num_epochs)) == (1.0, 1)
sizes = {}
for place in ("audio/mfcc", "video/mobilenet_v2"):
    for path in (pathlib.Path(asked.data_dir) / "feature" / place / "mit10" / "alpha10").iterdir():
        sizes[path.stem] = len(pickle.loads(path.read_bytes()))
assert {"dev", "test", "site-00"} < set(sizes)
result = pathlib.Path(__file__).parents[2] / "result" / "fed_avg" / "mit10" / "result.json"
result.parent.mkdir(parents=True)
result.write_text(json.dumps({"average": {"acc": 62.5}}))
"""


def loaded(out: Path, place: str, client: str) -> list[list[object]]:
    body = (out / "feature" / place / f"{client}.pkl").read_bytes()
    records: list[list[object]] = pickle.loads(body)  # noqa: S301  (what this test has just written)
    return records


def written(tmp_path: Path) -> tuple[Path, Exported]:
    return tmp_path, export(SMALL, tmp_path)


def test_records_are_written_as_its_loader_indexes_them(tmp_path: Path) -> None:
    out, exported = written(tmp_path)
    assert (exported.dataset, exported.modalities) == ("mit10", ("cough", "scan"))
    assert set(exported.records) == {*(f"site-{number:02d}" for number in range(4)), "dev", "test"}
    seen: list[object] = []
    for client, number in exported.records.items():
        sounds = loaded(out, "audio/mfcc/mit10/alpha10", client)
        images = loaded(out, "video/mobilenet_v2/mit10/alpha10", client)
        assert len(sounds) == len(images) == number > 0
        for sound, image in zip(sounds, images, strict=True):
            assert sound[:3] == image[:3], "the same record at the same place"
            assert sound[-2] in (0, 1)
            assert isinstance(sound[-1], np.ndarray)
            assert isinstance(image[-1], np.ndarray)
            assert sound[-1].dtype == image[-1].dtype == np.float32
            assert sound[-1].shape == (50, 80), "half a second, every 10 ms"
            assert image[-1].shape == (1, 1280)
            assert not image[-1][0, 32 * 32 :].any()
        seen += [record[0] for record in sounds]
    assert len(seen) == len(set(seen)), "no record is with two"
    partition = json.loads((out / "partition" / "mit10" / "partition.json").read_text())
    assert {client: len(found) for client, found in partition.items()} == exported.records
    assert [record[0] for found in partition.values() for record in found] == seen


@pytest.mark.slow
def test_signals_have_a_folder_a_fold(tmp_path: Path) -> None:
    watch = ("experiment=watch", "data.held_out=[person-03]")
    exported = export(watch, tmp_path)
    assert exported.dataset == "ku-har"
    for fold in range(1, 6):
        record = loaded(tmp_path, f"acc/ku-har/fold{fold}", "test")[0]
        assert isinstance(record[-1], np.ndarray)
        assert record[-1].shape[1] == 3
    assert "person-03" not in exported.records


@pytest.mark.parametrize(
    ("base", "says"),
    [
        (("experiment=folders", "data.root=here"), "not those of data=folders"),
        (("experiment=synthetic", "data.synthetic.kinds=[text,tabular]"), "need two signals of three channels"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, base: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        export(base, tmp_path)


def asked(out: Path, *more: str) -> list[str]:
    settings = [part for item in SMALL[1:] for part in ("--set", item)]
    return ["bench", "fedmultimodal", "--experiment", "synthetic", "--out", str(out), *settings, *more]


def test_without_a_checkout_the_comparison_is_skipped_in_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, asked(tmp_path), env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert "skipped: --checkout names no source tree" in done.output
    elsewhere = CliRunner().invoke(app, asked(tmp_path, "--checkout", str(tmp_path)))
    assert elsewhere.exit_code == 2
    assert "is not FedMultimodal's source tree" in elsewhere.output


@pytest.mark.slow
def test_its_figures_come_back_beside_ours(tmp_path: Path) -> None:
    trainer = tmp_path / "tree" / "fed_multimodal" / "experiment" / "mit10" / "train.py"
    trainer.parent.mkdir(parents=True)
    trainer.write_text(TRAINER)
    command = asked(tmp_path / "out", "--checkout", str(tmp_path / "tree"), "--seeds", "2", "--json")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    compared = json.loads(done.stdout)["compared"]
    assert compared["theirs"] == 0.625
    assert 0 <= compared["ours"]["mean"] <= 1
    trainer.write_text("raise SystemExit(3)")
    failed = CliRunner().invoke(app, command)
    assert failed.exit_code == 1
    assert "ended with code 3" in failed.output
