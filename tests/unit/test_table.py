from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from common.data.schema import Schema
from common.fairness.table import (
    EVERYONE,
    Condition,
    TableLayout,
    audit_layout,
    conditions_of,
    evaluation_layout,
    fill,
    l2_sensitivity,
    subjects_by_label,
    unflatten,
)

ONE = TableLayout("disease", "binary", (Condition("all", ("labs",)),), (EVERYONE,), ("0", "1"), 10)
BY_SEX = replace(ONE, groups=(("sex", "female"), ("sex", "male")))

SCHEMA = Schema.model_validate(
    {
        "modalities": {name: {"kind": "tabular", "columns": [name]} for name in ("ecg", "labs", "note")},
        "tasks": {
            "disease": {"kind": "binary", "column": "num"},
            "stage": {"kind": "multiclass", "column": "stage", "classes": ["a", "b", "c"]},
            "stay": {"kind": "regression", "column": "stay", "bounds": [0, 20]},
            "findings": {"kind": "multilabel", "columns": ["edema", "rash"]},
        },
        "attributes": {
            "sex": {"column": "sex", "levels": ["female", "male"]},
            "age": {"column": "age", "bands": [0, 50, 60, 120]},
        },
    }
)


def count(
    layout: TableLayout, scores: list[float], labels: list[int], sex: list[int], subjects: list[int]
) -> np.ndarray:
    said = {condition.name: np.array(scores)[:, None] for condition in layout.conditions}
    vector = fill(layout, said, np.array(labels), {"sex": np.array(sex)}, np.array(subjects))
    return unflatten(layout, vector)


def test_conditions_are_all_each_alone_and_each_left_out() -> None:
    names = [condition.name for condition in conditions_of(["labs", "ecg", "note"])]
    assert names == ["all", "only:ecg", "only:labs", "only:note", "without:ecg", "without:labs", "without:note"]
    assert [c.name for c in conditions_of(["b", "a", "c"], alone=False)] == [
        "all",
        "without:a",
        "without:b",
        "without:c",
    ]


def test_with_two_modalities_leaving_one_out_is_not_repeated() -> None:
    assert [condition.name for condition in conditions_of(["a", "b"])] == ["all", "only:a", "only:b"]
    assert [condition.name for condition in conditions_of(["a"])] == ["all"]


def test_the_second_row_of_a_subject_adds_nothing_and_its_mean_score_counts() -> None:
    table = count(ONE, [0.1, 0.9, 0.3], [1, 0, 1], [0, 0, 0], [4, 4, 7])
    assert table.sum() == 2
    assert table[0, 0, 0, 5] == 1  # subject 4: mean .5, its last row's label
    assert table[0, 0, 1, 2] == 1


def test_a_score_of_one_falls_into_the_last_bin_and_one_at_an_edge_into_the_upper() -> None:
    table = count(ONE, [1.0, 0.5, 0.0], [1, 1, 1], [0, 0, 0], [0, 1, 2])
    assert np.flatnonzero(table[0, 0, 1]).tolist() == [0, 5, 9]


def test_a_subject_whose_label_or_score_is_unknown_counts_nowhere() -> None:
    assert count(ONE, [math.nan, 0.5, 0.2], [1, -1, 1], [0, 0, 0], [0, 1, 2]).sum() == 1


def test_a_subject_of_unknown_level_is_in_no_group() -> None:
    table = count(BY_SEX, [0.2, 0.6, 0.7], [0, 1, 1], [0, -1, 1], [0, 1, 2])
    assert table.sum(axis=(0, 2, 3)).tolist() == [1, 1]


def test_no_rows_give_an_empty_table() -> None:
    assert fill(ONE, {"all": np.zeros((0, 1))}, np.zeros(0, int), {}, np.zeros(0, int)).tolist() == [0] * ONE.size


def test_the_condition_that_most_is_read_off_weighs_more_and_reads_as_subjects_again() -> None:
    layout = replace(ONE, conditions=conditions_of(["ecg", "labs"]))
    scores = {condition.name: np.full((3, 1), 0.25) for condition in layout.conditions}
    vector = fill(layout, scores, np.ones(3, int), {}, np.arange(3))
    assert vector.reshape(layout.shape)[:, 0, 1, 2].tolist() == [6, 3, 3]
    assert unflatten(layout, vector)[:, 0, 1, 2].tolist() == [3, 3, 3]
    assert l2_sensitivity(layout) == pytest.approx(math.sqrt(4 + 1 + 1))


def test_a_multiclass_table_counts_the_predicted_class() -> None:
    layout = TableLayout("kind", "multiclass", (Condition("all", ("labs",)),), (EVERYONE,), ("a", "b", "c"), 3)
    scores = {"all": np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])}
    table = unflatten(layout, fill(layout, scores, np.array([1, 2]), {}, np.array([0, 1])))
    assert table[0, 0, 1, 1] == 1
    assert table[0, 0, 2, 0] == 1


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="20 cells"):
        unflatten(ONE, np.zeros(21, np.int64))


def test_the_evaluation_looks_at_everyone_and_the_audit_at_the_groups_of_the_asked_attributes() -> None:
    evaluation = evaluation_layout(SCHEMA, task="disease", bins=10)
    assert evaluation.shape == (7, 1, 2, 10)
    audit = audit_layout(SCHEMA, task="disease", attributes=("sex", "age"), bins=10)
    assert audit.groups == (("sex", "female"), ("sex", "male"), ("age", "<50"), ("age", "50-60"), ("age", ">=60"))
    assert audit.shape == (4, 5, 2, 10)
    assert l2_sensitivity(audit) == pytest.approx(math.sqrt(2 * (4 + 3)))


def test_the_table_of_a_multiclass_task_has_a_column_per_class() -> None:
    assert evaluation_layout(SCHEMA, task="stage", bins=10).shape == (7, 1, 3, 3)


def test_an_attribute_or_task_that_the_sites_lack_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"audit\.attributes names 'race'"):
        audit_layout(SCHEMA, task="disease", attributes=("race",), bins=10)
    with pytest.raises(ValueError, match="names an attribute twice"):
        audit_layout(SCHEMA, task="disease", attributes=("sex", "sex"), bins=10)
    with pytest.raises(ValueError, match=r"objective\.task is 'death'"):
        evaluation_layout(SCHEMA, task="death", bins=10)


def test_each_known_label_counts_in_a_histogram_of_its_own() -> None:
    layout = evaluation_layout(SCHEMA, task="findings", bins=10)
    said = {one.name: np.array([[0.1, 0.9], [0.5, 0.5]]) for one in layout.conditions}
    labels = np.array([[1, -1], [0, 1]])
    table = unflatten(layout, fill(layout, said, labels, {}, np.array([0, 1])))[0, 0]
    assert layout.labels == ("edema = 0", "edema = 1", "rash = 0", "rash = 1")
    assert np.argwhere(table).tolist() == [[0, 5], [1, 1], [3, 5]]
    assert subjects_by_label(layout, table).tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("task", ["disease", "stage", "stay", "findings"])
def test_one_subject_moves_a_table_by_its_sensitivity_at_most(task: str) -> None:
    random = np.random.default_rng(3)
    layout = audit_layout(SCHEMA, task=task, attributes=("sex", "age"), bins=10)
    spec, rows, groups = SCHEMA.tasks[task], 3, {"sex": np.zeros(3, int), "age": np.full(3, 2)}
    moved = []
    for sign in (-1.0, 1.0, 0.0):
        if task == "stay":  # the far ends of the range, and the middle
            answers, labels = np.full((rows, 1), sign), np.full(rows, -sign)
        else:
            answers = random.random((rows, spec.num_logits))
            labels = random.integers(0, 2, (rows, spec.num_logits) if task == "findings" else rows)
        said = {one.name: answers for one in layout.conditions}
        moved.append(float(np.linalg.norm(fill(layout, said, labels, groups, np.zeros(rows, int)))))
    # Sums are rounded, and whether each half step of rounding is used up depends on the numbers.
    assert max(moved) == pytest.approx(l2_sensitivity(layout), rel=1e-3)
    assert max(moved) <= l2_sensitivity(layout) * (1 + 1e-12)


def test_a_number_that_is_not_known_counts_nowhere_and_wild_ones_are_cut_to_the_range() -> None:
    layout = evaluation_layout(SCHEMA, task="stay", bins=10)
    said = {one.name: np.array([[9.0], [0.0], [math.nan]]) for one in layout.conditions}
    table = unflatten(layout, fill(layout, said, np.array([-9.0, math.nan, 0.0]), {}, np.arange(3)))
    assert table[0, 0, 0].tolist() == [1, 1, 1, 1, 1, -0.5, 0.25]
