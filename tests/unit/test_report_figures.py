from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.files import PUBLIC, write_whole
from common.reports.leaning import leaning
from common.reports.limits import recompute
from common.reports.numbers import epsilon, plain, remaining
from common.reports.record import CohortBudget, RunRecord
from common.reports.sentences import certainty, in_short, red_boxes
from server.audit import short_form
from server.evaluate import evaluation_figures
from tests.example_record import certificate, example_record, layouts, unprotected


def test_a_record_comes_back_from_json_equal() -> None:
    for record in (example_record(), unprotected(example_record())):
        assert RunRecord.from_json(record.to_json()) == record


def test_a_record_with_an_unknown_field_is_refused_by_name() -> None:
    content = json.loads(example_record().to_json())
    with pytest.raises(ValueError, match="epsylon"):
        RunRecord.from_json(json.dumps({**content, "epsylon": 1}))
    del content["promise"]["delta"]
    with pytest.raises(ValueError, match=r"promise\.delta"):
        RunRecord.from_json(json.dumps(content))


def test_privacy_figures_are_rounded_against_us() -> None:
    assert (epsilon(7.9301), epsilon(8.0), epsilon(None)) == ("7.94", "8.00", "none")
    assert (remaining(8.389), remaining(8.38), remaining(-1)) == ("8.38", "8.38", "0.00")


def test_small_numbers_are_not_rounded_to_nothing() -> None:
    assert [plain(value) for value in (1e-3, 1e-5, 2.5e-7, 8.0, None)] == [
        "0.001",
        "1e\N{MINUS SIGN}5",
        "2.5e\N{MINUS SIGN}7",
        "8",
        "none",
    ]


def test_a_small_epsilon_is_not_described_as_a_large_one() -> None:
    assert "up to 73 % sure" in certainty(1.0)
    assert "almost sure" in certainty(8.0)


def test_a_step_that_showed_more_than_was_charged_fails_the_report() -> None:
    first, *others = example_record().sites
    broken = replace(certificate(), refuting_mu=certificate().claimed_mu + 0.01)
    record = replace(example_record(), sites=(replace(first, certificate=broken), *others))
    assert [box.code for box in red_boxes(record)] == ["audit"]


def test_red_boxes_do_not_rest_on_the_writer_of_the_record() -> None:
    assert [box.code for box in red_boxes(unprotected(example_record()))] == ["privacy_none", "secagg_none"]
    assert red_boxes(example_record()) == ()


def test_the_summary_speaks_of_the_figures_in_the_record() -> None:
    record = example_record()
    said = dict(in_short(record))
    assert record.test is not None
    assert f"{100 * (record.test.pooled_accuracy or 0):.0f} of 100" in said["How good"]
    assert "40 of 40 planned rounds" in said["The run"]


def test_what_the_model_leans_on_is_not_told_from_a_few_people() -> None:
    record = example_record()
    assert record.test is not None
    assert leaning(record).startswith("The model leans most on")
    few = leaning(replace(record, test=replace(record.test, num_subjects=12)))
    assert few.startswith("Which modality the model leans on most cannot be told from chance with 12 held-out people")
    released = leaning(replace(record, test=None))
    assert released.startswith("The model leans most on")
    assert "as far as the noise lets us see" in released
    drowned = evaluation_figures(
        layouts()[0], np.full(layouts()[0].size, 3, dtype=np.int64), noise_std=50.0, threshold=0.5
    )
    assert "these people and the noise" in leaning(replace(record, test=None, released=drowned))
    assert leaning(replace(record, test=None, released=None)) == ""


def test_the_recipe_on_the_budget_page_gives_the_figure_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    charge = replace(
        example_record().sites[0].cohorts[0].charges[1], noise_multiplier=1.0, sampling_rate=0.032, planned=500
    )
    cohort = CohortBudget("train", 1e-5, None, None, None, None, (charge,))
    exec(recompute((cohort,)), {})  # noqa: S102  (the reader runs it too)
    name, value = capsys.readouterr().out.split()
    assert name == "train"
    assert float(value) == pytest.approx(4.605, abs=2e-3)


def test_a_page_that_cannot_be_written_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = write_whole(tmp_path / "page.html", "old", mode=PUBLIC)

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_whole(page, "new", mode=PUBLIC)
    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_short_form_of_the_audit_names_every_group() -> None:
    record = example_record()
    assert record.audit is not None
    short = short_form(record.audit)
    assert set(short) == {"sex", "age"}
    assert set(short["sex"]["female"]) == {"n", "tpr", "fpr", "low", "high"}
    json.dumps(short, allow_nan=False)


def test_the_released_figures_of_a_table_without_noise_are_exact() -> None:
    layout, _ = layouts()
    counts = np.zeros(layout.shape, np.int64)
    counts[:, 0, 0, 2], counts[:, 0, 1, 7] = 40, 60
    counts[0] *= 2  # the weight of the first condition
    released = evaluation_figures(layout, counts.ravel(), noise_std=0.0, threshold=0.5)
    assert released.num_subjects.value == pytest.approx(100)
    assert {figures["accuracy"].value for figures in released.conditions.values()} == {1.0}
    assert {figures["auroc"].value for figures in released.conditions.values()} == {1.0}
