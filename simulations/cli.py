"""The command `fedmosaic`. Nothing heavy is imported before a run begins: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.cli import app as site
from common.command import errors
from server.cli import server

app = typer.Typer(
    name="fedmosaic",
    help="Private multimodal learning across institutions that may not share their data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example: [bold]fedmosaic simulate experiment=heart privacy.epsilon=4[/bold]",
)
app.add_typer(site, name="site")
app.add_typer(server, name="server")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Hydra overrides, such as experiment=heart_flamby privacy.epsilon=1 seed=3.", show_default=False
    ),
]


@app.callback()
def _root() -> None:
    """Keep `simulate` a command of its own."""


@app.command(epilog="Example: fedmosaic simulate experiment=heart privacy.epsilon=1,2,4 --multirun")
def simulate(  # noqa: PLR0913  (each is an option of the command)
    overrides: Overrides = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a run; progress goes to stderr.")
    ] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with a run that was stopped: its folder.")] = None,
    multirun: Annotated[
        bool, typer.Option("--multirun", help="One run for every combination (seed=0,1,2), all on the same ledgers.")
    ] = False,
    explain: Annotated[str | None, typer.Option(help="Say what a configuration key means, and stop.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something goes wrong.")] = False,
) -> None:
    """Train, evaluate and audit a federation on this machine, under differential privacy and secure aggregation."""
    with errors(debug=debug):
        from simulations.session import explain_key, resume_run, start_runs  # noqa: PLC0415

        if explain is not None:
            typer.echo(explain_key(explain))
        elif resume is not None:
            resume_run(resume, list(overrides or []), as_json=as_json)
        else:
            start_runs(list(overrides or []), runs, as_json=as_json, multirun=multirun)


@app.command(epilog="Example: fedmosaic report runs/heart/20260301-101500-3fa2c1")
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something goes wrong.")] = False,
) -> None:
    """Write a run's pages again, from its metrics.json."""
    with errors(debug=debug):
        from simulations.session import rewrite_reports  # noqa: PLC0415

        for path in rewrite_reports(run):
            typer.echo(path)


@app.command(epilog="Example: fedmosaic bench fusion --experiment digits --set data.root=DIR --seeds 3 --out figures")
def bench(  # noqa: PLR0913  (each is an option of the command)
    name: Annotated[str, typer.Argument(help="What to measure; see above.")],
    *,
    experiment: Annotated[str, typer.Option(help="Which experiment to measure.")] = "heart_flamby",
    out: Annotated[Path, typer.Option(help="Where tables and pictures go.")] = Path("runs/bench"),
    epsilon: Annotated[list[float] | None, typer.Option(help="curve: an epsilon to measure; may be repeated.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of all runs of a comparison.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each row of a comparison.")] = 5,
    checkout: Annotated[
        Path | None, typer.Option(help="fedmultimodal: its source tree, whose trainer is to be run beside ours.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it works.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; progress goes to stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something goes wrong.")] = False,
) -> None:
    """Measure what README and docs quote.

    NAME is curve (quality over epsilon), cost (seconds and memory as ratios), dp (a private step against others'),
    ledger (a charge), secagg (secure aggregation against Flower's and the hardware), scale (one sum over 1,000 sites),
    audit (what single steps show, and their noise), contrastive (objectives that bring modalities together, with and
    without privacy), fedmultimodal (digits, watch or synthetic as files that its trainer reads), or a comparison of an
    experiment's variants over several seeds: modalities (all, and each alone), fusion (the six policies), missing
    (modalities taken away), privacy (epsilon).
    """
    with errors(debug=debug):
        from simulations.bench.command import Asked, run_bench  # noqa: PLC0415

        asked = Asked(tuple(epsilon or ()), as_json, quick, tuple(settings or ()), seeds, checkout)
        run_bench(name, experiment, out, asked)


@app.command(epilog="Example: fedmosaic verify state/ledger.sqlite --receipt receipt.json --policy policy.yaml")
def verify(  # noqa: PLR0913  (each is an option of the command)
    ledger: Annotated[str, typer.Argument(help="A ledger's file, or the URL of its database.")],
    *,
    receipt: Annotated[
        list[Path] | None, typer.Option(help="A receipt that left the site, or a list of them; may be repeated.")
    ] = None,
    public_key: Annotated[str | None, typer.Option(help="The institution's key, in hex, as you know it.")] = None,
    roster: Annotated[Path | None, typer.Option(help="The consortium's roster, which lists that key.")] = None,
    lifetime_epsilon: Annotated[float | None, typer.Option(help="Hold the total against this budget.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Hold it against this policy.yaml's budget.")] = None,
    explain: Annotated[str | None, typer.Option(metavar="RUN", help="Follow one run back to its entries.")] = None,
    subject: Annotated[str | None, typer.Option(metavar="PSEUDONYM", help="What one subject has spent.")] = None,
    modality: Annotated[str | None, typer.Option(help="With --subject: in this modality only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object (docs/ledger.md).")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something goes wrong.")] = False,
) -> None:
    """Recompute all that a privacy ledger says from its entries, with code that shares nothing with its writer.

    Exit code: 0 nothing is wrong, 1 something is, 2 a file could not be read.
    """
    with errors(debug=debug):
        from common.verify.command import Asked, run_verify  # noqa: PLC0415

        budget = lifetime_epsilon, policy
        asked = Asked(tuple(receipt or ()), public_key, roster, *budget, explain, subject, modality, as_json)
        raise typer.Exit(run_verify(ledger, asked))


@site.command(epilog="Example: fedmosaic site check data/cleveland --policy state/policy.yaml --out check.html")
def check(
    folder: Annotated[Path, typer.Argument(help="A site folder (with dataset.yaml), or a folder of them.")],
    *,
    policy: Annotated[Path | None, typer.Option(help="The site's policy.yaml; default: what a new one allows.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a page with a picture of the data's shape.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; progress goes to stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where something goes wrong.")] = False,
) -> None:
    """Read all of an institution's data as a run would: who has what, what looks odd, and what could ever leave.

    Exit code: 0 all of it can be read, 2 something cannot, with file, row and column.
    """
    with errors(debug=debug):
        from simulations.check import run_check  # noqa: PLC0415

        run_check(folder, policy, out, as_json=as_json)


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
