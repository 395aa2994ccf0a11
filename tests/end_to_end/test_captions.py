"""A text that a model is taught to tell is written, measured, released as noised sums and charged; no text leaves."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from common.compose import compose
from common.fairness.table import l2_sensitivity
from common.metrics.texts import SCORES
from common.releases import table_layout, tables_of
from simulations.run import begin, run
from simulations.summary import summary, table
from tests.federation_run import REPEATABLE, files_below, silent

TELLING = (
    *("experiment=synthetic", "rounds=2", "model.width=8", "model.feedforward=8", "audit.attributes=[]"),
    *("data.synthetic.kinds=[text,tabular,signal]", "data.synthetic.subjects=40", "privacy.declared_subjects=28"),
    "objective.parts=[{kind:task},{kind:caption,target:note}]",
)
LOUDLESS = ("privacy.epsilon=2000", "site.lifetime_epsilon=1e9", REPEATABLE)  # so little noise that figures agree


@pytest.mark.slow
def test_what_is_released_about_texts_is_what_the_simulator_measures_and_is_charged_as_planned(tmp_path: Path) -> None:
    prepared = begin(compose((*TELLING, *LOUDLESS)), tmp_path / "runs")
    record = run(prepared, silent)
    assert record.test is not None
    assert record.released is not None
    assert list(record.released.conditions) == ["all", "only:labs", "only:ppg"], "the note is told, never seen"
    for condition, figures in record.released.conditions.items():
        for score in SCORES:
            exact = record.test.conditions[condition].figures[f"{score}/note"]
            assert figures[f"{score}/note"].value == pytest.approx(exact, abs=0.02), (condition, score)
    assert record.test.figures["wer/note"] == record.test.conditions["all"].figures["wer/note"]
    assert {"corpus_bleu/note", "corpus_wer/note"} < set(record.test.figures)
    layout = table_layout(prepared.config, "evaluation")
    assert prepared.plan is not None
    planned = next(release for release in prepared.plan.counts if release.purpose == "evaluation")
    assert planned.l2_sensitivity == l2_sensitivity(layout) == tables_of(prepared.config)["evaluation"].l2_sensitivity
    charges = [charge for site in record.sites for cohort in site.cohorts for charge in cohort.charges]
    assert {charge.purpose for charge in charges} == {"training", "evaluation"}
    said = summary(record, "here")
    assert "bleu/note" in str(said["test"])
    assert "bleu/note" in str(said["released"])
    closing = Console(width=200, record=True, file=io.StringIO())
    closing.print(table(record, "here"))
    assert "Texts written, note: BLEU" in closing.export_text()
    pages = [path for path in files_below(prepared.folder.path) if path.suffix in (".html", ".json", ".md")]
    assert any("BLEU" in path.read_text() for path in pages)
