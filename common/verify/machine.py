"""The verdict as one JSON object; docs/ledger.md says what its fields mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.verify.cohorts import Membership
from common.verify.facts import ADJACENCY, SAMPLING, UNIT
from common.verify.finding import WHOLE, Finding
from common.verify.subject import SubjectSpend
from common.verify.totals import ChargeCost, CohortCost, RunCost, Totals, best_epsilon
from common.verify.verdict import Verdict

Json = dict[str, object]


def as_json(verdict: Verdict, run: str | None, subject: SubjectSpend | None) -> Json:
    """Lay a verdict out for a program; of one run only, if one is named."""
    totals = verdict.totals
    told: Json = {
        "ok": not verdict.problems,
        "problems": _findings(verdict.problems),
        "notes": _findings(verdict.notes),
        "anchor": verdict.anchor,
        "entries": len(verdict.entries),
        "head": verdict.entries[-1].digest if verdict.entries else None,
        "lifetime_epsilon": None if verdict.budget is None else verdict.budget.epsilon,
    }
    if totals is not None:
        costs = [cost for cost in totals.runs if run in (None, cost.run.name)]
        digests = {entry.seq: entry.digest for entry in verdict.entries}
        told |= _figures(totals, verdict)
        told["runs"] = [_run(cost, totals, verdict.membership, digests) for cost in costs]
    if subject is not None:
        told["subject"] = _subject(subject)
    return told


def _figures(totals: Totals, verdict: Verdict) -> Json:
    header = totals.header
    facts: Json = {
        **{"site": header.site, "version": verdict.story.version, "when": header.when.isoformat()},
        **{"delta": header.delta, "order": header.order, "orders": list(header.orders)},
        **{"adjacency": ADJACENCY, "unit": UNIT, "sampling": SAMPLING, "public_key": header.public_key},
    }
    classes = [
        {"subjects": each.subjects, "roots": sorted(each.roots), "rho": each.rho, "epsilon": each.epsilon}
        for each in totals.classes
    ]
    return {
        "header": facts,
        "needed": {"epsilon": totals.needed, "order": header.order, "rho": totals.rho},
        "spent": {"epsilon": totals.spent, "order": totals.spent_order},
        "largest_subject": totals.largest(),
        "in_no_cohort": {"rho": totals.everyone, "epsilon": totals.epsilon(totals.everyone)},
        "classes": classes,
    }


def _run(cost: RunCost, totals: Totals, membership: Membership, digests: Mapping[int, str]) -> Json:
    run, rho = cost.run, cost.counted()[totals.at]
    best, order = best_epsilon(totals.header, cost.counted())
    return {
        "run": run.name,
        "plan": run.reservation.plan if run.reservation else None,
        "reserved_at": run.reserved_at,
        "released_at": sorted(run.releases),
        "settled_at": run.settled_at,
        "rho": rho,
        "epsilon": totals.epsilon(rho),
        "least_epsilon": best,
        "least_order": order,
        "cohorts": [_cohort(cohort, totals, membership) for cohort in cost.cohorts],
        "digests": {str(number): digests[number] for number in run.entries()},
    }


def _cohort(cohort: CohortCost, totals: Totals, membership: Membership) -> Json:
    known = membership.cohorts.get(cohort.root or "")
    reserved, charged = (best_epsilon(totals.header, curve) for curve in (cohort.reserved(), cohort.counted()))
    return {
        "cohort": cohort.cohort,
        "root": cohort.root,
        "subjects": None if known is None else len(known.pseudonyms),
        "rho": cohort.counted()[totals.at],
        "reserved_epsilon": reserved[0],
        "reserved_order": reserved[1],
        "charged_epsilon": charged[0],
        "charged_order": charged[1],
        "charges": [_charge(line, totals.at) for line in cohort.charges],
    }


def _charge(line: ChargeCost, at: int) -> Json:
    charge = line.charge
    return {
        "purpose": charge.purpose,
        "mechanism": charge.mechanism,
        "noise_multiplier": charge.noise_multiplier,
        "sampling_rate": charge.sampling_rate,
        "modalities": None if charge.modalities is None else list(charge.modalities),
        "reserved": charge.count,
        "released": line.released,
        "returned": charge.count - line.counted,
        "counted": line.counted,
        "rho_each": line.each[at],
        "rho": line.total(line.counted)[at],
    }


def _subject(spend: SubjectSpend) -> Json:
    return {
        "pseudonym": spend.pseudonym,
        "modality": spend.modality,
        "rho": spend.rho,
        "epsilon": spend.epsilon,
        "by_modality": spend.by_modality,
        "runs": [
            {
                "run": part.cost.run.name,
                "entries": part.cost.run.entries(),
                "cohort": part.cohort,
                "root": part.root,
                "path": [list(step) for step in part.path],
                "is_member": part.is_member,
                "rho": part.rho,
            }
            for part in spend.parts
        ],
    }


def _findings(found: Iterable[Finding]) -> list[Json]:
    return [{"entry": None if each.entry == WHOLE else each.entry, "text": each.text} for each in found]
