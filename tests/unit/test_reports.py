from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from common.reports.record import RunRecord
from common.reports.report import write_run_report
from common.reports.write import write_all
from tests.example_record import example_record, unprotected

PAGES = ("report.html", "fairness.html", "privacy.html", "budget/va.html")
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


def test_every_page_of_the_run_folder_is_written(folder: Path) -> None:
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    budgets = {
        f"budget/{name}.{kind}" for name in ("cleveland", "hungary", "switzerland", "va") for kind in ("html", "json")
    }
    privacy = {"privacy.html", "privacy.json"}
    assert (
        written
        == {"metrics.json", "report.html", "fairness.html", "fairness.json", "model_card.md"} | privacy | budgets
    )


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


def test_the_budget_page_says_what_the_steps_audit_showed_and_what_it_cannot(folder: Path) -> None:
    page = " ".join((folder / "budget" / "va.html").read_text().split())
    assert "charged with mu 0.304" in page
    assert "they showed at least 0.261 (epsilon 0.63) with 95 % confidence" in page
    assert "nothing about the whole of the training" in page
    assert json.loads((folder / "budget" / "va.json").read_text())["certificate"]["largest_mu"] == 0.611


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


def test_the_budget_page_says_how_keys_were_agreed_on_and_what_that_leaves_open(tmp_path: Path) -> None:
    record = example_record()
    hybrid = replace(record.secagg, key_agreement="X25519 and ML-KEM-768")
    bare = unprotected(record)
    said = {"X25519": record, "X25519 and ML-KEM-768": replace(record, secagg=hybrid), "none": bare}
    for agreement, example in said.items():
        write_all(tmp_path / agreement, example)
        content = json.loads((tmp_path / agreement / "budget" / "va.json").read_text())
        assert content["secure_aggregation"]["key_agreement"] == agreement
        text = words(tmp_path / agreement / "budget" / "va.html")
        assert ("by X25519 alone" in text) is (agreement == "X25519")
        assert ("by X25519 and ML-KEM-768 together" in text) is (agreement == "X25519 and ML-KEM-768")


def test_the_model_card_has_the_facts_that_the_hub_reads(folder: Path) -> None:
    _, front, body = (folder / "model_card.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["pipeline_tag"] == "tabular-classification"
    assert {"differential-privacy", "secure-aggregation"} <= set(facts["tags"])
    metrics = facts["model-index"][0]["results"][0]["metrics"]
    assert {metric["type"] for metric in metrics} == {"accuracy", "roc_auc"}
    for heading in ("Intended use", "Training data", "Evaluation", "Fairness", "Privacy", "Limitations"):
        assert f"## {heading}" in body
