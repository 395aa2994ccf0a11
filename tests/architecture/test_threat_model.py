"""The pages say for each claim which test would fail; those tests exist, and no row is without one."""

from __future__ import annotations

import re

import pytest

from tests.architecture.tree import ROOT, Function, parsed, python_files

PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
CITED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def names_in(path: str) -> set[str]:
    tree = parsed(next(file for file in python_files("tests") if str(file) == path))
    return {node.name for node in tree.body if isinstance(node, Function)}


@pytest.mark.parametrize("name", PAGES)
def test_every_cited_test_exists(name: str) -> None:
    files = {str(file) for file in python_files("tests")}
    cited = set(CITED.findall(page(name)))
    assert sorted(f"{path}::{test}" for path, test in cited if path not in files or test not in names_in(path)) == []


def test_every_sentence_of_the_threat_model_has_its_test() -> None:
    promised = (
        page("threat-model.md").split("## What a security officer may rely on")[1].split("## What is not covered")[0]
    )
    rows = [line for line in promised.splitlines() if line.startswith("| ") and not line.startswith("| sentence")]
    assert len(rows) > 30
    assert [row for row in rows if not CITED.search(row)] == []


def sections(text: str) -> dict[str, list[str]]:
    """By section, the rows of its tables of claims."""
    found = {}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        claims = body.partition("| claim | test |\n|---|---|\n")[2]
        found[title] = [line for line in claims.splitlines() if line.startswith("| ")]
    return found


def test_every_claim_of_the_accounting_page_has_its_test_and_every_section_a_claim() -> None:
    found = sections(page("accounting.md"))
    assert [title for title, rows in found.items() if not rows] == ["What is not covered"]
    assert [row for rows in found.values() for row in rows if not CITED.search(row)] == []


def test_a_claim_without_a_test_is_found() -> None:
    text = "# Page\n## One\nProse.\n\n| claim | test |\n|---|---|\n| It holds. | |\n\n## Two\nNo table.\n"
    assert sections(text) == {"One": ["| It holds. | |"], "Two": []}


def test_a_test_that_does_not_exist_is_found() -> None:
    assert CITED.findall("see `tests/unit/test_gate.py::test_nothing_of_the_kind`")
    assert "test_nothing_of_the_kind" not in names_in("tests/unit/test_gate.py")
