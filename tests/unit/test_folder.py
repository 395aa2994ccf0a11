"""Reading a site folder: all of it, or one sentence that says where to look."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.data.folder import DataError, keyed_split, read_site, read_spec
from common.data.manifest import inside
from tests.toy_federation import write_toy_sites

SPEC = """
name: here
subject: person
split: split
modalities:
  labs: {kind: tabular, columns: [crp, ldh], categorical: {blood: [a, b]}, missing: ["", "?"]}
  ecg:  {kind: tabular, columns: [rate]}
tasks:
  sick: {kind: binary, column: sick, classes: ["no", "yes"]}
attributes:
  sex: {column: sex, levels: [f, m]}
  age: {column: age, bands: [0, 50, 65, 200]}
"""
CSV = """person,split,crp,ldh,blood,rate,sick,sex,age
p2,train,1.5,?,a,60,yes,f,49.9
p1,test,,2,b,,no,m,50
p2,train,,,,80,no,f,
p3,train,,?,,,yes,m,65
p4,valid,0,0,a,70,,,200
"""


def write(folder: Path, *, spec: str = SPEC, csv: str | None = CSV) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.yaml").write_text(spec)
    if csv is not None:
        (folder / "manifest.csv").write_text(csv)
    return folder


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    site = read_site(write(tmp_path), split_seed=0)
    assert site.name == "here"
    assert site.held == ("ecg", "labs")
    assert site.subjects == ("p1", "p2", "p4")
    assert site.left_out == 1  # p3 has nothing at all
    np.testing.assert_array_equal(site.row_subject, [1, 0, 1, 2])
    assert site.split.tolist() == ["test", "train", "valid"]
    nan = np.nan
    expected = [[1.5, nan, 1, 0], [nan, 2, 0, 1], [nan, nan, nan, nan], [0, 0, 1, 0]]
    np.testing.assert_array_equal(site.readings["labs"].values, expected)
    np.testing.assert_array_equal(site.readings["ecg"].values, [[60], [nan], [80], [70]])
    np.testing.assert_array_equal(site.labels["sick"], [1, 0, 0, -1])
    np.testing.assert_array_equal(site.attributes["sex"], [0, 1, 0, -1])
    np.testing.assert_array_equal(site.attributes["age"], [0, 1, -1, 2])
    np.testing.assert_array_equal(site.subjects_of("train"), [1])
    np.testing.assert_array_equal(site.rows_of("train"), [0, 2])


def test_json_lines_and_parquet_say_the_same_as_csv(tmp_path: Path) -> None:
    columns = ["person", "split", "crp", "ldh", "blood", "rate", "sick", "sex", "age"]
    cells: list[list[object]] = [
        ["p1", "train", 1.5, None, "a", 60, "yes", "f", 40.0],
        ["p2", "test", 2.0, 3.0, None, None, "no", "f", None],
    ]
    rows = [dict(zip(columns, entry, strict=True)) for entry in cells]
    lines = [",".join(columns)] + [",".join("" if row[c] is None else str(row[c]) for c in columns) for row in rows]
    from_csv = read_site(write(tmp_path / "csv", csv="\n".join(lines)), split_seed=0)
    jsonl = write(tmp_path / "jsonl", csv=None)
    (jsonl / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    found = [read_site(jsonl, split_seed=0)]
    pyarrow = pytest.importorskip("pyarrow", reason="the optional package for Parquet is not installed")
    parquet = write(tmp_path / "parquet", csv=None)
    import pyarrow.parquet as writer  # noqa: PLC0415  (optional)

    writer.write_table(pyarrow.Table.from_pylist(rows), parquet / "manifest.parquet")
    for site in (*found, read_site(parquet, split_seed=0)):
        assert site.subjects == from_csv.subjects
        for name, readings in from_csv.readings.items():
            np.testing.assert_array_equal(site.readings[name].values, readings.values)
        np.testing.assert_array_equal(site.labels["sick"], from_csv.labels["sick"])
        np.testing.assert_array_equal(site.attributes["age"], from_csv.attributes["age"])


def line(number: int, text: str) -> Callable[[str], str]:
    """Replace one line of the CSV (1-based)."""
    return lambda csv: "\n".join(text if n == number else old for n, old in enumerate(csv.split("\n"), start=1))


BAD_CELLS: dict[str, tuple[Callable[[str], str], str]] = {
    "missing column": (
        lambda csv: csv.replace("ldh", "lhd"),
        "row 1, column ldh: .*modality labs; the manifest has person, split",
    ),
    "column twice": (lambda csv: csv.replace("ldh", "crp"), "row 1, column crp: the column appears twice"),
    "not a number": (line(3, "p1,test,,high,b,,no,m,50"), "row 3, column ldh: 'high' is not a number"),
    "infinite": (line(3, "p1,test,,inf,b,,no,m,50"), "row 3, column ldh: 'inf' is not a finite number"),
    "not a number, in words": (line(3, "p1,test,,nan,b,,no,m,50"), "row 3, column ldh: 'nan' is not a finite"),
    "unknown level": (line(2, "p2,train,1,1,o,60,yes,f,49"), "row 2, column blood: 'o' is none of a, b"),
    "label outside the task": (
        line(2, "p2,train,1,1,a,60,maybe,f,9"),
        "row 2, column sick: 'maybe' is none of no, yes",
    ),
    "unknown group": (line(2, "p2,train,1,1,a,60,yes,x,49"), "row 2, column sex: 'x' is none of f, m"),
    "age in words": (line(2, "p2,train,1,1,a,60,yes,f,old"), "row 2, column age: 'old' is not a number"),
    "subject in two splits": (
        line(4, "p2,test,,,,80,no,f,"),
        "row 4, column split: subject 'p2' is in test here and in",
    ),
    "unknown split": (line(2, "p2,dev,1,1,a,60,yes,f,49"), "row 2, column split: 'dev' is none of train, valid, test"),
    "nobody's row": (line(2, ",train,1,1,a,60,yes,f,49"), "row 2, column person: the subject is empty"),
    "too few cells": (line(3, "p1,test"), "row 3: 2 cells under a header of 9"),
    "a quote left open": (lambda csv: csv + '"p5,train', "not a readable CSV file"),
    "nothing at all": (lambda csv: "", "row 1: the file is empty"),
}


@pytest.mark.parametrize(("spoil", "says"), BAD_CELLS.values(), ids=BAD_CELLS)
def test_bad_cells_are_named_by_file_row_and_column(tmp_path: Path, spoil: Callable[[str], str], says: str) -> None:
    with pytest.raises(DataError, match=rf"manifest\.csv.*{says}") as caught:
        read_site(write(tmp_path, csv=spoil(CSV)), split_seed=0)
    assert "\n" not in str(caught.value)


def test_a_row_is_named_by_its_first_line_in_the_file(tmp_path: Path) -> None:
    spoilt = CSV.replace("p1,test,,2", '"p\n1",test,,2').replace("p2,train,,,,80", "p2,train,,,,fast")
    with pytest.raises(DataError, match=r"row 5, column rate: 'fast'"):
        read_site(write(tmp_path, csv=spoilt), split_seed=0)


BAD_SPECS = {
    "no YAML": ("name: [", r"dataset\.yaml: not readable as YAML"),
    "not a mapping": ("- here", r"dataset\.yaml: the file: "),
    "nothing": ("", r"dataset\.yaml: the file: keys and values were expected, as in `name: cleveland`, got None"),
    "unknown key": (SPEC + "colour: red\n", r"dataset\.yaml: colour: unknown key$"),
    "misspelt": (
        SPEC.replace("columns: [rate]", "colums: [rate]"),
        r"modalities\.ecg\.colums: .*did you mean columns\?",
    ),
    "no kind": (
        SPEC.replace("{kind: tabular, columns: [rate]}", "{columns: [rate]}"),
        r"ecg\.kind: is missing; one of tab",
    ),
    "no list": (SPEC.replace("[rate]", "rate"), r"ecg\.columns: a list was expected, got 'rate'; write \[rate\]"),
    "yes and no": (
        SPEC.replace('["no", "yes"]', "[no, yes]"),
        r"sick\.classes\.0: a text .*got False; YAML reads yes, no",
    ),
    "a name": (SPEC.replace("name: here", "name: Zürich 1"), r"name: a name has letters .*, got 'Zürich 1'"),
    "a modality's name": (SPEC.replace("ecg:", "é:"), r"modalities\.é: a name has letters"),
    "unknown kind": (
        SPEC.replace("tabular, columns: [rate]", "smell, columns: [rate]"),
        r"ecg\.kind: 'smell' is none of tab",
    ),
    "no tasks": (SPEC.replace("tasks:\n  sick:", "tusks:\n  sick:"), r"dataset\.yaml: "),
}


@pytest.mark.parametrize(("spec", "says"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_bad_description_is_named_by_file_and_key(tmp_path: Path, spec: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_spec(write(tmp_path, spec=spec))
    assert "\n" not in str(caught.value)


def test_missing_and_doubled_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.yaml: no such file"):
        read_spec(tmp_path)
    folder = write(tmp_path / "one", csv=None)
    with pytest.raises(DataError, match=r"no manifest: expected one of manifest\.csv"):
        read_site(folder, split_seed=0)
    (write(folder) / "manifest.jsonl").write_text("")
    with pytest.raises(DataError, match=r"more than one manifest: manifest\.csv, manifest\.jsonl"):
        read_site(folder, split_seed=0)


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("manifest.jsonl", b'{"person": "p1"}\n{broken\n', "row 2: not JSON"),
        ("manifest.jsonl", b"[1]\n", "row 1: a JSON object was expected"),
        ("manifest.jsonl", b'{"person": ["p1"]}\n', "row 1, column person: a text, number or nothing"),
        ("manifest.jsonl", b"\xff\xfe", "not a readable text file"),
        ("manifest.csv", b"person\n\xff\xfe\n", "not a readable CSV file .*save it as UTF-8"),
        ("manifest.csv", b"person;split\np1;train\n", "row 1: its cells are divided by ';': save it with commas"),
        ("manifest.csv", b"person\tsplit\np1\ttrain\n", "row 1: its cells are divided by"),
    ],
)
def test_unreadable_manifests_are_named(tmp_path: Path, name: str, body: bytes, says: str) -> None:
    (write(tmp_path, csv=None) / name).write_bytes(body)
    with pytest.raises(DataError, match=says):
        read_site(tmp_path, split_seed=0)


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the optional package for Parquet is not installed")
    (write(tmp_path, csv=None) / "manifest.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_site(tmp_path, split_seed=0)


@pytest.mark.parametrize("name", ["dataset.yaml", "manifest.csv"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    outside, folder = write(tmp_path / "outside"), write(tmp_path / "folder")
    (folder / name).unlink()
    os.symlink(outside / name, folder / name)
    with pytest.raises(DataError, match="the path leaves the site folder"):
        read_site(folder, split_seed=0)
    (folder / name).unlink()
    (outside / name).rename(folder / "elsewhere")
    os.symlink(folder / "elsewhere", folder / name)
    assert read_site(folder, split_seed=0).name == "here"


@pytest.mark.parametrize("relative", ["../secret", "/etc/passwd", "a/../../secret"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, relative: str) -> None:
    (tmp_path / "secret").write_text("x")
    folder = write(tmp_path / "folder")
    with pytest.raises(DataError, match="the path leaves the site folder"):
        inside(folder, relative)


def test_without_a_split_column_one_subject_never_moves_another(tmp_path: Path) -> None:
    spec = SPEC.replace("split: split\n", "")
    rows = [f"p{n},,1,1,a,60,yes,f,49" for n in range(60)]
    header = CSV.split("\n", maxsplit=1)[0]
    every = read_site(write(tmp_path / "every", spec=spec, csv="\n".join([header, *rows])), split_seed=7)
    some = read_site(write(tmp_path / "some", spec=spec, csv="\n".join([header, *rows[::2]])), split_seed=7)
    split = dict(zip(every.subjects, every.split.tolist(), strict=True))
    assert dict(zip(some.subjects, some.split.tolist(), strict=True)).items() <= split.items()
    other = read_site(tmp_path / "every", split_seed=8)
    assert split != dict(zip(other.subjects, other.split.tolist(), strict=True))
    assert 0.65 < np.mean([keyed_split(0, f"p{n}") == "train" for n in range(5000)]) < 0.75


def test_an_empty_table_is_a_site_without_anyone(tmp_path: Path) -> None:
    site = read_site(write(tmp_path, csv=CSV.split("\n", maxsplit=1)[0] + "\n"), split_seed=0)
    assert site.subjects == ()
    assert site.readings["labs"].values.shape == (0, 4)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    folder = write(tmp_path, csv=None)
    (folder / "manifest.csv").write_bytes(b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())
    assert read_site(folder, split_seed=0).subjects == ("p1", "p2", "p4")


def test_toy_sites_hold_what_they_say(tmp_path: Path) -> None:
    paths = write_toy_sites(tmp_path, sites=3, subjects=30, lacking={"site-1": ("labs",)})
    sites = [read_site(path, split_seed=0) for path in paths]
    assert [site.held for site in sites] == [("labs", "vitals", "ward"), ("vitals", "ward"), ("labs", "vitals", "ward")]
    assert all(len(site.subjects) == 30 and len(site.row_subject) > 30 for site in sites)
    assert all(len(site.subjects_of("train")) and len(site.subjects_of("test")) for site in sites)
    assert all(set(site.labels["sick"]) == {0, 1} for site in sites)


def test_numbers_and_labels_are_read_and_an_empty_cell_is_unknown(tmp_path: Path) -> None:
    spec = SPEC.replace(
        "tasks:",
        "tasks:\n  rate: {kind: regression, column: age, bounds: [0, 100]}\n"
        "  both: {kind: multilabel, columns: [sick, left], classes: ['no', 'yes']}",
    )
    csv = "person,split,crp,ldh,blood,rate,sick,left,sex,age\np1,test,1,2,b,60,no,,m,50\np2,train,1,2,b,60,,yes,f,\n"
    site = read_site(write(tmp_path, spec=spec, csv=csv), split_seed=0)
    np.testing.assert_array_equal(site.labels["rate"], [50, np.nan])
    np.testing.assert_array_equal(site.labels["both"], [[0, -1], [-1, 1]])
    with pytest.raises(DataError, match=r"row 2, column left: 'perhaps' is none of no, yes"):
        read_site(write(tmp_path, spec=spec, csv=csv.replace("no,,m", "no,perhaps,m")), split_seed=0)
    with pytest.raises(DataError, match=r"row 2, column age: 'old' is not a number"):
        read_site(write(tmp_path, spec=spec, csv=csv.replace("m,50", "m,old")), split_seed=0)
