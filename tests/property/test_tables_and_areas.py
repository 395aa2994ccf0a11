from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.fairness.table import EVERYONE, TableLayout, conditions_of, fill, l2_sensitivity
from common.fairness.texts import fill_texts
from common.metrics.histogram import Histogram, auroc

LAYOUT = TableLayout(
    "disease",
    "binary",
    conditions_of(["ecg", "labs", "note"]),
    (("sex", "female"), ("sex", "male"), ("age", "young"), ("age", "old")),
    ("0", "1"),
    5,
)
rows = st.lists(
    st.tuples(st.integers(0, 5), st.floats(0, 1), st.integers(-1, 1), st.integers(-1, 1), st.integers(-1, 1)),
    min_size=1,
    max_size=20,
)
TELLING = replace(LAYOUT, groups=(EVERYONE,), told=("note", "report"))
written = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([-3.0, 0.0, 0.001, 0.3, 0.5, 1.0, 7.0, np.nan])), max_size=15
)
cells = st.lists(st.integers(0, 6), min_size=5, max_size=5)


def counted(people: list[tuple[int, float, int, int, int]]) -> np.ndarray:
    subject, score, label, sex, age = (
        (np.array(column) for column in zip(*people, strict=True)) if people else [np.zeros(0, int)] * 5
    )
    scores = {c.name: np.clip(score * (1 + number / 10), 0, 1)[:, None] for number, c in enumerate(LAYOUT.conditions)}
    return fill(
        LAYOUT, scores, label.astype(int), {"sex": sex.astype(int), "age": age.astype(int)}, subject.astype(int)
    )


@given(rows, st.integers(0, 5))
def test_taking_any_subject_out_moves_the_table_by_no_more_than_its_sensitivity(
    people: list[tuple[int, float, int, int, int]], taken: int
) -> None:
    rest = [row for row in people if row[0] != taken]
    assert np.linalg.norm(counted(people) - counted(rest)) <= l2_sensitivity(LAYOUT) + 1e-9


def test_a_subject_whose_every_attribute_is_known_moves_it_by_exactly_that() -> None:
    assert np.linalg.norm(counted([(0, 0.5, 1, 1, 0)])) == pytest.approx(l2_sensitivity(LAYOUT))


def told(rows: list[tuple[int, float]]) -> np.ndarray:
    """A whole table, its counts first: everybody is ill and has a score of a half."""
    subjects = np.array([subject for subject, _ in rows], dtype=np.int64)
    score = np.array([score for _, score in rows], dtype=np.float64)
    half = {one.name: np.full((len(rows), 1), 0.5) for one in TELLING.conditions}
    texts = {
        one.name: {name: np.column_stack([score, score, 1 - score]) for name in TELLING.told}
        for one in TELLING.conditions
    }
    counts = fill(TELLING, half, np.ones(len(rows), dtype=np.int64), {}, subjects)
    return np.concatenate([counts, fill_texts(TELLING, texts, subjects)])


@given(written, st.integers(0, 4))
def test_taking_any_subject_out_moves_a_table_about_texts_by_no_more_than_its_sensitivity(
    rows: list[tuple[int, float]], taken: int
) -> None:
    table, rest = told(rows), told([row for row in rows if row[0] != taken])
    assert table.shape == (TELLING.size,)
    assert np.linalg.norm(table - rest) <= l2_sensitivity(TELLING) * (1 + 1e-12)


def test_a_subject_with_the_best_texts_moves_it_by_nearly_that() -> None:
    moved = float(np.linalg.norm(told([(0, 1.0), (0, 1.0)])))
    assert 0.999 * l2_sensitivity(TELLING) < moved <= l2_sensitivity(TELLING)


@given(cells, cells)
def test_the_area_from_bins_is_the_share_of_pairs_won_with_ties_as_half(
    negative: list[int], positive: list[int]
) -> None:
    below, above = (np.repeat(np.arange(5), np.array(counts)) for counts in (negative, positive))
    figure = auroc(Histogram(np.array([negative, positive], dtype=float), 0.0, 2))
    if not len(below) or not len(above):
        assert figure.value is None
        return
    ties = (above[:, None] == below[None]).mean()
    if ties > 0.5:
        assert figure.value is None, "an order that the bins lose is not called a half"
        return
    won = (above[:, None] > below[None]).mean() + 0.5 * ties
    assert figure.value == pytest.approx(won)
