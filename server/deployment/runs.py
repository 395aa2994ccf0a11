"""An operator's runs: begin one, go on with one, follow it, finish it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.compose import ConfigError, compose
from common.config import Config
from common.files import PUBLIC, write_whole
from common.journal import Event
from common.privacy.plan import PrivacyPlan
from common.receipts import keep_newest, read_receipts
from common.secagg.roster import Roster
from server.deployment.advice import advice
from server.deployment.control import nodes, register, run_status, start_run
from server.deployment.gates import Gate, judge
from server.deployment.place import Place
from server.folder import RunFolder, create_run_folder

_AT_THE_SITES = "at-the-sites"  # where a site's data are is for the site alone to say
_STATUS_SECONDS, _POLL_SECONDS = 15.0, 0.3
_BACK_SECONDS, _AGAIN_SECONDS = 90.0, 1.0


@dataclass(frozen=True)
class Begun:
    """A run that was handed to the SuperLink."""

    folder: RunFolder
    config: Config
    plan: PrivacyPlan | None

    @property
    def run_config(self) -> dict[str, str]:
        """What every node is told; each site checks it and trusts none of it."""
        plan = self.plan.to_json() if self.plan else "null"
        return {"run": self.folder.name, "config": self.config.model_dump_json(), "plan": plan}

    @property
    def flower_path(self) -> Path:
        """The SuperLink's numbers of this run: one for each time that it was started."""
        return self.folder.path / "state" / "flower.json"

    @property
    def numbers(self) -> list[str]:
        """The SuperLink's numbers of this run, the newest last."""
        return list(json.loads(self.flower_path.read_text())) if self.flower_path.exists() else []


def begin(place: Place, overrides: Sequence[str], *, wait_seconds: float) -> Begun:
    """Plan a run over all who are enrolled, and hand it to the SuperLink. Nothing stays of a failure.

    Raises:
        ConfigError: the configuration is wrong, an institution does not fit, or one is not online in time.
    """
    from server.planning import describe, plan_of  # noqa: PLC0415  (torch: only where a run is begun)

    config = _composed(overrides)
    specs = [paper.description for paper in place.enrolments().values()]
    if not specs:
        raise ConfigError(f"nobody is enrolled: fedmosaic server enrol {place.path} ENROLMENT.json...")
    described = describe(config, specs, where="the enrolled institutions' descriptions")
    if described.without_task:
        raise ConfigError(
            f"{', '.join(described.without_task)} have no task {config.objective.task}: take them off the roster for"
            " this run (server enrol --remove), or choose another task"
        )
    config = described.resolve(config)
    roster = Roster.from_bytes(place.roster_path.read_bytes())
    plan = plan_of(config, num_sites=len(roster.entries))
    known = _all_online(place, wait_seconds)
    folder = create_run_folder(config, place.runs)
    try:
        write_whole(folder.path / "roster.bin", roster.to_bytes(), mode=PUBLIC)
        write_whole(folder.nodes_path, json.dumps(known))
        keep_newest(folder.receipts_path, _bodies(place.receipts_path), roster)
        folder.save(config, plan)
        begun = Begun(folder, config, plan)
        _start(place, begun)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return begun


def _composed(overrides: Sequence[str]) -> Config:
    """The configuration; where it asks for a folder of data, each site's own is meant."""
    try:
        return compose(overrides)
    except ConfigError as error:
        try:
            return compose((f"data.root={_AT_THE_SITES}", *overrides))
        except ConfigError:
            raise error from None


def reopen(folder: RunFolder) -> Begun:
    """Read a run back."""
    config, plan = folder.load()
    return Begun(folder, config, plan)


def resume(place: Place, begun: Begun) -> None:
    """Start a run again from its state: the sites answer what they have answered with the same bytes.

    What stopped the run may have thrown institutions off: they get a while to come back, since a round with too few of
    them is lost. Who is away for longer is left out, as from any round.

    Raises:
        ConfigError: it has ended, or is still running.
    """
    if begun.folder.journal.events("ended"):
        raise ConfigError(f"run {begun.folder.name} has ended: fedmosaic server finish {place.path}")
    if begun.numbers and not run_status(place, begun.numbers[-1]).is_over:
        raise ConfigError(f"run {begun.folder.name} is still running: fedmosaic server status {place.path}")
    register(place)
    known, deadline = json.loads(begun.folder.nodes_path.read_text()), time.monotonic() + _BACK_SECONDS
    while _away(place, known) and time.monotonic() < deadline:
        time.sleep(_AGAIN_SECONDS)
    _start(place, begun)


def follow(place: Place, begun: Begun) -> None:
    """Wait for the end of a run.

    Raises:
        RunStopped: its ServerApp ended before the run did.
    """
    asked = time.monotonic()
    while not begun.folder.journal.events("ended"):
        if time.monotonic() - asked > _STATUS_SECONDS:
            asked = time.monotonic()
            if run_status(place, begun.numbers[-1]).is_over and not begun.folder.journal.events("ended"):
                raise _why_stopped(begun.folder, place)
        elif stopped(begun.folder) is not None:
            raise _why_stopped(begun.folder, place)
        time.sleep(_POLL_SECONDS)


class RunStopped(RuntimeError):
    """A run ended early; the sentence says why, as far as it is known, and how to go on."""


class GateClosed(RuntimeError):
    """A model has not shown what its operator asks for."""


class RunWasRefused(RunStopped):
    """Institutions refused the run."""


def stopped(folder: RunFolder) -> Event | None:
    """Why a run stopped since it was last started, as its own server wrote it down; None: it did not say."""
    found, started = folder.journal.events("stopped"), folder.journal.events("started")
    return found[-1] if found and started and found[-1].time > started[-1].time else None


def _why_stopped(folder: RunFolder, place: Place) -> RunStopped:
    event = stopped(folder)
    if event is None:
        why = f"its process ended; see {place.work('superexec')}/superexec.log"
    else:
        why = f"{event.facts['why']}. {advice(str(event.facts['why']))}".strip()
    kind = RunWasRefused if event is not None and event.facts["error"] == "RunRefused" else RunStopped
    return kind(f"run {folder.name} stopped: {why}; go on with: fedmosaic server resume {place.path}")


def finish(place: Place, folder: RunFolder, gates: Sequence[Gate] = ()) -> tuple[Path, ...]:
    """Write a finished run's model, pages and model card, and keep the institutions' receipts for the next run.

    With gates, `gates.json` says which of them the released figures pass.

    Raises:
        ConfigError: the run has not ended.
        GateClosed: a gate is not passed; everything is written all the same.
    """
    from common.reports.write import write_all  # noqa: PLC0415  (matplotlib)
    from server.record import Finished, assemble, write_model  # noqa: PLC0415  (torch)

    ended = folder.journal.events("ended")
    if not ended:
        raise ConfigError(f"run {folder.name} has not ended: fedmosaic server resume {place.path}")
    config, plan = folder.load()
    roster = Roster.from_bytes((folder.path / "roster.bin").read_bytes())
    keep_newest(place.receipts_path, _bodies(folder.receipts_path), roster)
    finished = Finished(folder, config, plan, len(roster.entries))
    write_model(finished)
    seconds = ended[-1].time - min(event.time for event in folder.journal.events())
    record = assemble(finished, seconds=seconds)
    written = (folder.path / "model.safetensors", *write_all(folder.path, record))
    if not gates:
        return written
    verdicts = judge(record, gates)
    body = json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n"
    path = write_whole(folder.path / "gates.json", body, mode=PUBLIC)
    closed = [f"{one.gate} ({one.where}: {one.figure})" for one in verdicts if not one.passed]
    if closed:
        raise GateClosed(f"run {folder.name} does not pass {', '.join(closed)}; see {path}")
    return (*written, path)


def newest(place: Place, name: str | None = None) -> RunFolder:
    """The run of that name, or the newest.

    Raises:
        ConfigError: there is none.
    """
    found = [RunFolder(path.parent.resolve()) for path in place.runs.glob("*/*/config.yaml")]
    found = [folder for folder in found if name in (None, folder.name)]
    if not found:
        raise ConfigError(f"{place.runs} has no run{'' if name is None else f' {name}'}")
    return max(found, key=lambda folder: (folder.path / "config.yaml").stat().st_mtime)


def _start(place: Place, begun: Begun) -> None:
    started = start_run(place, begun.run_config, begun.folder.path / "state")
    write_whole(begun.flower_path, json.dumps([*begun.numbers, started.number]))
    begun.folder.journal.record("started", len(begun.numbers), {"flower": started.number})


def _all_online(place: Place, wait_seconds: float) -> dict[str, str]:
    """Register all who are enrolled and wait until each of them is there; returns node ids by institution."""
    known, deadline = register(place), time.monotonic() + wait_seconds
    while away := _away(place, known):
        if time.monotonic() > deadline:
            raise ConfigError(f"not online: {', '.join(away)}; each starts its side with: fedmosaic site join STATE")
        time.sleep(_AGAIN_SECONDS)
    return known


def _away(place: Place, known: Mapping[str, str]) -> list[str]:
    """The institutions whose node is not online, sorted."""
    online = nodes(place)
    return sorted(name for name, node in known.items() if online.get(node) != "online")


def _bodies(path: Path) -> list[bytes]:
    return [receipt.to_bytes() for receipt in read_receipts(path)]
