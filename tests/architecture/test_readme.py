from __future__ import annotations

import re

import pytest

from common.compose import compose
from tests.architecture.tree import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(tag: str) -> list[str]:
    return re.findall(rf"^```bash {tag}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("tag", "command"), [("simulate", "make simulate\n"), ("test", "make test\n")])
def test_the_readme_needs_one_command_for_each_thing(tag: str, command: str) -> None:
    assert blocks(tag) == [command]
    assert re.search(rf"^{tag}: \$\(READY\)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/add-a-modality.md", "docs/site-folder.md"]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


def test_the_readme_shows_only_experiments_and_keys_that_exist() -> None:
    shown = set(re.findall(r"fedmosaic simulate ([^`\n#]+)", README))
    for line in shown:
        overrides = [word for word in line.split() if "=" in word and not word.startswith("-")]
        compose([word.replace("1,2,4,8", "1") for word in overrides])
