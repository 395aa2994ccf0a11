"""`fedmosaic site`: an institution's own commands. Nothing heavy is imported before one of them begins."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.command import FAILED, errors

if TYPE_CHECKING:
    from client.deployment.approve import Difference
    from client.deployment.status import Status

app = typer.Typer(
    help="An institution's own commands.",
    no_args_is_help=True,
    epilog="Example: fedmosaic site check data/cleveland",
)

State = Annotated[Path, typer.Argument(help="The site's state folder: keys, ledger, policy.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where something goes wrong.")]


@app.command(epilog="Example: fedmosaic site init state --data data/cleveland --invitation invitation.json")
def init(  # noqa: PLR0913  (each is an option of the command)
    state: State,
    *,
    data: Annotated[Path, typer.Option(help="The data folder; only its dataset.yaml is read.")],
    invitation: Annotated[Path, typer.Option(help="What the consortium's operator sent.")],
    ledger: Annotated[str | None, typer.Option(help="The URL of a PostgreSQL database for the privacy ledger.")] = None,
    lifetime_epsilon: Annotated[float, typer.Option(help="Budget of a subject over all runs.")] = 10.0,
    lifetime_delta: Annotated[float, typer.Option(help="Its delta, below 1 / number of subjects; fixed now.")] = 1e-5,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make an institution's keys, ledger and policy, and the enrolment that its operator needs.

    With FEDMOSAIC_PASSPHRASE_FILE (a file of mode 0600) in the environment, the identity key is encrypted; every later
    command needs it then.
    """
    with errors(debug=debug):
        from client.deployment.init import Wish, init_site  # noqa: PLC0415

        made = init_site(state, Wish(data, invitation, ledger, lifetime_epsilon, lifetime_delta))
        if as_json:
            paths = {"state": str(made.place.state), "enrolment": str(made.place.enrolment_path)}
            typer.echo(json.dumps({"name": made.name, "fingerprint": made.fingerprint, **paths}))
            return
        typer.echo(
            f"{made.name}: {made.place.state} holds this site's keys, ledger and policy. Back it up; share nothing."
        )
        typer.echo(f"The consortium {made.invitation.consortium} has the key {made.fingerprint}:")
        typer.echo("  compare it with the operator, by telephone, before you go on.")
        typer.echo(f"Read and correct {made.place.state}/policy.yaml: what is yours to decide says so.")
        typer.echo(f"Send {made.place.enrolment_path} to the operator (it holds public keys only). Then:")
        typer.echo(f"  fedmosaic site approve {state} --roster roster.bin --bundle fedmosaic.fab")


@app.command(epilog="Example: fedmosaic site approve state --roster roster.bin --bundle fedmosaic.fab")
def approve(  # noqa: PLR0913  (each is an option of the command)
    state: State,
    *,
    roster: Annotated[Path, typer.Option(help="The consortium's signed roster.")],
    bundle: Annotated[Path, typer.Option(help="The operator's bundle: a manifest without code.")],
    yes: Annotated[bool, typer.Option("--yes", help="Approve without being asked.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Look at a roster and a bundle, see what is new in them, and pin them together with the installed code.

    With --json nobody is asked: nothing is pinned without --yes. Exit code 3: what must never be approved.
    """
    with errors(debug=debug):
        from client.deployment.approve import difference, pin  # noqa: PLC0415
        from client.deployment.place import Place  # noqa: PLC0415

        place = Place(state.resolve())
        found = difference(place, roster, bundle)
        if as_json:
            facts = {key: value for key, value in asdict(found).items() if key not in {"roster", "approval"}}
            typer.echo(json.dumps({**facts, "approval": found.approval.model_dump(), "approved": yes}))
        else:
            _show(found)
        if not yes and (as_json or not typer.confirm("Approve?")):
            typer.echo("nothing was approved", err=True)
            raise typer.Exit(0 if as_json else FAILED)
        pin(place, found)
        if not as_json:
            typer.echo(f"Approved. Then: fedmosaic site join {state}")


@app.command(epilog="Example: fedmosaic site join state")
def join(
    state: State,
    *,
    superlink: Annotated[str | None, typer.Option(help="HOST:PORT of the gate, if not the invitation's.")] = None,
    debug: Debug = False,
) -> None:
    """Join the federation, and stay in it until Ctrl-C or SIGTERM. Exit code 3: nothing is approved."""
    with errors(debug=debug):
        from client.deployment.join import join as keep_joined  # noqa: PLC0415
        from client.deployment.place import Place  # noqa: PLC0415

        keep_joined(Place(state.resolve()), superlink, _say)


@app.command(epilog="Example: fedmosaic site status state")
def status(state: State, *, as_json: AsJson = False, debug: Debug = False) -> None:
    """Say how a site stands: is it joined, what is approved, what its ledger adds up to, what was last asked of it."""
    with errors(debug=debug):
        from client.deployment.place import Place  # noqa: PLC0415
        from client.deployment.status import status as stand  # noqa: PLC0415

        found = stand(Place(state.resolve()))
        if as_json:
            typer.echo(json.dumps(asdict(found)))
        else:
            _show_status(found)


@app.command(epilog="Example: fedmosaic site budget state")
def budget(state: State, *, as_json: AsJson = False, debug: Debug = False) -> None:
    """Recompute a site's ledger, and hold it against its own key, newest receipt and policy: `fedmosaic verify` here.

    Exit code: 0 nothing is wrong, 1 something is, 2 a file could not be read.
    """
    with errors(debug=debug):
        from client.deployment.place import Place  # noqa: PLC0415
        from client.deployment.status import show_budget  # noqa: PLC0415

        raise typer.Exit(show_budget(Place(state.resolve()), as_json=as_json))


@app.command(epilog="Example: fedmosaic site policy state")
def policy(state: State, *, as_json: AsJson = False, debug: Debug = False) -> None:
    """Say in words what a run may do at a site, by its policy.yaml of now."""
    with errors(debug=debug):
        from client.deployment.place import Place  # noqa: PLC0415
        from client.deployment.status import policy_in_words  # noqa: PLC0415
        from client.policy import read_policy  # noqa: PLC0415

        found = read_policy(Place(state.resolve()).site().policy_path)
        if as_json:
            typer.echo(found.model_dump_json())
        else:
            typer.echo("\n".join(policy_in_words(found)))


def _say(sentence: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')}  {sentence}", err=True)


def _show(found: Difference) -> None:
    for name, fingerprint in found.added.items():
        typer.echo(f"+ {name}  {fingerprint}")
    for name in found.removed:
        typer.echo(f"- {name}")
    for name, fingerprint in found.changed.items():
        typer.echo(f"! {name} has ANOTHER KEY than before: {fingerprint}")
    for name in found.kept:
        typer.echo(f"  {name} as before")
    sizes = ", ".join(f"{name} ({size} bytes)" for name, size in found.files.items())
    typer.echo(f"The bundle {found.approval.bundle[:12]} holds no code: {sizes}")
    for sentence in found.news:
        typer.echo(f"  {sentence}")


def _show_status(found: Status) -> None:
    typer.echo(f"{found.name}: {found.connection} (gate {found.gate})")
    typer.echo(found.trouble or f"approved, with the roster {', '.join(found.roster)}")
    if found.needed is not None and found.spent is not None:
        typer.echo(
            f"budget: {found.needed:.3g} of epsilon {found.lifetime_epsilon:g} is taken, by {len(found.runs)} runs"
            f" (Renyi: {found.spent:.3g})"
        )
    for problem in found.problems:
        typer.echo(f"LEDGER: {problem}")
    for line in found.newest:
        facts = ", ".join(f"{key} {value}" for key, value in line.items() if key not in {"time", "event", "trace"})
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(line["time"])))
        typer.echo(f"{when}  {line['event']}: {facts}" if facts else f"{when}  {line['event']}")
