from __future__ import annotations

import numpy as np
import pytest

from common.fairness.groups import audit_figures
from common.fairness.result import AuditResult
from common.fairness.table import TableLayout, conditions_of, fill

LAYOUT = TableLayout(
    "disease",
    "binary",
    conditions_of(["labs", "note"], alone=False),
    (("sex", "female"), ("sex", "male"), ("age", "<50"), ("age", "50-60"), ("age", ">=60")),
    ("0", "1"),
    10,
)


def subjects(count: int, *, women: float = 0.5, old: float = 0.3, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    old_or_not = [(1 - old) / 2, (1 - old) / 2, old]
    return {
        "sex": (rng.random(count) >= women).astype(np.int64),
        "age": rng.choice(3, count, p=old_or_not),
        "label": rng.integers(0, 2, count),
        "score": rng.random(count),
    }


def audited(people: dict[str, np.ndarray], *, noise_std: float = 0.0, lowered: float = 0.0) -> AuditResult:
    """Audit these people; `lowered` is taken off the women's scores where notes are in sight."""
    score = np.clip(0.35 * people["label"] + 0.65 * people["score"], 0, 1)
    harmed = np.clip(score - lowered * (people["sex"] == 0), 0, 1)
    scores = {c.name: (harmed if "note" in c.keep else score)[:, None] for c in LAYOUT.conditions}
    counts = fill(LAYOUT, scores, people["label"], people, np.arange(len(score)))
    noise = np.rint(np.random.default_rng(5).normal(0, noise_std, counts.size)).astype(np.int64)
    return audit_figures(LAYOUT, counts + noise, noise_std=noise_std, threshold=0.5, min_cell=11)


def test_without_noise_the_figures_are_those_of_the_pooled_records() -> None:
    people = subjects(600)
    positive = 0.35 * people["label"] + 0.65 * people["score"] >= 0.5
    for group in audited(people).groups:
        names = [level for attribute, level in LAYOUT.groups if attribute == group.attribute]
        members = people[group.attribute] == names.index(group.group)
        ill = members & (people["label"] == 1)
        assert group.n.value == pytest.approx(members.sum(), abs=1e-9)
        assert group.figures["tpr"].value == pytest.approx(positive[ill].mean(), abs=1e-9)
        assert group.figures["selection_rate"].value == pytest.approx(positive[members].mean(), abs=1e-9)


def test_a_small_group_is_suppressed_with_the_one_that_would_give_it_away() -> None:
    result = audited(subjects(300, women=0.02))
    hidden = {(group.attribute, group.group): group.suppressed for group in result.groups if group.suppressed}
    assert hidden[("sex", "female")] == "fewer than 11 subjects: cannot be said"
    assert hidden[("sex", "male")] == "not shown: with the total it would give away the small group 'female'"
    assert not any(attribute == "age" for attribute, _ in hidden)
    assert all(not group.figures and group.n.value is None for group in result.groups if group.suppressed)
    assert all(gap.size.value is None and not gap.claim for gap in result.gaps if gap.attribute == "sex")


def test_of_three_groups_the_smallest_other_one_goes_with_the_small_one() -> None:
    result = audited(subjects(300, old=0.02))
    hidden = {group.group for group in result.groups if group.attribute == "age" and group.suppressed}
    assert len(hidden) == 2
    assert ">=60" in hidden


def test_a_figure_that_rests_on_too_few_is_not_shown_though_its_group_is() -> None:
    people = subjects(400)
    people["label"] = np.where((people["sex"] == 0) & (np.arange(400) > 10), 0, people["label"])
    women = audited(people).groups[0]
    assert women.n.value is not None
    assert women.figures["fpr"].value is not None
    assert women.figures["tpr"].value is None
    assert women.figures["tpr"].reason == "fewer than 11 subjects with disease = 1: cannot be said"


def test_a_planted_gap_is_found_and_the_modality_behind_it_named() -> None:
    result = audited(subjects(4000), noise_std=2.0, lowered=0.2)
    claimed = {(gap.condition, gap.metric) for gap in result.gaps if gap.attribute == "sex" and gap.claim}
    assert ("all", "equal_opportunity") in claimed
    assert ("without:note", "equal_opportunity") not in claimed
    assert not any(gap.claim for gap in result.gaps if gap.attribute == "age")
    gap = next(
        gap for gap in result.gaps if (gap.attribute, gap.condition, gap.metric) == ("sex", "all", "equal_opportunity")
    )
    assert (gap.lower, gap.higher) == ("female", "male")
    gains = {
        g.group: g.size.value
        for g in result.gains
        if g.modality == "note" and g.metric == "tpr" and g.attribute == "sex"
    }
    assert gains["female"] == pytest.approx(-0.3, abs=0.1)
    assert gains["male"] == pytest.approx(0, abs=0.05)


def test_a_gap_that_cannot_be_told_says_what_would_have_shown() -> None:
    for gap in audited(subjects(300), noise_std=3.0).gaps:
        assert not gap.claim
        assert gap.smallest_visible is not None
        assert 0 < gap.smallest_visible <= 1


def test_the_threshold_in_the_result_is_the_one_that_was_used() -> None:
    counts = np.ones(LAYOUT.size, np.int64)
    assert audit_figures(LAYOUT, counts, noise_std=0, threshold=0.48, min_cell=2).threshold == 0.5
