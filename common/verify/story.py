"""The entries read as a story: a header, migrations, and runs that reserve, release and settle, in this order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.verify.chain import Entry
from common.verify.facts import OLDEST, BadBody, Header, Migration, Release, Reservation, Settlement, read_fact
from common.verify.finding import WHOLE, Finding, shown
from common.verify.read import Row


@dataclass
class Run:
    """One run as its entries tell it; filled while they are read, and left alone afterwards.

    Attributes:
        reservation: None where the entry that reserves cannot be read.
        releases: what was released, by entry.
        places: the entry that released first at each (round, stage, purpose).
        released: how many were released, by purpose.
    """

    name: str
    reserved_at: int
    reservation: Reservation | None
    releases: dict[int, Release] = field(default_factory=dict)
    places: dict[tuple[int, str, str], int] = field(default_factory=dict)
    released: Counter[str] = field(default_factory=Counter)
    settled_at: int | None = None

    def entries(self) -> list[int]:
        """The numbers of all its entries."""
        ends = [] if self.settled_at is None else [self.settled_at]
        return sorted([self.reserved_at, *self.releases, *ends])


@dataclass
class Story:
    """All that the entries say, and what is wrong or worth knowing about it."""

    header: Header | None = None
    version: int = OLDEST
    runs: dict[str, Run] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


def read_story(entries: Sequence[Entry]) -> Story:
    """Read all entries that can be read, and name each that cannot, or that stands in the wrong place."""
    story, last = Story(), None
    for entry in entries:
        if (entry.kind == "header") != (entry.seq == 0):
            place = "a header stands in the middle" if entry.seq else f"the ledger begins with {shown(entry.kind)}"
            story.problems.append(Finding(entry.seq, f"{place}: there is one header, at entry 0"))
        try:
            fact = read_fact(entry.kind, entry.body, story.version)
        except BadBody as error:
            story.problems.append(Finding(entry.seq, str(error)))
            if entry.kind == "reserve":
                story.runs.setdefault(entry.run, Run(entry.run, entry.seq, None))
            continue
        if last is not None and fact.when < last:
            story.notes.append(Finding(entry.seq, f"the clock went back by {last - fact.when}"))
        last = fact.when
        if isinstance(fact, Header | Migration):
            _tell_ledger(story, entry, fact)
        else:
            _tell_run(story, entry, fact)
    return story


def check_version(story: Story, rows: Sequence[Row] | None, *, has_cohorts: bool) -> list[Finding]:
    """Hold the version of the tables against the one that header and migrations give."""
    if rows is None and story.version == OLDEST:
        return []
    found = []
    written = [row[0] for row in rows or ()]
    if written != [story.version]:
        said = ", ".join(shown(value) for value in written) or "nothing"
        found.append(Finding(WHOLE, f"schema_version says {said}; the entries come to version {story.version}"))
    if story.version > OLDEST and not has_cohorts:
        found.append(Finding(WHOLE, "the tables cohorts and members are missing"))
    return found


def _tell_ledger(story: Story, entry: Entry, fact: Header | Migration) -> None:
    if entry.run:
        story.problems.append(Finding(entry.seq, f"a {entry.kind} belongs to no run, and it names {shown(entry.run)}"))
    if isinstance(fact, Migration):
        story.version = fact.target
    elif story.header is None:
        story.header, story.version = fact, fact.schema


def _tell_run(story: Story, entry: Entry, fact: Reservation | Release | Settlement) -> None:
    run, name = story.runs.get(entry.run), shown(entry.run)
    if not entry.run:
        story.problems.append(Finding(entry.seq, f"its kind is {entry.kind}, and it names no run"))
    elif isinstance(fact, Reservation):
        if run is not None:
            story.problems.append(Finding(entry.seq, f"run {name} was reserved before, at entry {run.reserved_at}"))
            return
        story.runs[entry.run] = Run(entry.run, entry.seq, fact)
        keys = {own.reservation.pseudonyms for own in story.runs.values() if own.reservation is not None} - {None}
        if fact.pseudonyms is not None and len(keys) > 1:
            problem = "its pseudonyms were made with another key than earlier ones, so that everybody starts at zero"
            story.problems.append(Finding(entry.seq, problem))
    elif run is None:
        story.problems.append(Finding(entry.seq, f"{entry.kind} of run {name}, which was never reserved"))
    elif run.settled_at is not None:
        settled = f"which was settled at entry {run.settled_at}"
        story.problems.append(Finding(entry.seq, f"{entry.kind} of run {name}, {settled}"))
    elif isinstance(fact, Settlement):
        run.settled_at = entry.seq
    else:
        _tell_release(story, run, entry.seq, fact)


def _tell_release(story: Story, run: Run, number: int, fact: Release) -> None:
    place = (fact.round, fact.stage, fact.purpose)
    before = run.places.setdefault(place, number)
    if before != number:
        what = f"{shown(fact.purpose)} of round {fact.round}, stage {shown(fact.stage)}"
        story.problems.append(Finding(number, f"{what}, was released before, at entry {before}"))
    run.releases[number] = fact
    run.released[fact.purpose] += fact.count
    if run.reservation is None:
        return
    reserved = sum(charge.count for charge in run.reservation.charges if charge.purpose == fact.purpose)
    released = run.released[fact.purpose]
    if released > reserved:
        what = f"{released} of {shown(fact.purpose)} are released by now, and {reserved} were reserved"
        story.problems.append(Finding(number, f"run {shown(run.name)} goes beyond its reservation: {what}"))
