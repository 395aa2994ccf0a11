"""Two processes at one site's door: one is held up at a chosen file operation while the other does its work.

The interpreter's own events (sys.addaudithook) say when a file is opened, linked, made or removed: nothing is replaced.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.enrolment import open_ledger
from client.gate import answer
from client.policy import read_policy
from client.site import Site
from common.blocks import blocks_of, flatten
from common.messages import Advert, Refusal, Reply, Request, Settle, Settled, Task, pack, unpack
from common.models.model import build_model
from common.releases import schema_of
from simulations.run import Prepared
from tests.federation_run import prepare_toy

OVERRIDES = ("audit.attributes=[]", "rounds=2")
SOON, LATE = 0.5, 20.0


@dataclass(frozen=True)
class Door:
    """One site, and a folder in which its processes tell each other how far they are."""

    site: Site
    place: Path

    def start(self, name: str, request: Request, hold_at: tuple[str, str] = ("", "")) -> int:
        """Answer in a child process, which stops once at a file event whose arguments contain a text."""
        child = os.fork()
        if child:
            return child
        held = False

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal held
            if not held and event == hold_at[0] and hold_at[1] in str(arguments):
                held = True
                (self.place / f"{name}.held").touch()
                self.wait("go")

        sys.addaudithook(watch)
        (self.place / f"{name}.reply").write_bytes(pack(answer(self.site, lambda: request)))
        os._exit(0)

    def wait(self, name: str, seconds: float = LATE) -> bool:
        end = time.monotonic() + seconds
        while not (self.place / name).exists() and time.monotonic() < end:
            time.sleep(0.005)
        return (self.place / name).exists()

    def race(self, held: Request, hold_at: tuple[str, str], other: Request) -> tuple[Reply, Reply]:
        """Hold one request up at a file operation until another is answered, or waits for it."""
        first = self.start("first", held, hold_at)
        assert self.wait("first.held"), "it never came to that file operation"
        second = self.start("second", other)
        self.wait("second.reply", SOON)
        (self.place / "go").touch()
        for child in (first, second):
            assert os.waitpid(child, 0)[1] == 0
        replies = [unpack((self.place / f"{name}.reply").read_bytes()) for name in ("first", "second")]
        return replies[0], replies[1]  # type: ignore[return-value]  # they were packed as replies

    def left_over(self) -> list[str]:
        return [path.name for path in self.site.state.rglob("*") if path.suffix in (".secret", ".draft")]


def door_of(place: Path, *overrides: str) -> tuple[Door, Prepared]:
    prepared = prepare_toy(place, *OVERRIDES, *overrides)
    (place / "signs").mkdir()
    return Door(prepared.sites[0], place / "signs"), prepared


def task(prepared: Prepared, number: int = 1) -> Task:
    model = build_model(prepared.config, schema_of(prepared.config), seed=0)
    return Task(prepared.folder.name, number, "training", flatten(model, blocks_of(model)), {})


def code(reply: object) -> str:
    return reply.code if isinstance(reply, Refusal) else type(reply).__name__


def releases(site: Site) -> int:
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        return sum(entry.kind == "release" for entry in ledger.entries())


@pytest.mark.parametrize(
    "hold_at",
    [("os.remove", "Task.secret"), ("open", "Task.secret', 'r+'"), ("os.link", "Task.entry"), ("os.mkdir", "000001")],
    ids=["secret erased", "secret overwritten", "entry linked", "folder made"],
)
def test_two_processes_that_answer_one_request_give_the_same_bytes(tmp_path: Path, hold_at: tuple[str, str]) -> None:
    door, prepared = door_of(tmp_path, "data.normalisation=none")
    first, second = door.race(task(prepared), hold_at, task(prepared))
    assert isinstance(first, Advert)
    assert pack(first) == pack(second)
    assert releases(door.site) == 1


@pytest.mark.parametrize(
    ("hold_at", "answered"),
    [
        (("os.mkdir", "000001-training"), False),
        (("open", "Task.secret"), False),
        (("open", "update.secret"), True),
        (("os.link", "own-statistics.entry"), True),
    ],
    ids=["before its folder", "before its charge", "before its masks", "while its statistics are kept"],
)
def test_a_settlement_leaves_nothing_of_a_task_in_flight(
    tmp_path: Path, hold_at: tuple[str, str], *, answered: bool
) -> None:
    door, prepared = door_of(tmp_path, "data.normalisation=site")
    first, second = door.race(task(prepared), hold_at, Settle(prepared.folder.name))
    assert code(first) == ("Advert" if answered else "settled")
    assert isinstance(second, Settled)
    assert door.left_over() == []
    assert releases(door.site) == (2 if answered else 0)  # the step and the statistics, or nothing
    assert code(answer(door.site, lambda: task(prepared, 2))) == "settled"


def test_own_statistics_that_two_rounds_need_at_once_are_drawn_once(tmp_path: Path) -> None:
    door, prepared = door_of(tmp_path, "data.normalisation=site")
    replies = door.race(task(prepared, 1), ("os.link", "own-statistics"), task(prepared, 2))
    assert [code(reply) for reply in replies] == ["Advert", "Advert"]
    assert releases(door.site) == 3
    assert len(door.site.logged("failed")) == 0
