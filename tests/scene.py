"""One round of a deployed run, as whoever makes something go wrong in it sees it: who has got how far, what runs."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from server.folder import RunFolder
from tests.deployed import Deployment
from tests.namespaces import Network

OPERATOR = "operator"
PATIENCE_SECONDS = 240.0


@dataclass(frozen=True)
class Scene:
    """One round of a deployed run, into which a fault strikes."""

    made: Deployment
    folder: RunFolder
    round: int
    network: Network | None = None

    def answered(self, name: str, stage: str) -> bool:
        """Whether a site has answered a stage of this round's secure sum."""
        wanted = {"event": "left", "run": self.folder.name, "purpose": "training", "round": self.round, "stage": stage}
        path = self.made.state(name) / "log.jsonl"
        lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
        return any(wanted.items() <= line.items() for line in lines)

    def has_begun(self, name: str) -> bool:
        """Whether a site has begun to work on this round."""
        return (self.made.state(name) / "runs" / self.folder.name / f"{self.round:06d}-training").exists()

    def ended(self) -> int:
        """How many rounds have ended."""
        return self.made.rounds(self.folder)

    def processes(self, words: str, owner: str) -> list[int]:
        """Numbers of the processes of the operator, or of a site, whose command line has these words."""
        place = self.made.place.path if owner == OPERATOR else self.made.machine(owner)
        return sorted(number for number, line in processes_below(place).items() if words in line)

    def wait_for(self, words: str, owner: str) -> list[int]:
        """The same, waiting until there are some."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.processes(words, owner)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{owner} has no process {words}\n{self.made.logs()}")
            time.sleep(0.05)
        return found


def processes_below(place: Path) -> dict[int, str]:
    """Command lines, by number, of all processes that work below a folder or name it (Linux)."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = Path(os.readlink(path.with_name("cwd")))
            if where.is_relative_to(place) or f"{place}/" in line or f"{place} " in line:
                found[int(path.parent.name)] = line
    return found


def children_of(parent: int) -> list[int]:
    """Numbers of a process's children (Linux)."""
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return []
