"""A deployment that lives through bad weeks: the model of the same participation without faults, nothing charged twice.

CI lives through one short week; FEDMOSAIC_FAULTS=all, or the name of one (tests/faults.py), asks for more. Where
FEDMOSAIC_FAULTS_OUT names a file, what recovery took is written there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from client.enrolment import open_ledger
from client.policy import read_policy
from client.site import Site
from server.deployment.runs import newest
from server.folder import RunFolder
from server.state import ServerState
from simulations.run import Prepared
from tests.deployed import QUICK, Deployment, approve, deployed, introduce, processes_of
from tests.faults import HOSTS, WEEKS, Fault
from tests.federation_run import same_weights, silent, state_of
from tests.namespaces import ADDRESS, Network, NotHere, network
from tests.scene import OPERATOR, Scene, children_of
from tests.toy_federation import write_toy_sites

pytestmark = pytest.mark.slow

ASKED = os.environ.get("FEDMOSAIC_FAULTS", "short")
NEWCOMER = "newcomer"
CHOSEN = [*WEEKS, *HOSTS, NEWCOMER] if ASKED == "all" else ASKED.split(",")
DISK_MEGABYTES = 100
SHORT = ("privacy.sampling_rate=0.5", "audit.attributes=[]")
_LOOK_SECONDS = 15.0
_PATIENCE_SECONDS = 900.0


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_toy_sites(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def consortium(sites: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("real"), sites) as made:
        yield made
    assert processes_of(made) == []


@pytest.fixture(scope="module")
def network_of(sites: Sequence[Path]) -> Iterator[Network]:
    try:
        with network("fedmosaic-faults", [folder.name for folder in sites]) as made:
            yield made
    except NotHere as error:
        pytest.skip(f"NOT TESTED: hosts with a network between them: {error}")


@pytest.fixture(scope="module")
def hosts(sites: Sequence[Path], network_of: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The operator and each site in a namespace of its own; small disks, and a clock that can be set."""
    root = tmp_path_factory.mktemp("hosts")
    inside = {name: network_of.inside(name) for name in (OPERATOR, *network_of.sites)}
    if (clock := clock_for("site-2", root)) is not None:
        inside["site-2"] = (*inside["site-2"], *clock)
    with ExitStack() as stack:
        for place in (root / "consortium", root / "machines" / "site-1"):
            small_disk(place, stack)
        with deployed(root, sites, host=(ADDRESS, "0.0.0.0"), inside=inside) as made:  # noqa: S104
            yield made
        assert processes_of(made) == []


def clock_for(name: str, root: Path) -> tuple[str, ...] | None:
    """What a site's commands are put behind so that its clock can be set; None where there is no C compiler."""
    library, clock = root / "clock.so", root / f"{name}.clock"
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source = Path(__file__).parents[1] / "clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    clock.write_text("+0")
    return ("env", f"LD_PRELOAD={library}", f"CLOCK_FILE={clock}")


def small_disk(place: Path, stack: ExitStack) -> None:
    place.mkdir(parents=True)
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(place)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("NOT TESTED: full disks: mount is not allowed here")
    stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("week", [week for week in CHOSEN if week in WEEKS])
def test_a_run_lives_through_a_bad_week(
    week: str, consortium: Deployment, sites: Sequence[Path], tmp_path: Path
) -> None:
    live_through(WEEKS[week], consortium, None)
    judge(consortium, newest(consortium.place), sites[0].parent, tmp_path)


@pytest.mark.parametrize("week", [week for week in CHOSEN if week in HOSTS])
def test_a_run_lives_through_a_bad_week_of_networks_disks_and_clocks(
    week: str, hosts: Deployment, network_of: Network, sites: Sequence[Path], tmp_path: Path
) -> None:
    if week == "clock" and "env" not in hosts.inside["site-2"]:
        pytest.skip("NOT TESTED: clocks that jump: there is no C compiler here")
    live_through(HOSTS[week], hosts, network_of)
    judge(hosts, newest(hosts.place), sites[0].parent, tmp_path)


@pytest.mark.skipif(NEWCOMER not in CHOSEN, reason="FEDMOSAIC_FAULTS does not ask for it")
def test_who_enrols_while_a_run_goes_on_takes_part_in_the_next_one(
    consortium: Deployment, sites: Sequence[Path], tmp_path: Path
) -> None:
    made = consortium
    *_, new = write_toy_sites(tmp_path / "data", sites=len(sites) + 1)
    folder = made.run(*SHORT, "rounds=1", detach=True)
    made.wait_for(lambda: Scene(made, folder, 1).has_begun("site-1"), patience=_PATIENCE_SECONDS)
    made.command("server", "enrol", "consortium", str(introduce(made, new)))
    until(made, folder, lambda: made.has_ended(folder))
    made.command("server", "finish", "consortium")
    judge(made, folder, sites[0].parent, tmp_path / "four")
    made.names = (*made.names, new.name)
    for name in made.names:
        approve(made, name)
    made.join(new.name)
    made.run(*SHORT, "rounds=1")
    judge(made, newest(made.place), new.parent, tmp_path / "five")
    assert [made.has_ended(run) and len(sites_of(run)) for run in (folder, newest(made.place))] == [4, 5]


def sites_of(folder: RunFolder) -> list[str]:
    return list(folder.journal.events("round")[0].facts["sites"])


def live_through(week: Sequence[Fault], made: Deployment, network: Network | None) -> None:
    folder = made.run(*SHORT, f"rounds={len(week)}", detach=True)
    for number, fault in enumerate(week, start=1):
        endure(fault, Scene(made, folder, number, network))
    until(made, folder, lambda: made.has_ended(folder))
    made.command("server", "finish", "consortium")


def endure(fault: Fault, scene: Scene) -> None:
    """Wait for the moment, strike, and wait until the round has ended; resume the run where it has stopped."""
    scene.made.wait_for(lambda: fault.moment(scene), patience=_PATIENCE_SECONDS, why=fault.name)
    struck = time.time()
    fault.strike(scene)
    resumed = until(scene.made, scene.folder, lambda: recovered(scene, struck) is not None)
    keep(fault, seconds=(recovered(scene, struck) or struck) - struck, resumed=resumed)
    facts = next(event.facts for event in scene.folder.journal.events("round") if event.round == scene.round)
    assert set(facts["dropped"]) <= set(fault.loses), (fault.name, facts, scene.made.logs())


def recovered(scene: Scene, struck: float) -> float | None:
    """When the first round ended after the fault, or the run."""
    times = [event.time for kind in ("round", "ended") for event in scene.folder.journal.events(kind)]
    return min((when for when in times if when > struck), default=None)


def until(made: Deployment, folder: RunFolder, holds: Callable[[], bool]) -> int:
    """Wait, as an operator does who looks at `server status` now and then; gives how often the run was resumed."""
    deadline, looked, resumed = time.monotonic() + _PATIENCE_SECONDS, time.monotonic(), 0
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {_PATIENCE_SECONDS} s\n{made.status()}\n{made.logs()}")
        if time.monotonic() - looked > _LOOK_SECONDS:
            run = made.status()["run"]
            if isinstance(run, dict) and run["state"] == "stopped":
                made.command("server", "resume", "consortium", "--detach")
                resumed += 1
            looked = time.monotonic()
        time.sleep(0.2)
    return resumed


def judge(made: Deployment, folder: RunFolder, root: Path, place: Path) -> None:
    """Hold a run that is over against one in process in which the same sites were missing in the same rounds."""
    drops = [f"{site}@{event.round}" for event in folder.journal.events("round") for site in event.facts["dropped"]]
    calm = undisturbed(root, place, rounds=made.rounds(folder), drops=drops)
    own, released = made.final(folder), state_of(calm)
    assert same_weights(own, released)
    assert tables(own) == tables(released)
    for site in calm.sites:
        there = Site(site.name, made.machine(site.name) / "data", made.state(site.name))
        begun, least = releases(there, folder.name), releases(site, calm.folder.name)
        assert len(begun) == len(set(begun)), "something was charged twice"
        missed = {("training", int(drop.split("@")[1])) for drop in drops if drop.startswith(f"{site.name}@")}
        assert set(least) <= set(begun) <= set(least) | missed
        made.command("verify", str(there.ledger_path))
    made.wait_for(lambda: not at_work(made), why="tasks of a run that is over end")


def undisturbed(root: Path, place: Path, *, rounds: int, drops: Sequence[str]) -> Prepared:
    from common.compose import compose  # noqa: PLC0415
    from simulations.run import begin as prepare  # noqa: PLC0415
    from simulations.run import run  # noqa: PLC0415

    overrides = (*QUICK, *SHORT, f"rounds={rounds}", f"data.root={root}", f"drop=[{','.join(drops)}]")
    prepared = prepare(compose(overrides), place / "runs")
    run(prepared, silent, pages=False)
    return prepared


def tables(state: ServerState) -> dict[str, bytes]:
    return {name: table.tobytes() for name, table in state.released.items()}


def releases(site: Site, run: str) -> list[tuple[str, int]]:
    """What a site's ledger has been charged for in a run."""
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        facts = [entry.facts() for entry in ledger.entries() if entry.kind == "release" and entry.run == run]
    return [(str(fact["purpose"]), int(str(fact["round"]))) for fact in facts]


def at_work(made: Deployment) -> list[int]:
    """Processes that are there only while a run is."""
    scene = Scene(made, RunFolder(made.root), 0)
    workers = [number for name in made.names for number in scene.processes("client.deployment.warm", name)]
    children = {child for number in workers for child in children_of(number)}
    return [*scene.processes("flwr-serverapp", OPERATOR), *children]


def keep(fault: Fault, *, seconds: float, resumed: int) -> None:
    """Write down what a recovery took."""
    if "FEDMOSAIC_FAULTS_OUT" not in os.environ:
        return
    path = Path(os.environ["FEDMOSAIC_FAULTS_OUT"])
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(fault.name, []).append({"seconds": round(seconds, 1), "resumed": resumed})
    path.write_text(json.dumps(known, indent=1) + "\n")
