"""docs/add-a-modality.md, done to the letter on a copy of the project, so that the page cannot rot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.architecture.tree import ROOT, project_files

PAGE = ROOT / "docs" / "add-a-modality.md"
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def _copy(target: Path) -> None:
    for path in project_files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target / path)


def _environment(copy: Path) -> Mapping[str, str]:
    """The copy's code before the installed one, and no repository around it."""
    ours = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(copy)}
    return {**os.environ, **ours, "GIT_CEILING_DIRECTORIES": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}


def _do(language: str, name: str, body: str, copy: Path) -> None:
    """What a reader does with a block: save a file, apply a change, type commands."""
    if name:
        assert not (copy / name).exists(), f"{name} is there already: the page must show a change instead"
        (copy / name).write_text(body, encoding="utf-8")
        return
    command = {"diff": ("git", "apply", "-"), "bash": ("bash", "-e")}[language]
    done = subprocess.run(
        command, cwd=copy, env=_environment(copy), input=body, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{body}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
def test_every_block_of_the_page_does_what_the_page_says(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    _copy(copy)
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == PAGE.read_text(encoding="utf-8").count("\n```") / 2
    for language, name, body in blocks:
        _do(language, name, body, copy)
    models = [yaml.safe_load(path.read_text())["config"]["model"] for path in sorted(copy.glob("runs/*/*/config.yaml"))]
    assert [model["encoders"] for model in models] == [{}, {"glove": SPANS}]


SPANS = {"kind": "spans", "seconds": 0.2, "features": 16}
