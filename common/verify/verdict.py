"""The whole check: from a ledger's tables to what is wrong, what is worth knowing, and what everything adds up to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.verify.anchors import Anchors, anchor_sentence, check_anchors
from common.verify.chain import Entry, check_chain, check_signatures, read_entries
from common.verify.cohorts import Membership, check_disjoint, read_membership
from common.verify.facts import Header
from common.verify.finding import WHOLE, Finding, shown, shown_entries
from common.verify.read import LedgerUnreadable, Rows
from common.verify.story import Story, check_version, read_story
from common.verify.totals import Totals, add_up, check_budget, check_subjects


@dataclass(frozen=True)
class Budget:
    """What the institution allows; delta is None where only the epsilon was given.

    `by_subject`: runs are taken beyond it, and whoever has no budget left is left out of them.
    """

    epsilon: float
    delta: float | None
    by_subject: bool = False


@dataclass(frozen=True)
class Verdict:
    """What `verify` found.

    Attributes:
        problems: sorted by entry; none: the ledger is what its page says.
        anchor: what ties the ledger to the world outside, in one or two sentences.
        totals: None where the header cannot be read, so that nothing can be added up.
    """

    entries: tuple[Entry, ...]
    story: Story
    membership: Membership
    totals: Totals | None
    budget: Budget | None
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    anchor: str


def verify(rows: Rows, anchors: Anchors, budget: Budget | None) -> Verdict:
    """Recompute everything that a ledger says.

    Guarantees:
        complete: any change of any field of an entry, a cohort or a member, that was not signed with the ledger's key,
            is among the problems; entries dropped from the end, or a ledger signed anew, where an anchor shows it.
    """
    entries, problems = read_entries(rows.entries)
    story = read_story(entries)
    membership, of_cohorts, notes = read_membership(rows, story.runs.values())
    header = story.header
    problems += [*check_chain(entries), *check_signatures(entries, _key(header, anchors))]
    problems += [*story.problems, *of_cohorts, *check_disjoint(membership, list(story.runs.values()))]
    problems += check_version(story, rows.version, has_cohorts=None not in (rows.cohorts, rows.members))
    problems += [Finding(WHOLE, f"no trigger keeps the table {name} append-only") for name in rows.unguarded]
    problems += check_anchors(anchors, header, entries)
    notes += [*story.notes, *_notes(story)]
    totals = None if header is None else add_up(header, story.runs.values(), membership)
    if totals is not None and budget is not None:
        check = check_subjects if budget.by_subject else check_budget
        beyond, earlier = check(totals, budget.epsilon)
        problems += [*beyond, *_check_delta(totals.header, budget)]
        notes += earlier
    anchor = anchor_sentence(anchors, header, entries)
    wrong, known = tuple(sorted(set(problems))), tuple(sorted(set(notes)))
    return Verdict(entries, story, membership, totals, budget, wrong, known, anchor)


def read_budget(epsilon: float | None, policy: Path | None) -> Budget | None:
    """Take the budget from an option, or from the institution's policy.

    Raises:
        LedgerUnreadable: the policy is missing, or names no budget, or the epsilon is not above 0.
    """
    if epsilon is not None and not 0 < epsilon < float("inf"):
        raise LedgerUnreadable(f"--lifetime-epsilon must be a number above 0, got {epsilon}")
    if policy is None:
        return None if epsilon is None else Budget(epsilon, None)
    try:
        values: object = yaml.safe_load(policy.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise LedgerUnreadable(f"{policy} cannot be read as a policy ({error}): give a policy.yaml") from error
    named = values if isinstance(values, dict) else {}
    allowed, delta = (_number(named.get(name)) for name in ("lifetime_epsilon", "lifetime_delta"))
    if allowed is None or delta is None or not allowed > 0:
        raise LedgerUnreadable(f"{policy} names no lifetime_epsilon and lifetime_delta: give the site's policy.yaml")
    by_subject = named.get("spent_subjects") == "leave-out"
    return Budget(allowed if epsilon is None else epsilon, delta, by_subject)


def _number(value: object) -> float | None:
    """A number of a policy; YAML takes 1e-5, without a point, for a word, and the site itself does not."""
    try:
        return float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        return None


def _key(header: Header | None, anchors: Anchors) -> str | None:
    return anchors.known_key(None) if header is None else header.public_key


def _check_delta(header: Header, budget: Budget) -> Iterator[Finding]:
    if budget.delta not in (None, header.delta):
        yield Finding(0, f"the header's delta is {header.delta:g}, and the policy's lifetime_delta is {budget.delta:g}")


def _notes(story: Story) -> Sequence[Finding]:
    found = [
        Finding(run.reserved_at, f"run {shown(run.name)} is not settled: its whole reservation counts")
        for run in story.runs.values()
        if run.settled_at is None
    ]
    without = [run.reserved_at for run in story.runs.values() if run.reservation and run.reservation.roots is None]
    if without:
        text = f"reservations without cohorts, which every subject pays for: entries {shown_entries(without)}"
        found.append(Finding(WHOLE, text))
    return found
