"""The budget page of a real run on paper, printed by a real browser: what an officer signs must be there, uncut."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.run import run
from tests.federation_run import prepare_toy, silent

pytestmark = pytest.mark.slow
_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-pdf-header-footer"),
)


def installed(program: str, package: str) -> str:
    """Find a program, or install it."""
    if shutil.which(program) is None:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", package]):
            subprocess.run(command, check=True, capture_output=True, env=environment)
    found = shutil.which(program)
    assert found is not None
    return found


def printed(page: Path, place: Path) -> tuple[int, str]:
    """Print a page: the number of sheets, and their text."""
    chromium, paper = installed("chromium", "chromium"), place / "page.pdf"
    command = [chromium, *_QUIET, f"--user-data-dir={place / 'browser'}", f"--print-to-pdf={paper}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    text = subprocess.run(
        [installed("pdftotext", "poppler-utils"), "-layout", str(paper), "-"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return text.count("\f"), text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the same ledgers: the second one's folder, with the sites' state beside it."""
    root = tmp_path_factory.mktemp("runs")
    state = f"site.state={root / 'state'}"
    for number in range(2):
        prepared = prepare_toy(root, "data.normalisation=none", f"seed={number}", "site.lifetime_epsilon=40", state)
        run(prepared, silent)
    return prepared.folder.path


def test_the_printed_command_verifies_the_ledger_and_finds_the_figures_of_the_page(folder: Path) -> None:
    state = next(parent for parent in folder.parents if (parent / "state").exists()) / "state" / "site-0"
    said = json.loads((folder / "budget" / "site-0.json").read_text())
    program, *words = said["verify"].split()
    words = [str(folder / "receipts.json") if word == "RECEIPTS" else word for word in words]
    command = [str(Path(sys.executable).with_name(program)), *words]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=state).stdout
    assert "No problem" in shown
    assert f"needed = {said['ledger']['needed']:.6f} at delta" in shown
    assert f"spent  = {said['ledger']['spent']:.6f}" in shown


def test_the_federations_page_prints_uncut(folder: Path, tmp_path: Path) -> None:
    sheets, text = printed(folder / "privacy.html", tmp_path)
    assert 2 <= sheets <= 5
    flat = re.sub(r"\s+", " ", text).replace("\N{NO-BREAK SPACE}", " ")
    content = json.loads((folder / "privacy.json").read_text())
    for words in (
        "What is not covered",
        "Everything that left the sites",
        "This page loads nothing and runs no script.",
    ):
        assert words in flat
    for line in (*content["not_covered"], content["attack"], *content["public_keys"].values()):
        assert line.replace("\N{NO-BREAK SPACE}", " ") in flat


def test_the_budget_page_prints_on_a_few_sheets_with_all_that_an_officer_needs(folder: Path, tmp_path: Path) -> None:
    sheets, text = printed(folder / "budget" / "site-0.html", tmp_path)
    assert 3 <= sheets <= 8
    flat = re.sub(r"\s+", " ", text)
    for words in (
        "site-0: promised, spent, and sent",
        "accepts 1 % false alarms finds at most",
        "zero-out (add or remove)",
        "What is not covered",
        "runs, in the order of the ledger",  # the picture's own text
        "The people themselves",
        "Everything that left the site",
        "No request was refused.",
        "fedmosaic verify ledger.sqlite --receipt ledger.receipt",
        "This page loads nothing and runs no script.",
    ):
        assert words in flat.replace("\N{NO-BREAK SPACE}", " "), words
    assert flat.count(json.loads((folder / "metrics.json").read_text())["run"]) > 2
