"""The description of a site folder, and what a federation's sites must agree on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from common.data.folder import read_site
from common.data.modalities import TabularSpec
from common.data.schema import FolderSpec, Schema, merge_schemas

DESCRIPTION: Mapping[str, object] = {
    "name": "here",
    "subject": "person",
    "modalities": {
        "labs": {"kind": "tabular", "columns": ["crp", "ldh"], "categorical": [], "missing": ["", "?"]},
        "person": {"kind": "tabular", "columns": ["age"], "categorical": {"sex": ["f", "m"], "cp": ["a", "b", "c"]}},
    },
    "tasks": {"icu": {"kind": "binary", "column": "icu"}},
    "attributes": {"sex": "sex", "age": {"column": "age", "bands": [0, 50, 65, 200]}},
}


def spec_of(**changes: object) -> FolderSpec:
    return FolderSpec.model_validate({**DESCRIPTION, **changes})


def test_the_short_forms_are_read() -> None:
    spec = spec_of()
    assert spec.tables["labs"].categorical == {}
    assert spec.tasks["icu"].classes == ("0", "1")
    assert spec.attributes["sex"].levels == ("f", "m")
    assert spec.attributes["age"].levels == ("<50", "50-65", ">=65")


def test_classes_may_be_written_as_numbers() -> None:
    spec = spec_of(tasks={"grade": {"kind": "multiclass", "column": "grade", "classes": [0, 1, 2]}})
    assert spec.tasks["grade"].classes == ("0", "1", "2")
    assert spec.tasks["grade"].num_logits == 3
    assert spec_of().tasks["icu"].num_logits == 1


@pytest.mark.parametrize(
    ("options", "features"),
    [({}, 2 + 5), ({"indicators": False}, 1 + 5), ({"indicators": False, "drop_first": True}, 1 + 3)],
)
def test_features_are_values_indicators_and_levels(options: dict[str, bool], features: int) -> None:
    entry = {"kind": "tabular", "columns": ["age"], "categorical": {"sex": ["f", "m"], "cp": ["a", "b", "c"]}}
    assert TabularSpec.model_validate({**entry, **options}).num_features == features


def test_a_task_may_be_a_number_or_a_list_of_labels() -> None:
    tasks = {
        "stay": {"kind": "regression", "column": "days", "bounds": [0, 30]},
        "findings": {"kind": "multilabel", "columns": ["edema", "rash"]},
    }
    spec = spec_of(tasks=tasks)
    assert spec.tasks["stay"].num_logits == 1
    assert spec.tasks["findings"].num_logits == 2
    assert spec.tasks["findings"].named_columns == ("edema", "rash")
    with pytest.raises(ValidationError, match="'edema', which is the label of task findings"):
        spec_of(tasks=tasks, modalities={"x": {"kind": "tabular", "columns": ["edema"]}}, attributes={})


LABS = {"kind": "tabular", "columns": ["crp"]}
BAD: dict[str, tuple[dict[str, object], str]] = {
    "unknown key": ({"colour": "red"}, "colour"),
    "unknown kind": (
        {"modalities": {"x": {"kind": "smell", "columns": ["a"]}}},
        "any of the expected tags",
    ),
    "unknown option": ({"modalities": {"x": {**LABS, "colums": ["a"]}}}, "modalities.x.tabular.colums"),
    "no columns": ({"modalities": {"x": {"kind": "tabular", "columns": []}}}, "at least one column"),
    "no modality": ({"modalities": {}}, "modalities"),
    "levels unknown": ({"modalities": {"x": {**LABS, "categorical": ["sex"]}}}, "public levels"),
    "one level": ({"modalities": {"x": {**LABS, "categorical": {"sex": ["f"]}}}}, "two or more"),
    "level twice": ({"modalities": {"x": {**LABS, "categorical": {"sex": ["f", "f"]}}}}, "each once"),
    "column twice": ({"modalities": {"x": {**LABS, "columns": ["crp", "crp"]}}}, "listed twice"),
    "bounds of nothing": ({"modalities": {"x": {**LABS, "bounds": {"age": [0, 1]}}}}, "no numeric column"),
    "bounds upside down": ({"modalities": {"x": {**LABS, "bounds": {"crp": [1, 0]}}}}, "low < high"),
    "bounds infinite": ({"modalities": {"x": {**LABS, "bounds": {"crp": [0, float("inf")]}}}}, "finite"),
    "three binary classes": ({"tasks": {"t": {"kind": "binary", "column": "c", "classes": [0, 1, 2]}}}, "two classes"),
    "classes left to a default": ({"tasks": {"t": {"kind": "multiclass", "column": "c"}}}, "needs `classes`"),
    "class twice": ({"tasks": {"t": {"kind": "binary", "column": "c", "classes": ["a", "a"]}}}, "each once"),
    "boolean class": ({"tasks": {"t": {"kind": "binary", "column": "c", "classes": [False, True]}}}, "string"),
    "label as input": (
        {"attributes": {}, "modalities": {"x": {**LABS, "columns": ["crp", "icu"]}}},
        "label of task icu",
    ),
    "a number without a range": (
        {"tasks": {"stay": {"kind": "regression", "column": "days"}}},
        "a regression task needs public bounds",
    ),
    "labels in one column": (
        {"tasks": {"seen": {"kind": "multilabel", "column": "seen", "classes": ["a", "b"]}}},
        "one column a label",
    ),
    "labels of three classes": (
        {"tasks": {"seen": {"kind": "multilabel", "columns": ["a"], "classes": ["x", "y", "z"]}}},
        "a multilabel task has two classes",
    ),
    "a task in no column": ({"tasks": {"icu": {"kind": "binary"}}}, "a binary task needs `column`"),
    "a class with a range": (
        {"tasks": {"icu": {"kind": "binary", "column": "icu", "bounds": [0, 1]}}},
        "a binary task has no bounds",
    ),
    "subject as input": ({"attributes": {}, "modalities": {"x": {**LABS, "columns": ["person"]}}}, "the subject"),
    "attribute without levels": ({"attributes": {"town": "town"}}, "attributes.town: Value error, needs public levels"),
    "bands upside down": ({"attributes": {"age": {"column": "age", "bands": [0, 60, 50]}}}, "ascending"),
    "one band": ({"attributes": {"age": {"column": "age", "bands": [0, 60]}}}, "three or more"),
    "bands and others' levels": (
        {"attributes": {"age": {"column": "age", "bands": [0, 50, 99], "levels": ["young", "old"]}}},
        "leave them out",
    ),
    "a name that climbs": ({"name": ".."}, "name"),
    "a name with a slash": ({"name": "a/b"}, "name"),
    "a modality that is no name": ({"modalities": {"a/b": LABS}}, "modalities"),
}


@pytest.mark.parametrize(("changes", "says"), BAD.values(), ids=BAD)
def test_a_description_that_cannot_be_is_refused_and_named(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec_of(**changes)
    first = caught.value.errors()[0]
    assert says in f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def test_the_schema_is_the_union_whatever_the_order_of_the_sites() -> None:
    modalities = dict(spec_of().model_dump()["modalities"])
    with_ecg = spec_of(name="there", modalities={"labs": modalities["labs"], "ecg": LABS}, attributes={})
    forwards, backwards = merge_schemas([spec_of(), with_ecg]), merge_schemas([with_ecg, spec_of()])
    assert list(forwards.modalities) == ["ecg", "labs", "person"]
    assert forwards.model_dump_json() == backwards.model_dump_json()
    assert Schema.model_validate_json(forwards.model_dump_json()) == forwards


def test_sites_that_list_categorical_columns_in_other_orders_have_the_same_features(tmp_path: Path) -> None:
    columns = {"sex": ["f", "m"], "cp": ["a", "b", "c"]}
    sites = []
    for name, order in (("here", ("sex", "cp")), ("there", ("cp", "sex"))):
        entry = {"kind": "tabular", "categorical": {column: columns[column] for column in order}}
        description = {**DESCRIPTION, "name": name, "modalities": {"person": entry}, "attributes": {}}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
        (folder / "manifest.csv").write_text("person,icu,sex,cp\np1,0,m,a\n")
        sites.append(read_site(folder, split_seed=0))
    first, second = sites
    assert first.readings["person"].values.tolist() == second.readings["person"].values.tolist() == [[1, 0, 0, 0, 1]]
    assert merge_schemas([first.spec, second.spec]).modalities["person"] == first.spec.modalities["person"]
    assert list(first.spec.tables["person"].categorical) == ["cp", "sex"]


def test_sites_that_list_levels_in_other_orders_disagree() -> None:
    modalities = spec_of().model_dump()["modalities"]
    modalities["person"]["categorical"]["sex"] = ("m", "f")
    with pytest.raises(ValueError, match="modality 'person': sites here and there disagree on categorical"):
        merge_schemas([spec_of(), spec_of(name="there", modalities=modalities, attributes={})])


def test_how_a_folder_writes_missing_is_its_own_affair() -> None:
    modalities = {**dict(spec_of().model_dump()["modalities"]), "labs": {**LABS, "columns": ["crp", "ldh"]}}
    merged = merge_schemas([spec_of(), spec_of(name="there", modalities=modalities)])
    assert merged.modalities["labs"].missing == ("",)


def test_sites_that_disagree_are_named_with_what_they_disagree_on() -> None:
    modalities = {**dict(spec_of().model_dump()["modalities"]), "labs": LABS}
    with pytest.raises(ValueError, match="modality 'labs': sites here and there disagree on columns"):
        merge_schemas([spec_of(), spec_of(name="there", modalities=modalities)])
    with pytest.raises(ValueError, match="task 'icu': sites here and there disagree on column"):
        merge_schemas([spec_of(), spec_of(name="there", tasks={"icu": {"kind": "binary", "column": "ward"}})])
    attributes = {"sex": {"column": "sex", "levels": ["m", "f"]}}
    with pytest.raises(ValueError, match="attribute 'sex': sites here and there disagree on levels"):
        merge_schemas([spec_of(), spec_of(name="there", attributes=attributes)])


def test_two_sites_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two site folders are called 'here'"):
        merge_schemas([spec_of(), spec_of()])
