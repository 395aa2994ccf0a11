from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml

from common.reports.files import write_whole
from common.reports.limits import recompute
from common.reports.numbers import epsilon, plain, remaining
from common.reports.record import CohortBudget, RunRecord
from common.reports.report import write_run_report
from common.reports.sentences import certainty, in_short, red_boxes
from common.reports.write import write_all
from server.audit import short_form
from server.evaluate import evaluation_figures
from tests.example_record import example_record, layouts, unprotected

PAGES = ("report.html", "fairness.html", "budget/va.html")
MOST_BYTES = 600_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    write_all(path, example_record())
    return path


@pytest.fixture(scope="module")
def bare_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bare")
    write_all(path, unprotected(example_record()))
    return path


class Tags(HTMLParser):
    """Every tag with its attributes, and whether each was closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "img", "hr", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def tags(page: Path) -> Tags:
    parser = Tags()
    parser.feed(page.read_text())
    return parser


def words(page: Path) -> str:
    text = re.sub(r"<(style|svg).*?</\1>", " ", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


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


def test_every_page_of_the_run_folder_is_written(folder: Path) -> None:
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    budgets = {
        f"budget/{name}.{kind}" for name in ("cleveland", "hungary", "switzerland", "va") for kind in ("html", "json")
    }
    assert written == {"metrics.json", "report.html", "fairness.html", "fairness.json", "model_card.md"} | budgets


def test_pages_written_again_from_metrics_json_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_all(tmp_path, RunRecord.from_json((folder / "metrics.json").read_text()))
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_nothing_loads_nothing_and_is_small(folder: Path, name: str) -> None:
    page = folder / name
    found = tags(page)
    assert page.stat().st_size < MOST_BYTES
    assert not {"script", "link", "iframe", "img", "object", "form"} & {tag for tag, _ in found.seen}
    for _, attributes in found.seen:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "xlink:href"):
            assert not re.match(r"(?i)[a-z]+:|//", attributes.get(key) or "")
    assert "@import" not in page.read_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed_and_no_two_things_share_an_id(folder: Path, name: str) -> None:
    found = tags(folder / name)
    assert found.wrong == []
    assert found.open == []
    ids = [attributes["id"] for _, attributes in found.seen if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(folder: Path, name: str) -> None:
    for tag, attributes in tags(folder / name).seen:
        if tag == "a":
            assert ((folder / name).parent / unquote(attributes["href"] or "")).exists()


@pytest.mark.parametrize("name", [*PAGES, "model_card.md"])
def test_what_takes_a_promise_away_is_in_a_red_box_on_every_page(folder: Path, bare_folder: Path, name: str) -> None:
    assert "No privacy: privacy=none" in (bare_folder / name).read_text()
    assert "No secure aggregation: secagg=none" in (bare_folder / name).read_text()
    assert "No privacy" not in (folder / name).read_text()
    assert 'role="alert"' not in (folder / name).read_text()


@pytest.mark.parametrize("name", [*PAGES, "model_card.md"])
def test_a_run_without_privacy_never_claims_any(bare_folder: Path, name: str) -> None:
    text = words(bare_folder / name)
    assert "under DP" not in text
    assert "differential-privacy" not in text
    assert "secure-aggregation" not in text
    assert not re.search(r"epsilon(?!, whatever)[^.]{0,20}\d", text)


def test_test_noise_is_said_in_red_and_not_called_private(tmp_path: Path) -> None:
    record = example_record()
    write_all(tmp_path, replace(record, promise=replace(record.promise, random_source="test")))
    for name in PAGES:
        text = words(tmp_path / name)
        assert "Test noise: no protection" in text
        assert "released under DP with noise" not in text
    assert "released with test noise" in words(tmp_path / "report.html")


def test_exact_figures_are_said_to_be_the_simulators(folder: Path) -> None:
    text = words(folder / "report.html")
    assert "The simulator measured this; no institution released it." in text
    assert "measured by the simulator" in text
    assert "released under DP with noise" in text


def test_a_federation_without_a_simulator_still_has_its_report(tmp_path: Path) -> None:
    record = example_record()
    rounds = tuple(replace(item, test_accuracy=None, test_auroc=None) for item in record.rounds)
    deployed = replace(record, test=None, rounds=rounds, simulated=False)
    write_run_report(deployed, tmp_path / "report.html")
    text = words(tmp_path / "report.html")
    assert "measured by the simulator" not in text
    assert "simulated" not in text
    assert 'aria-label="Size of the released update over the rounds"' in (tmp_path / "report.html").read_text()


def test_a_run_without_an_audit_does_not_call_itself_fair(tmp_path: Path) -> None:
    write_all(tmp_path, replace(example_record(), audit=None))
    assert not (tmp_path / "fairness.html").exists()
    assert "nobody looked" in words(tmp_path / "report.html")


def test_a_run_that_broke_off_before_its_first_round_has_a_report(tmp_path: Path) -> None:
    write_all(
        tmp_path, replace(example_record(), rounds=(), test=None, released=None, audit=None, blocks=(), traffic=())
    )
    assert "No training round took place." in words(tmp_path / "report.html")


def test_names_from_outside_are_escaped_and_stay_in_the_folder(tmp_path: Path) -> None:
    record = example_record()
    name = "../<script>alert(1)</script>"
    rounds = tuple(replace(item, sites=(name,)) for item in record.rounds)
    sites = (replace(record.sites[0], name=name),)
    write_all(tmp_path / "run", replace(record, sites=sites, rounds=rounds, task="<b>x</b>"))
    assert "script" not in {tag for tag, _ in tags(tmp_path / "run" / "report.html").seen}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert len(list((tmp_path / "run" / "budget").iterdir())) == 2
    test_links_between_pages_lead_somewhere(tmp_path / "run", "report.html")


def test_the_budget_page_says_what_was_promised_spent_sent_and_refused(folder: Path) -> None:
    text = words(folder / "budget" / "va.html")
    for said in (
        "(8, 0.001)",
        "zero-out (add or remove)",
        "poisson",
        "AES-256-CTR",
        "17.1 were left",
        "What is not covered",
    ):
        assert said in text
    content = json.loads((folder / "budget" / "va.json").read_text())
    record = next(site for site in example_record().sites if site.name == "va")
    assert record.ledger is not None
    assert len(content["left_the_site"]) == len(record.out)
    assert content["ledger"]["spent"] == record.ledger.spent
    assert content["refused"][0]["rule"] == "budget"
    assert "No request was refused." in words(folder / "budget" / "hungary.html")


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


def test_red_boxes_do_not_rest_on_the_writer_of_the_record() -> None:
    assert [box.code for box in red_boxes(unprotected(example_record()))] == ["privacy_none", "secagg_none"]
    assert red_boxes(example_record()) == ()


def test_the_summary_speaks_of_the_figures_in_the_record() -> None:
    record = example_record()
    said = dict(in_short(record))
    assert record.test is not None
    assert f"{100 * (record.test.pooled_accuracy or 0):.0f} of 100" in said["How good"]
    assert "40 of 40 planned rounds" in said["The run"]


def test_the_model_card_has_the_facts_that_the_hub_reads(folder: Path) -> None:
    _, front, body = (folder / "model_card.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["pipeline_tag"] == "tabular-classification"
    assert {"differential-privacy", "secure-aggregation"} <= set(facts["tags"])
    metrics = facts["model-index"][0]["results"][0]["metrics"]
    assert {metric["type"] for metric in metrics} == {"accuracy", "roc_auc"}
    for heading in ("Intended use", "Training data", "Evaluation", "Fairness", "Privacy", "Limitations"):
        assert f"## {heading}" in body


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
    page = write_whole(tmp_path / "page.html", "old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_whole(page, "new")
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
