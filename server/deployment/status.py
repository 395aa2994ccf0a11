"""How a deployment is: who is there, how far a run is, what it has released, what went wrong and what helps."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field

from common.compose import ConfigError
from common.journal import Event
from server.deployment.advice import advice
from server.deployment.certificates import days_left
from server.deployment.control import LinkUnreachable, nodes, run_status
from server.deployment.place import Place
from server.deployment.runs import Begun, newest, reopen, stopped
from server.folder import RunFolder

_RENEW_DAYS = 30.0


@dataclass(frozen=True)
class SiteStatus:
    """An institution: online, offline, registered (never seen) or not registered."""

    name: str
    state: str


@dataclass(frozen=True)
class Trouble:
    """Something that went wrong, and what helps."""

    what: str
    helps: str


@dataclass(frozen=True)
class RoundStatus:
    """A round: who was in the sum, who was lost where, and where its seconds went, by stage."""

    number: int
    seconds: float
    sites: tuple[str, ...]
    lost: dict[str, str]
    stages: dict[str, float]
    when: float


@dataclass(frozen=True)
class RunStatus:
    """A run: asking, training, ended, stopped or resumable; `released` are the tables that are out."""

    name: str
    folder: str
    state: str
    rounds: tuple[RoundStatus, ...]
    rounds_planned: int
    released: tuple[str, ...]
    epsilon: float | None
    delta: float | None


@dataclass(frozen=True)
class Status:
    """Everything that `server status` says."""

    consortium: str
    address: str
    link: str
    certificate_days: float
    sites: tuple[SiteStatus, ...]
    run: RunStatus | None = None
    troubles: tuple[Trouble, ...] = field(default=())

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return dataclasses.asdict(self)


def status_of(place: Place, name: str | None = None) -> Status:
    """Ask the SuperLink and read the run's journal.

    Raises:
        ConfigError: this is no operator's folder, or there is no run of that name.
    """
    troubles, link = [], "up"
    try:
        seen = nodes(place)
    except LinkUnreachable as error:
        seen, link = {}, "down"
        troubles.append(Trouble("the SuperLink is down", str(error)))
    left = days_left(place.certificate("gate").read_bytes())
    if left < _RENEW_DAYS:
        what = "the gate's certificate has expired" if left < 0 else f"the gate's certificate ends in {left:.0f} days"
        troubles.append(Trouble(what, f"fedmosaic server renew {place.path}, then start the gate again"))
    sites = tuple(SiteStatus(one, seen.get(node, "unknown")) for one, node in _known(place).items())
    run = None
    try:
        folder = newest(place, name)
    except ConfigError:
        if name is not None:
            raise
    else:
        run = _run(place, folder, link=link)
        troubles += _troubles(folder, run, place)
    return Status(place.consortium.name, place.consortium.address, link, left, sites, run, tuple(troubles))


def _known(place: Place) -> dict[str, str]:
    known = json.loads(place.nodes_path.read_text()) if place.nodes_path.exists() else {}
    return {name: str(known.get(name, "")) for name in place.enrolments()}


def _run(place: Place, folder: RunFolder, *, link: str) -> RunStatus:
    begun = reopen(folder)
    events = folder.journal.events()
    rounds = tuple(_round(event) for event in events if event.kind == "round")
    released = tuple(event.kind.removeprefix("released ") for event in events if event.kind.startswith("released "))
    plan = begun.plan
    return RunStatus(
        name=folder.name,
        folder=str(folder.path),
        state=_state(place, begun, link=link),
        rounds=rounds,
        rounds_planned=begun.config.rounds,
        released=released,
        epsilon=None if plan is None else plan.epsilon,
        delta=None if plan is None else plan.delta,
    )


def _state(place: Place, begun: Begun, *, link: str) -> str:
    folder = begun.folder
    if folder.journal.events("ended"):
        return "ended"
    if stopped(folder) is not None:
        return "stopped"
    if link == "up" and begun.numbers and run_status(place, begun.numbers[-1]).is_over:
        return "stopped"
    if link == "down":
        return "waiting for the SuperLink"
    return "training" if folder.journal.events("enrolled") else "asking the sites"


def _round(event: Event) -> RoundStatus:
    facts = event.facts
    return RoundStatus(
        number=event.round,
        seconds=float(facts["seconds"]),
        sites=tuple(facts["sites"]),
        lost=dict(facts.get("lost", {})),
        stages={name: float(seconds) for name, seconds in facts.get("stages", {}).items()},
        when=event.time,
    )


def _troubles(folder: RunFolder, run: RunStatus, place: Place) -> list[Trouble]:
    found = []
    event = stopped(folder)
    if run.state == "stopped":
        why = str(event.facts["why"]) if event is not None else "its process ended"
        found.append(Trouble(why, f"{advice(why)} fedmosaic server resume {place.path}".strip()))
    for one in run.rounds[-1:]:
        for site, why in one.lost.items():
            found.append(Trouble(f"round {one.number}: {site} was lost at {why}", advice(why) or "It may come back."))
    if run.rounds and run.state == "training":
        waited = time.time() - run.rounds[-1].when
        usual = sorted(one.seconds for one in run.rounds)[len(run.rounds) // 2]
        if waited > 5 * usual + 30:
            found.append(Trouble(f"no round has ended for {waited:.0f} s", "Is every site's side running?"))
    return found
