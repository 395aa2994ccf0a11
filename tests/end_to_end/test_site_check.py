"""`fedmosaic site check`: a table, a JSON object, a page; one line and exit code 2 for every bad input."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from client.policy import Policy, write_policy
from simulations.cli import app
from tests.every_modality import write_every_modality
from tests.files_of_every_kind import write_dicom


def say(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["site", "check", *map(str, arguments)], env={"COLUMNS": "200"})
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_every_modality(tmp_path_factory.mktemp("data"), sites=2, lacking={"site-1": ("voice",)})[0].parent


def test_a_table_says_who_has_what_and_what_could_leave(root: Path) -> None:
    code, out, err = say(root)
    assert (code, err) == (0, "")
    for words in ("site-0: 24 subjects", "site-1: 24 subjects", "sick: 1", "1 x 1 x 16 x 16", "25 Hz", "never leaves"):
        assert words in out
    assert "cohort test has" in out


def test_one_json_object_says_the_same(root: Path, tmp_path: Path) -> None:
    code, out, _ = say(root / "site-0", "--json")
    assert code == 0
    found = json.loads(out)
    (site,) = found["sites"]
    assert site["subjects"] == 24
    assert {facts["name"] for facts in site["modalities"]} == {"labs", "note", "ppg", "voice", "xray"}
    assert {item["purpose"] for item in found["leaves"]} >= {"training", "evaluation"}
    write_policy(tmp_path / "policy.yaml", Policy(lifetime_epsilon=1, lifetime_delta=1e-9, allow_no_secagg=True))
    _, out, _ = say(root / "site-0", "--json", "--policy", tmp_path / "policy.yaml")
    assert "NOT masked" in json.dumps(json.loads(out)["leaves"])


class Links(HTMLParser):
    """Whatever a page would load."""

    found: tuple[str, ...] = ()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        loads = {"src", "href", "xlink:href"}
        self.found += tuple(value or "" for key, value in attrs if key in loads and not (value or "").startswith("#"))
        assert tag not in {"script", "link", "iframe"}


def test_the_page_is_one_file_for_its_owner(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "check.html"
    assert say(root, "--out", page)[0] == 0
    assert page.stat().st_mode & 0o777 == 0o600
    text, links = page.read_text(), Links()
    links.feed(text)
    assert links.found == ()
    assert text.count("<svg") == 2
    assert "What never leaves" in text


def first(folder: Path, column: int) -> str:
    with (folder / "manifest.csv").open(newline="") as file:
        return next(row[column] for row in list(csv.reader(file))[1:] if row[column])


def cut(suffix: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        table = (folder / "manifest.csv").read_text()
        path = next(path for path in sorted(folder.rglob(f"*{suffix}")) if path.name in table)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return harm


def replaced(column: int, cell: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        table = folder / "manifest.csv"
        table.write_text(table.read_text().replace(first(folder, column), cell, 1))

    return harm


def linked(folder: Path) -> None:
    (folder.parent / "elsewhere.png").write_bytes((folder / first(folder, IMAGE)).read_bytes())
    os.symlink(folder.parent / "elsewhere.png", folder / "images" / "link.png")
    replaced(IMAGE, "images/link.png")(folder)


def pickled(folder: Path) -> None:
    np.save(folder / "signals" / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    replaced(SIGNAL, "signals/x.npy")(folder)


def named(folder: Path) -> None:
    write_dicom(folder / "images" / "x.dcm", tags={"PatientBirthDate": "19700101"})
    replaced(IMAGE, "images/x.dcm")(folder)


def empty(folder: Path) -> None:
    soundfile.write(folder / "sounds" / "x.wav", np.zeros(0), 1000)
    replaced(SOUND, "sounds/x.wav")(folder)


def twice(folder: Path) -> None:
    spec = folder.parent / "site-1" / "dataset.yaml"
    spec.write_text(spec.read_text().replace("name: site-1", "name: site-0"))


IMAGE, NOTE, SOUND, SIGNAL = 3, 4, 5, 6
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing file": (lambda folder: (folder / first(folder, IMAGE)).unlink(), "column xray_path: .*no such file"),
    "truncated image": (cut(".png"), "column xray_path: .*write it anew"),
    "truncated sound": (cut(".wav"), "column wav_path: "),
    "truncated signal": (cut(".npy"), "column ppg_path: "),
    "climbs out": (replaced(IMAGE, "../site-1/images/0000-0.png"), "column xray_path: .*leaves the site folder"),
    "absolute": (replaced(IMAGE, "/etc/hostname"), "column xray_path: .*leaves the site folder"),
    "link": (linked, "column xray_path: .*leaves the site folder"),
    "pickle": (pickled, "column ppg_path: "),
    "named patient": (named, "column xray_path: .*PatientBirthDate is not empty"),
    "no samples": (empty, "column wav_path: .*no samples"),
    "other kind": (replaced(IMAGE, "dataset.yaml"), r"column xray_path: .*none of the files that are read here"),
    "bad start": (replaced(7, "soon"), "column ppg_start: 'soon' is not a finite number"),
    "one name twice": (twice, "two site folders are called 'site-0'"),
}


@pytest.mark.parametrize(("harm", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, harm: Callable[[Path], None], says: str) -> None:
    folder = write_every_modality(tmp_path, sites=2, subjects=6)[0]
    harm(folder)
    code, out, err = say(tmp_path)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(says, err), err


def test_a_folder_without_data_is_wrong_usage(tmp_path: Path) -> None:
    assert say(tmp_path)[0] == 2
    assert "there is no dataset.yaml" in say(tmp_path)[2]
