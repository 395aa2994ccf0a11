"""The budget page has every field that an officer needs, each figure with the entries that it comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from client.site import Site
from common.reports.numbers import epsilon
from common.reports.sentences import entry_numbers, shown_share
from common.reports.write import write_all
from simulations.budget import traffic_of
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
    ("certificate",): "The step, tried out.",
    ("ledger", "needed"): "the filter's figure</td>",
    ("this_run", "charges", "l2_sensitivity"): "L2 sensitivity",
    ("secure_aggregation", "threshold"): "sites together, safe against the server",
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
    for name in ("report.html", "fairness.html", "privacy.html", "privacy.json", "model_card.md"):
        text = (folder / name).read_text()
        assert "The people themselves" not in text
        assert '"subjects"' not in text
        assert "people took part in exactly the same cohorts" not in text


# The same for the whole federation, of public facts.
REQUIRED_OF_ALL = {
    **{place: words for place, words in REQUIRED.items() if place[0] in {"promise", "attack", "not_covered"}},
    ("secure_aggregation", "k_min"): "Secure aggregation",
    ("plan", "pld"): "what the plan costs",
    ("plan", "replace_one"): "one person replaced",
    ("plan", "charges", "noise_multiplier"): "What the plan charges, at every site",
    ("left_the_sites",): "Everything that left the sites",
    ("public_keys",): "--public-key",
    ("recompute",): "dp-accounting",
}


@pytest.mark.parametrize("place", REQUIRED_OF_ALL, ids=".".join)
def test_every_field_of_the_federation_is_on_its_page_and_in_the_json(folder: Path, place: tuple[str, ...]) -> None:
    said = json.loads((folder / "privacy.json").read_text())
    for key in place:
        said = said[0] if isinstance(said, list) else said
        said = said[key]
    assert said not in (None, "", [], {})
    assert REQUIRED_OF_ALL[place] in (folder / "privacy.html").read_text()


@pytest.mark.parametrize("name", ["budget/va", "privacy"])
def test_every_figure_of_the_plan_on_a_page_is_the_jsons_to_the_last_digit(folder: Path, name: str) -> None:
    page, content = (folder / f"{name}.html").read_text(), json.loads((folder / f"{name}.json").read_text())
    for cohort in content.get("plan") or content["this_run"]:
        figures = [cohort[key] for key in ("prv", "rdp", "replace_one")]
        cells = "".join(f'<td class="num">{epsilon(figure)}</td>' for figure in figures)
        assert f'<td class="num"><b>{epsilon(cohort["pld"])}</b></td>{cells}' in page
        for charge in cohort["charges"]:
            bound = charge["l2_sensitivity"] or content["promise"]["clip_norm"]
            exact = (charge["noise_multiplier"], bound, charge["sampling_rate"], charge["planned"])
            assert "".join(f'<td class="num">{figure}</td>' for figure in exact) in page


def test_what_a_site_alone_knows_is_not_on_the_federations_page(folder: Path) -> None:
    other = example_record()
    sites = tuple(
        replace(site, ledger=replace(site.ledger, spent=3.25, needed=3.5, entries=7, head="ee" * 32, subjects=()))
        for site in other.sites
        if site.ledger
    )
    ran = tuple(
        replace(cohort, charges=tuple(replace(charge, ran=1) for charge in cohort.charges))
        for cohort in sites[0].cohorts
    )
    sites = (replace(sites[0], cohorts=ran, out=(), refused=(), certificate=None), *sites[1:])
    changed = folder.parent / "other"
    write_all(changed, replace(other, sites=sites))
    for name in ("privacy.html", "privacy.json"):
        assert (changed / name).read_bytes() == (folder / name).read_bytes()


def test_the_page_tells_the_guide_from_the_figure_that_decides(folder: Path) -> None:
    page = (folder / "budget/va.html").read_text()
    ledger = json.loads((folder / "budget/va.json").read_text())["ledger"]
    before = '</td><td></td><td></td><td class="num"></td><td class="num"><b>'
    assert f"all together</b>, best order{before}{epsilon(ledger['spent'])}<" in page
    assert f"all together</b>, the filter's figure{before}{epsilon(ledger['needed'])}<" in page


def test_what_an_attacker_finds_is_said_in_words_and_never_rounded_down(folder: Path) -> None:
    words = "accepts 0.1\N{NO-BREAK SPACE}% false alarms finds at most 1.8\N{NO-BREAK SPACE}% of the members"
    for name in ("budget/va.html", "report.html"):
        assert words in (folder / name).read_text()
    assert shown_share(0.0871001) == "8.8\N{NO-BREAK SPACE}%"
    assert shown_share(0.1) == "10\N{NO-BREAK SPACE}%"


def test_entries_in_a_row_are_one_range() -> None:
    assert entry_numbers((1, 2, 3, 7, 9, 10)) == "1-3, 7, 9-10"
    assert entry_numbers(()) == ""


@pytest.mark.parametrize(("masked", "said"), [(True, "only the sum"), (False, "reads each site's own")])
def test_what_the_server_sees_of_a_message_is_not_called_masked_where_it_is_not(
    tmp_path: Path, masked: bool, said: str
) -> None:
    site = Site("site-0", tmp_path / "data", tmp_path)
    site.log("left", run="r", round=1, purpose="training", stage="Task", bytes=10)
    (line,) = traffic_of([site], "r", masked=masked)
    assert said in line.form
    assert ("masked" in line.form) is masked
