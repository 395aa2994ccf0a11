"""`fedmosaic server`: the operator's commands."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.command import errors, say

if TYPE_CHECKING:
    from server.deployment.place import Place
    from server.deployment.runs import Begun

server = typer.Typer(
    help="The operator's own commands: start a consortium, run, watch, resume and finish its runs.",
    no_args_is_help=True,
    epilog="Example: fedmosaic server init consortium --host federation.example.org",
)
Where = Annotated[Path, typer.Argument(metavar="DIR", help="The operator's folder.", show_default=False)]
Run = Annotated[str | None, typer.Argument(help="A run's name; default: the newest.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Detach = Annotated[bool, typer.Option("--detach", help="Begin the run and return.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where something goes wrong.")]


@server.command(epilog="Example: fedmosaic server init consortium --host federation.example.org --name 'Heart'")
def init(  # noqa: PLR0913  (each is an option of the command)
    place: Where,
    *,
    host: Annotated[str, typer.Option(help="Host name or IP address by which institutions reach the gate.")],
    name: Annotated[str, typer.Option(help="What the consortium is called.")] = "fedmosaic",
    port: Annotated[int, typer.Option(help="The gate's port, the only one that the outside may reach.")] = 9443,
    listen: Annotated[str, typer.Option(help="The address that the gate listens on.")] = "0.0.0.0",  # noqa: S104
    link_port: Annotated[int, typer.Option(help="The SuperLink's port, on loopback.")] = 9444,
    days: Annotated[float, typer.Option(help="How long the gate's certificate is valid.")] = 365.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make an operator's folder: keys, certificates, invitation, bundle, gate, systemd units, and a README."""
    with errors(debug=debug):
        from server.deployment import init as making  # noqa: PLC0415
        from server.deployment.bundle import hash_of  # noqa: PLC0415
        from server.deployment.place import consortium_of  # noqa: PLC0415

        facts = {"name": name, "host": host, "port": port, "listen": listen, "link_port": link_port, "days": days}
        made = making.create(place, consortium_of(facts))
        told = {
            "folder": str(made.path),
            "invitation": str(made.invitation_path),
            "fingerprint": making.fingerprint(made),
            "bundle": str(made.bundle_path),
            "bundle_hash": hash_of(made.bundle_path),
        }
        if as_json:
            typer.echo(json.dumps(told))
            return
        typer.echo(f"{made.path / 'README.md'} says what is here; keys/ is secret.")
        typer.echo(
            f"Give institutions {made.invitation_path} and read them this by telephone:\n  {told['fingerprint']}"
        )
        typer.echo(f"Then: fedmosaic server enrol {place} ENROLMENT.json...")


@server.command(epilog="Example: fedmosaic server enrol consortium cleveland.json hungary.json")
def enrol(
    place: Where,
    papers: Annotated[list[Path] | None, typer.Argument(help="Enrolments that institutions sent.")] = None,
    *,
    remove: Annotated[list[str] | None, typer.Option(help="Take an institution off; may be repeated.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Add institutions, or take them off, and sign the roster anew; each must approve it before the next run."""
    with errors(debug=debug):
        from server.deployment import init as making  # noqa: PLC0415
        from server.deployment.control import register  # noqa: PLC0415
        from server.deployment.place import Place  # noqa: PLC0415
        from server.deployment.programs import answers  # noqa: PLC0415

        where = Place(place.resolve())
        names = making.enrol(where, papers or (), remove=remove or ())
        if answers(where):
            register(where)
        if as_json:
            typer.echo(json.dumps({"enrolled": names, "roster": str(where.roster_path)}))
            return
        typer.echo(f"{len(names)} enrolled: {', '.join(names)}")
        typer.echo(f"Give every institution {where.roster_path} and {where.bundle_path}; each approves them with:")
        typer.echo("  fedmosaic site approve STATE --roster roster.bin --bundle fedmosaic.fab")


@server.command(epilog="Example: fedmosaic server renew consortium")
def renew(place: Where, debug: Debug = False) -> None:
    """Make gate and SuperLink new certificates; institutions notice nothing. Then start both again."""
    with errors(debug=debug):
        from server.deployment.init import certify_servers  # noqa: PLC0415
        from server.deployment.place import Place  # noqa: PLC0415

        where = Place(place.resolve())
        certify_servers(where)
        typer.echo(f"new certificates for {where.consortium.days:g} days; start gate and SuperLink again")


@server.command(epilog="Example: fedmosaic server up consortium")
def up(place: Where, debug: Debug = False) -> None:
    """Run SuperLink, SuperExec and gate in the foreground, for trials, until Ctrl-C."""
    with errors(debug=debug):
        from server.deployment import programs  # noqa: PLC0415
        from server.deployment.place import Place  # noqa: PLC0415

        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        programs.up(Place(place.resolve()), say, stop=stopping.is_set)


@server.command(epilog="Example: fedmosaic server run consortium experiment=heart privacy.epsilon=4")
def run(  # noqa: PLR0913  (each is an option of the command)
    place: Where,
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, as for simulate.")] = None,
    *,
    wait: Annotated[float, typer.Option(help="How many seconds to wait for institutions to be online.")] = 120.0,
    detach: Detach = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an experiment over all who are enrolled: plan, ask them, train, evaluate, audit, write the pages."""
    with errors(debug=debug):
        from server.deployment import runs  # noqa: PLC0415
        from server.deployment.place import Place  # noqa: PLC0415

        where = Place(place.resolve())
        begun = runs.begin(where, overrides or (), wait_seconds=wait)
        _to_the_end(where, begun, detach=detach, as_json=as_json)


@server.command(epilog="Example: fedmosaic server resume consortium")
def resume(
    place: Where, name: Run = None, *, detach: Detach = False, as_json: Json = False, debug: Debug = False
) -> None:
    """Go on with a run that was interrupted, from its state; no ledger is charged twice."""
    with errors(debug=debug):
        from server.deployment import runs  # noqa: PLC0415
        from server.deployment.place import Place  # noqa: PLC0415

        where = Place(place.resolve())
        begun = runs.reopen(runs.newest(where, name))
        runs.resume(where, begun)
        _to_the_end(where, begun, detach=detach, as_json=as_json)


@server.command(epilog="Example: fedmosaic server status consortium --watch")
def status(  # noqa: PLR0913  (each is an option of the command)
    place: Where,
    name: Run = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every few seconds, until Ctrl-C.")] = False,
    timing: Annotated[bool, typer.Option("--timing", help="Where the seconds of a round go.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say who is there, how far the newest run is, what went wrong and what to do about it."""
    with errors(debug=debug):
        from server.deployment.place import Place  # noqa: PLC0415
        from server.deployment.show import show  # noqa: PLC0415
        from server.deployment.status import status_of  # noqa: PLC0415

        where = Place(place.resolve())
        if as_json:
            typer.echo(json.dumps(status_of(where, name).to_json()))
        else:
            show(lambda: status_of(where, name), watch=watch, timing=timing)


@server.command(
    epilog="Example: fedmosaic server finish consortium --gate 'auroc>=0.7' --gate 'equal_opportunity<=0.2'"
)
def finish(
    place: Where,
    name: Run = None,
    *,
    gates: Annotated[
        list[str] | None,
        typer.Option("--gate", help="METRIC>=LIMIT of the evaluation, METRIC<=LIMIT of the audit's gaps; repeatable."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a finished run's model, model card, report and audit; keep the institutions' receipts for the next run.

    Exit code: 1 where a gate is not passed by the cautious end of the released figure's interval.
    """
    with errors(debug=debug):
        from server.deployment import runs  # noqa: PLC0415
        from server.deployment.gates import read_gates  # noqa: PLC0415
        from server.deployment.place import Place  # noqa: PLC0415

        where = Place(place.resolve())
        _say_files(runs.finish(where, runs.newest(where, name), read_gates(gates or ())), as_json=as_json)


def _to_the_end(place: Place, begun: Begun, *, detach: bool, as_json: bool) -> None:
    from server.deployment import runs  # noqa: PLC0415
    from server.progress import live  # noqa: PLC0415

    say(f"run {begun.folder.name}: {begun.folder.path}")
    if detach:
        typer.echo(json.dumps({"run": begun.folder.name, "folder": str(begun.folder.path)}))
        return
    with live(begun.folder, begun.config):
        runs.follow(place, begun)
    _say_files(runs.finish(place, begun.folder), as_json=as_json)


def _say_files(files: tuple[Path, ...], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"files": [str(path) for path in files]}) + "\n")
        return
    for path in files:
        typer.echo(path)
