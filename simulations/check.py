"""`fedmosaic site check`: read site folders as a run would, and say what is in them, and what could ever leave."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from client.leaving import NEVER, Leaving, leaving
from client.policy import Policy, read_policy
from common.data.decoding import Decoder
from common.data.error import DataError, wrong
from common.data.folder import read_site, read_spec
from common.data.overview import ModalityFacts, Overview, overview
from common.data.schema import merge_schemas

_WITHOUT_MODALITIES, _FRAME, _WIDEST_COUNT = 46, 3, 8  # characters: what stands before them, lines between, "120 100%"
SPLIT_SEED = 0  # a run's default: which subjects are in which cohort, where no column says so


@dataclass(frozen=True)
class Checked:
    """What was found in the folders, and what the policy lets leave."""

    sites: tuple[Overview, ...]
    leaves: tuple[Leaving, ...]


def check(root: Path, policy: Policy) -> Checked:
    """Read one site folder, or every one in a folder of them.

    Raises:
        DataError: the first thing that is wrong, with file, row and column.
    """
    folders = _folders(root)
    specs = [read_spec(folder) for folder in folders]
    try:
        merge_schemas(specs)
    except ValueError as error:
        raise wrong(root, f"{error}: the folders of a federation describe the same thing alike") from error
    with _progress() as decoder:
        sites = [
            overview(read_site(folder, split_seed=SPLIT_SEED, decode=decoder, identified=policy.allow_identified_files))
            for folder in folders
        ]
    return Checked(tuple(sites), leaving(policy))


def run_check(root: Path, policy_path: Path | None, out: Path | None, *, as_json: bool) -> None:
    """Check, and print a table or a JSON object; with `out`, write a page too."""
    # Without one: what a new policy allows. The two budgets must be given, and change nothing that is said here.
    policy = Policy(lifetime_epsilon=1, lifetime_delta=1e-9) if policy_path is None else read_policy(policy_path)
    found = check(root, policy)
    if out is not None:
        from simulations.check_page import write_check_page  # noqa: PLC0415  (matplotlib: only where a page is wanted)

        write_check_page(found, out)
    if as_json:
        sys.stdout.write(json.dumps(_plain(found)) + "\n")
        return
    console = Console()
    for site in found.sites:
        console.print(_shown(site, console.width))
    console.print(_leaving_table(found.leaves, by_default=policy_path is None))
    if out is not None:
        console.print(f"Page: {out}", highlight=False)


def _folders(root: Path) -> tuple[Path, ...]:
    if (root / "dataset.yaml").exists():
        return (root,)
    found = tuple(sorted(path.parent for path in root.glob("*/dataset.yaml")))
    if not found:
        raise DataError(f"{root}: neither a site folder nor a folder of them: there is no dataset.yaml")
    return found


@contextmanager
def _progress() -> Iterator[Decoder]:
    """A bar for each column of files on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def report(column: str, done: int, of: int) -> None:
            if column not in tasks or done == 1:
                tasks[column] = bars.add_task(f"reading {column}", total=of)
            bars.update(tasks[column], completed=done)

        yield Decoder(report=report)


def _plain(found: Checked) -> dict[str, object]:
    sites = []
    for site in found.sites:
        patterns = [{"modalities": list(pattern), "rows": counts} for pattern, counts in site.patterns.items()]
        sites.append({**asdict(site), "patterns": patterns})
    return {"sites": sites, "leaves": [asdict(item) for item in found.leaves], "never_leaves": list(NEVER)}


def _shown(site: Overview, width: int) -> Group:
    people = f"{site.subjects} subjects, {site.rows} rows (at most {site.most_rows} of one subject)"
    head = Text(f"\n{site.name}: {people}, {site.left_out} left out", style="bold")
    shapes = Table(title="Modalities", title_justify="left")
    for name in ("modality", "kind", "shape", "rate", "rows", "subjects", "length: least, middle, most"):
        shapes.add_column(name, justify="right" if name in {"rows", "subjects"} else "left")
    for facts in site.modalities:
        shape, rate = " x ".join(map(str, facts.shape)), f"{facts.rate:g} Hz" if facts.rate else ""
        shapes.add_row(facts.name, facts.kind, shape, rate, str(facts.rows), str(facts.subjects), length_of(facts))
    warnings = [Text(f"! {warning}", style="yellow") for warning in site.warnings]
    return Group(
        head, *_presence_tables(site, width), shapes, *(warnings or [Text("Nothing that looks odd.", style="dim")])
    )


def length_of(facts: ModalityFacts) -> str:
    """How long a modality's records are, where they differ at all."""
    if facts.unit == "steps" and facts.longest <= 1:
        return ""
    unit = "s" if facts.unit == "seconds" else "tokens"
    return f"{facts.shortest:.3g}, {facts.median:.3g}, {facts.longest:.3g} {unit}"


def _presence_tables(site: Overview, width: int) -> Iterator[Table]:
    """One table, or one below the other with some of the modalities each, so that each fits the terminal."""
    room, names = max(width - _WITHOUT_MODALITIES, 0), [facts.name for facts in site.modalities]
    while names:
        ends = accumulate(max(len(name), _WIDEST_COUNT) + _FRAME for name in names)
        some = max(1, sum(end <= room for end in ends))
        yield _presence_table(site, names[:some])
        names = names[some:]


def _presence_table(site: Overview, names: list[str]) -> Table:
    table = Table(title="Who has what: rows with a modality, by cohort and label", title_justify="left")
    for name in ("cohort", "label"):
        table.add_column(name)
    for name in ("subjects", "rows", *names):
        table.add_column(name, justify="right")
    for place, line in enumerate(site.presence):
        if not line.task and place:
            table.add_section()
        cells = [f"{line.present[name]} {share_of(line.present[name], line.rows)}" for name in names]
        label = "all" if not line.task else f"{line.task}: {line.label}"
        table.add_row("" if line.task else line.split, label, str(line.subjects), str(line.rows), *cells)
    return table


def share_of(part: int, whole: int) -> str:
    """A share in whole percent; never 0 or 100 where it is not exactly that."""
    if not whole:
        return "-"
    share = 100 * part / whole
    return f"{share:.0f}%" if part in {0, whole} else f"{min(max(share, 1), 99):.0f}%"


def _leaving_table(leaves: tuple[Leaving, ...], *, by_default: bool) -> Group:
    whose = "a new policy (give your own with --policy)" if by_default else "this policy"
    table = Table(title=f"What could ever leave under {whose}", title_justify="left")
    for name in ("for", "what", "how it is protected"):
        table.add_column(name)
    for item in leaves:
        style = "red" if "NOT" in item.protection else ""
        table.add_row(item.purpose, item.what, Text(item.protection, style=style))
    never = [Text("What never leaves", style="italic"), *(Text(f"  - {item}") for item in NEVER)]
    return Group(Text(), table, *never)
