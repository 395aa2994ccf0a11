"""What one subject has spent: the cohorts that it is in, proved by their Merkle paths, and what they pay."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.verify.cohorts import SECRET_BYTES, Membership, Path, climb
from common.verify.finding import is_hex, shown
from common.verify.read import LedgerUnreadable
from common.verify.totals import RunCost, Totals


@dataclass(frozen=True)
class Part:
    """What a subject pays for one run.

    Attributes:
        cohort: the cohort's name; None where the run is paid by everyone.
        path: from the subject's leaf to the root.
        is_member: whether the path leads there.
    """

    cost: RunCost
    cohort: str | None
    root: str | None
    path: Path
    is_member: bool
    rho: float


@dataclass(frozen=True)
class SubjectSpend:
    """One subject, in all modalities or in one; `by_modality` has epsilon for each that the ledger names."""

    pseudonym: str
    modality: str | None
    parts: tuple[Part, ...]
    rho: float
    epsilon: float
    by_modality: dict[str, float]


def subject_spend(totals: Totals, membership: Membership, pseudonym: str, modality: str | None) -> SubjectSpend:
    """Add up what a subject pays.

    Raises:
        LedgerUnreadable: the pseudonym is none, or no charge names the modality.
    """
    if not is_hex(pseudonym.lower(), SECRET_BYTES):
        raise LedgerUnreadable(f"--subject must be a pseudonym of 64 hex digits, got {shown(pseudonym)}")
    names = _modalities(totals)
    if modality is not None and modality not in names:
        known = ", ".join(shown(name) for name in names) or "none"
        raise LedgerUnreadable(f"--modality {shown(modality)} is named by no charge of this ledger; it names {known}")
    secret = bytes.fromhex(pseudonym)
    roots = membership.roots_of.get(secret, frozenset())
    parts = [part for cost in totals.runs for part in _parts(cost, membership, (secret, roots), (totals.at, modality))]
    rho = math.fsum(part.rho for part in parts)
    by_modality = {
        name: totals.epsilon(math.fsum(cost.paid_by(roots, name)[totals.at] for cost in totals.runs)) for name in names
    }
    return SubjectSpend(pseudonym.lower(), modality, tuple(parts), rho, totals.epsilon(rho), by_modality)


def _parts(
    cost: RunCost, membership: Membership, subject: tuple[bytes, frozenset[str]], asked: tuple[int, str | None]
) -> list[Part]:
    (secret, roots), (at, modality) = subject, asked
    if cost.is_for_everyone():
        return [Part(cost, None, None, (), is_member=False, rho=cost.counted(modality)[at])]
    parts = []
    for line in cost.cohorts:
        if line.root is None or line.root not in roots:
            continue
        cohort = membership.cohorts[line.root]
        path = cohort.path(secret)
        is_member = climb(cohort.salt, secret, path) == line.root
        parts.append(Part(cost, line.cohort, line.root, path, is_member, line.counted(modality)[at]))
    return parts


def _modalities(totals: Totals) -> list[str]:
    charges = [line.charge for cost in totals.runs for cohort in cost.cohorts for line in cohort.charges]
    return sorted({name for charge in charges for name in charge.modalities or ()})
