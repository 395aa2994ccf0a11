from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from common.reports.numbers import epsilon
from common.reports.record import RunRecord
from common.reports.report import write_run_report
from common.reports.sentences import entry_numbers, shown_share
from common.reports.write import write_all
from tests.example_record import example_record, unprotected

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


# What an officer must find, by where the JSON has it, and the words that the page has it under.
REQUIRED = {
    ("promise", "epsilon"): "(epsilon, delta)",
    ("promise", "delta"): "Delta",
    ("promise", "unit"): "Unit",
    ("promise", "adjacency"): "Neighbours",
    ("promise", "sampling"): "Sampling",
    ("promise", "steps"): "Steps",
    ("promise", "clip_norm"): "clipped to L2 norm",
    ("promise", "noise_multiplier"): "noise multiplier",
    ("promise", "divisor"): "public constant",
    ("promise", "random_source"): "Random source",
    ("promise", "engine"): "Clipping",
    ("promise", "plan_hash"): "Plan",
    ("attack",): "In other words.",
    ("secure_aggregation", "k_min"): "Secure aggregation",
    ("not_covered",): "What is not covered",
    ("this_run", "pld"): "This run, by cohort",
    ("this_run", "replace_one"): "one person replaced",
    ("this_run", "charges"): "What was charged in this run",
    ("ledger", "lifetime_epsilon"): "Lifetime budget",
    ("ledger", "spent"): "Spent, all runs",
    ("ledger", "left"): "Left",
    ("ledger", "runs"): "Every run in the ledger",
    ("ledger", "by_modality"): "By modality",
    ("ledger", "subjects"): "The people themselves",
    ("ledger", "head"): "Newest entry",
    ("ledger", "public_key"): "Public key",
    ("left_the_site",): "Everything that left the site",
    ("refused",): "Everything that was refused",
    ("verify",): "fedmosaic verify",
    ("recompute",): "dp-accounting",
    ("certificate",): "The step.",
}


@pytest.mark.parametrize("place", REQUIRED, ids=".".join)
def test_every_field_that_an_officer_needs_is_on_the_page_and_in_the_json(folder: Path, place: tuple[str, ...]) -> None:
    said = json.loads((folder / "budget/va.json").read_text())
    for key in place:
        said = said[0] if isinstance(said, list) else said
        said = said[key]
    assert said not in (None, "", [], {})
    assert REQUIRED[place] in (folder / "budget/va.html").read_text()


def test_each_figure_of_the_ledger_names_its_entries_and_is_the_jsons(folder: Path) -> None:
    page = (folder / "budget/va.html").read_text()
    ledger = json.loads((folder / "budget/va.json").read_text())["ledger"]
    for run in ledger["runs"]:
        cells = f">{epsilon(run['spent_epsilon'])}</td><td>{entry_numbers(tuple(run['entries']))}</td>"
        assert cells in page
    for group in ledger["subjects"]:
        row = f'<td class="num">{group["subjects"]}</td><td class="num">{group["runs"]}</td>'
        assert f'{row}<td class="num"><b>{epsilon(group["spent"])}</b>' in page
    for name, value in ledger["by_modality"].items():
        assert f">{name}</text>" in page
        assert f">{epsilon(value)}</text>" in page
    assert f"--public-key {ledger['public_key']}" in page


def test_who_was_there_stands_on_the_sites_own_page_only(folder: Path) -> None:
    for name in ("report.html", "fairness.html", "model_card.md"):
        text = (folder / name).read_text()
        assert "The people themselves" not in text
        assert "people took part in exactly the same cohorts" not in text


def test_what_an_attacker_finds_is_said_in_words_and_never_rounded_down(folder: Path) -> None:
    words = "accepts 0.1\N{NO-BREAK SPACE}% false alarms finds at most 1.8\N{NO-BREAK SPACE}% of the members"
    for name in ("budget/va.html", "report.html"):
        assert words in (folder / name).read_text()
    assert shown_share(0.0871001) == "8.8\N{NO-BREAK SPACE}%"
    assert shown_share(0.1) == "10\N{NO-BREAK SPACE}%"


def test_entries_in_a_row_are_one_range() -> None:
    assert entry_numbers((1, 2, 3, 7, 9, 10)) == "1-3, 7, 9-10"
    assert entry_numbers(()) == ""


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
