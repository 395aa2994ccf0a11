"""docs/deploy.md, followed to the letter: its commands are run in its order, and what it says to send is sent."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import pytest

from common.compose import compose
from simulations.datasets.heart import write_heart
from tests.architecture.tree import ROOT
from tests.deployed import Deployment, end_all, have_nginx, processes_of
from tests.operator_stack import free_port

PAGE = ROOT / "docs" / "deploy.md"
_BLOCK = r"^```bash (operator|site)( stays)?\n(.*?)^```$"
_SENT = r"^\*\*Send\*\* `([^`]+)` to ([^.]*?) as `([^`]+)`"
_STEP = re.compile(f"{_BLOCK}|{_SENT}", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    who: str
    commands: tuple[str, ...] = ()
    stays: bool = False
    sent: tuple[str, str] = ("", "")


def steps(text: str) -> Iterator[Step]:
    for who, stays, body, source, target, name in _STEP.findall(text):
        if who:
            yield Step(who, tuple(body.strip().splitlines()), bool(stays))
        else:
            yield Step("operator" if target == "the operator" else "site", sent=(source, name))


def test_the_page_has_all_steps() -> None:
    found = list(steps(PAGE.read_text(encoding="utf-8")))
    assert sum(bool(step.sent[0]) for step in found) == 4
    assert sum(step.stays for step in found) == 2
    said = " ".join(command for step in found for command in step.commands)
    for command in ("server init", "server enrol", "server run", "site init", "site approve", "site join", "verify"):
        assert f"fedmosaic {command}" in said


@pytest.mark.slow
def test_the_page_leads_from_empty_machines_to_a_finished_run(tmp_path: Path) -> None:
    have_nginx()
    folders = write_heart(compose(["experiment=heart"]).data, tmp_path / "hospitals")
    made = Deployment(tmp_path / "deployed", tuple(folder.name for folder in folders), (free_port(), free_port()))
    for folder in folders:
        shutil.copytree(folder, made.machine(folder.name) / "data")
    try:
        for step in steps(PAGE.read_text(encoding="utf-8")):
            _take(made, step)
        (folder,) = (made.place.runs / "heart").iterdir()
        assert {"model.safetensors", "report.html", "fairness.html", "model_card.md"} <= {
            path.name for path in folder.iterdir()
        }
    finally:
        end_all(made)
    assert processes_of(made) == []


def _take(made: Deployment, step: Step) -> None:
    if step.sent[0]:
        _send(made, step)
        return
    for name in ("operator",) if step.who == "operator" else made.names:
        where = made.root if step.who == "operator" else made.machine(name)
        for command in step.commands:
            program, *words = _on_this_machine(made, command, where)
            assert program == "fedmosaic"
            if step.stays:
                made.start(name, *words, where=where)
            else:
                made.command(*words, where=where)


def _send(made: Deployment, step: Step) -> None:
    source, target = step.sent
    for name in made.names:
        if step.who == "operator":
            shutil.copy(made.machine(name) / source, made.root / target.replace("NAME", name))
        else:
            shutil.copy(made.root / source, made.machine(name) / target)


def _on_this_machine(made: Deployment, command: str, where: Path) -> list[str]:
    """The page's own words, but for a host name and ports that this machine has; a shell would expand the star."""
    command = command.replace("federation.example.org", "localhost")
    if "server init" in command:
        command += f" --listen 127.0.0.1 --port {made.ports[0]} --link-port {made.ports[1]}"
    words = shlex.split(command)
    return [one for word in words for one in (sorted(glob(word, root_dir=where)) if "*" in word else [word])]
