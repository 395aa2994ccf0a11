"""Numbers and labels are learnt, measured, audited and charged like any other task; a lone task need not be named."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.compose import ConfigError, compose
from common.fairness.table import l2_sensitivity
from common.releases import table_layout, tables_of
from simulations.run import begin, run
from simulations.summary import summary, table
from tests.federation_run import REPEATABLE, SMALL, silent, toy_root
from tests.toy_federation import set_tasks

UNNAMED = tuple(item for item in SMALL if not item.startswith("objective.task"))
LOUDLESS = ("privacy.epsilon=2000", "site.lifetime_epsilon=1e9", REPEATABLE)  # so little noise that figures agree


def overrides(place: Path, *tasks: str) -> tuple[str, ...]:
    root = toy_root(place)
    set_tasks(sorted(root.iterdir()), *tasks)
    return (*UNNAMED, f"data.root={root}")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [("stay", "mae"), ("findings", "accuracy")])
def test_what_is_released_is_what_the_simulator_measures(tmp_path: Path, task: str, metric: str) -> None:
    config = compose((*overrides(tmp_path, task), *LOUDLESS, "audit.min_cell=2"))
    prepared = begin(config, tmp_path / "runs")
    assert prepared.config.objective.task == task, "the only task there is"
    record = run(prepared, silent)
    assert record.test is not None
    assert record.released is not None
    assert record.audit is not None
    released = record.released.conditions["all"][metric]
    spread = 20 if task == "stay" else 1
    # Subjects count once in what is released, rows in what is measured; one subject in six has two.
    assert released.value == pytest.approx(record.test.figures[metric], abs=0.04 * spread)
    answered = 1 if task == "stay" else 4 / 5  # of several labels, a subject has some
    assert record.released.num_subjects.value == pytest.approx(record.test.num_subjects * answered, rel=0.1)
    assert any(group.figures[metric].value is not None for group in record.audit.groups)
    assert metric in summary(record, "here")["test"]  # type: ignore[operator]
    assert table(record, "here").renderables
    for page in ("report.html", "fairness.html", "model_card.md"):
        assert "mean absolute error" in (prepared.folder.path / page).read_text() or task != "stay"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["stay", "findings"])
def test_both_tables_are_planned_and_charged_with_their_sensitivity(tmp_path: Path, task: str) -> None:
    prepared = begin(compose(overrides(tmp_path, task)), tmp_path / "runs")
    assert prepared.plan is not None
    planned = {release.purpose: release for release in prepared.plan.counts}
    for purpose in ("evaluation", "audit"):
        layout = table_layout(prepared.config, purpose)
        assert planned[purpose].l2_sensitivity == l2_sensitivity(layout)
        assert tables_of(prepared.config)[purpose].length == layout.size
    assert {charge.purpose for charge in prepared.plan.charges()} == {"training", "evaluation", "audit"}


def test_of_several_tasks_one_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective\.task: the site folders have \['findings', 'stay'\], name one"):
        begin(compose(overrides(tmp_path, "stay", "findings")), tmp_path / "runs")
