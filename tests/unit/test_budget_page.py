"""The budget page has every field that an officer needs, each figure with the entries that it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.reports.numbers import epsilon
from common.reports.sentences import entry_numbers, shown_share
from common.reports.write import write_all
from tests.example_record import example_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    write_all(path, example_record())
    return path


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
