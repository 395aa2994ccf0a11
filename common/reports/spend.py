"""The state of a site's ledger, as its budget page shows it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunSpend:
    """One cohort of one run of a site's ledger: what it reserved and cost, by the Renyi filter, of that run alone.

    Attributes:
        entries: numbers of the ledger's entries that these figures come from.
        spent_after: what was spent over this run and all before it.
    """

    run: str
    cohort: str
    reserved_epsilon: float | None
    spent_epsilon: float | None
    when: str = ""
    entries: tuple[int, ...] = ()
    spent_after: float | None = None


@dataclass(frozen=True)
class SubjectSpend:
    """People who took part in exactly the same cohorts: how many, in how many runs, and what each has spent."""

    subjects: int
    runs: int
    spent: float
    by_modality: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LedgerRecord:
    """The state of a site's ledger after the run: lifetime figures over all runs, by Renyi composition.

    Attributes:
        spent: by whichever order gives the least: a guide.
        needed: the filter's figure, at the ledger's one order: what decides; None where it is not known.
        head: hash of the newest entry, in hex.
        spent_before: `spent` as it stood before this run; None where it is not known.
        by_modality: `spent` over the charges that read a modality, for whoever may have paid all of them.
        subjects: what the people in the cohorts themselves have spent; depends on who they are.
        location: where the site keeps it.
    """

    lifetime_epsilon: float
    delta: float
    spent: float
    left: float
    entries: int
    head: str
    public_key: str
    spent_before: float | None = None
    runs: tuple[RunSpend, ...] = ()
    by_modality: dict[str, float] = field(default_factory=dict)
    subjects: tuple[SubjectSpend, ...] = ()
    location: str = ""
    needed: float | None = None
