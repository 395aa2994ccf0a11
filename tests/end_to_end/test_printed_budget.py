"""The budget page of a real run on paper, printed by a real browser: what an officer signs must be there, uncut."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
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


def test_the_budget_page_prints_on_a_few_sheets_with_all_that_an_officer_needs(tmp_path: Path) -> None:
    state = f"site.state={tmp_path / 'state'}"
    for number in range(2):
        prepared = prepare_toy(tmp_path, "data.normalisation=none", f"seed={number}", "site.lifetime_epsilon=40", state)
        run(prepared, silent)
    sheets, text = printed(prepared.folder.path / "budget" / "site-0.html", tmp_path)
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
    assert flat.count(prepared.folder.name) > 2
