"""One site's part of the record: what it paid, what is left, what left it and what it refused."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from client.enrolment import open_ledger
from client.ledger_account import CohortLine, LedgerSummary
from client.policy import read_policy
from client.self_check import CERTIFICATE
from client.site import Site
from common.privacy.accounting import pld_epsilon, prv_epsilon, rdp_epsilon, replace_one_epsilon
from common.privacy.events import Charge, Event
from common.privacy.step_audit import StepCertificate
from common.reports.record import (
    ChargeRecord,
    CohortBudget,
    OutRecord,
    RefusedRecord,
    SiteRecord,
    Traffic,
)
from common.reports.spend import LedgerRecord, RunSpend, SubjectSpend

if TYPE_CHECKING:
    from simulations.run import Prepared

Line = Mapping[str, str | int | float]
_WHAT = {
    "Task": "signed advert",
    "ShareRequest": "sealed shares for the other sites",
    "MaskRequest": "masked vectors",
    "CheckRequest": "signature on who survived",
    "RevealRequest": "shares that unmask the sum",
    "ChooseRequest": "choice of neighbours",
    "LargeShareRequest": "sealed shares for the chosen neighbours",
    "LargeMaskRequest": "masked vectors",
    "LargeCheckRequest": "signature on who survived",
    "LargeRevealRequest": "shares that unmask the sum",
}


def site_record(prepared: Prepared, site: Site, modalities: tuple[str, ...]) -> SiteRecord:
    """Read one site's ledger and log."""
    run = prepared.folder.name
    left = [line for line in site.logged("left") if line["run"] == run]
    out = tuple(_out(prepared, lines) for lines in _grouped(left))
    refused = tuple(
        RefusedRecord(_when(line), str(line["code"]), str(line["reason"])) for line in site.logged("refused")
    )
    if prepared.plan is None:
        return SiteRecord(site.name, modalities, out=out, refused=refused)
    policy = read_policy(site.policy_path)
    with open_ledger(site, policy) as ledger:
        summary = ledger.spent()
        location = ledger.store.name
    sensitivities = {release.purpose: release.l2_sensitivity for release in prepared.plan.counts}
    line = next(line for line in summary.runs if line.run == run)
    cohorts = tuple(_cohort(cohort, prepared.plan.delta, sensitivities) for cohort in line.cohorts)
    certificate = StepCertificate.from_json((site.run_folder(run) / CERTIFICATE).read_bytes())
    return SiteRecord(site.name, modalities, cohorts, _ledger(summary, run, location), out, refused, certificate)


def traffic_of(sites: Sequence[Site], run: str, *, masked: bool) -> tuple[Traffic, ...]:
    """What every site sent the server over the whole run, by purpose, from the sites' own logs."""
    form = (
        "masked integers; the server can read only the sum"
        if masked
        else "in the clear: the server reads each site's own"
    )
    found = []
    for site in sites:
        lines = [line for line in site.logged("left") if line["run"] == run]
        for purpose in dict.fromkeys(str(line["purpose"]) for line in lines):
            sizes = [int(line["bytes"]) for line in lines if line["purpose"] == purpose]
            found.append(Traffic(site.name, "server", purpose, form, len(sizes), sum(sizes)))
    return tuple(found)


def _cohort(line: CohortLine, delta: float, sensitivities: Mapping[str, float]) -> CohortBudget:
    # Of all that was planned: PLD holds for a plan wherever it stops, not for the part at which somebody stopped it.
    pld, prv, rdp, replaced = _figures(tuple(charge.event for charge in line.reserved), delta)
    charges = tuple(
        _charge(reserved, charged, sensitivities) for reserved, charged in zip(line.reserved, line.charged, strict=True)
    )
    return CohortBudget(line.cohort, delta, pld, prv, rdp, replaced, charges)


@lru_cache(maxsize=64)
def _figures(events: tuple[Event, ...], delta: float) -> tuple[float, float, float, float]:
    """PLD, PRV, RDP and the replace-one figure; sites that ran the same share the work."""
    return (
        pld_epsilon(events, delta),
        prv_epsilon(events, delta),
        rdp_epsilon(events, delta),
        replace_one_epsilon(events, delta),
    )


def _charge(reserved: Charge, charged: Charge, sensitivities: Mapping[str, float]) -> ChargeRecord:
    event = reserved.event
    return ChargeRecord(
        purpose=reserved.purpose,
        mechanism=event.mechanism,
        noise_multiplier=event.noise_multiplier,
        sampling_rate=event.sampling_rate,
        planned=event.count,
        ran=charged.event.count,
        l2_sensitivity=sensitivities.get(reserved.purpose),
    )


def _ledger(summary: LedgerSummary, run: str, location: str) -> LedgerRecord:
    names = [line.run for line in summary.runs]
    place = names.index(run)
    before = summary.runs[place - 1].spent_after if place else 0.0
    runs = tuple(
        RunSpend(
            *(line.run, cohort.cohort, cohort.reserved_epsilon, cohort.charged_epsilon, line.when),
            entries=line.entries,
            spent_after=line.spent_after,
        )
        for line in summary.runs
        for cohort in line.cohorts
    )
    return LedgerRecord(
        lifetime_epsilon=summary.lifetime_epsilon,
        delta=summary.delta,
        spent=summary.spent,
        left=summary.left,
        entries=summary.entries,
        head=summary.head,
        public_key=summary.public_key,
        spent_before=before,
        runs=runs,
        by_modality=dict(summary.by_modality),
        subjects=tuple(
            SubjectSpend(one.subjects, len(one.runs), one.spent, dict(one.by_modality))
            for one in summary.subjects.classes
        ),
        location=location,
        needed=summary.needed,
    )


def _grouped(lines: Iterable[Line]) -> list[list[Line]]:
    """The log's lines of one release together: all stages of one round and purpose."""
    groups: dict[tuple[int, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((int(line["round"]), str(line["purpose"])), []).append(line)
    return list(groups.values())


def _out(prepared: Prepared, lines: Sequence[Line]) -> OutRecord:
    first, config = lines[0], prepared.config
    masked = config.secagg.kind == "masked"
    training = first["purpose"] == "training"
    steps = config.privacy.steps_per_round if training else 1
    noised = f"{steps} step{'s' if steps > 1 else ''}" if training else "1 table"
    charged = "" if prepared.plan is None else noised
    return OutRecord(
        round=int(first["round"]),
        purpose=str(first["purpose"]),
        what=", ".join(_WHAT[str(line["stage"])] for line in lines) if masked else "the contribution itself",
        recipient="server",
        num_bytes=sum(int(line["bytes"]) for line in lines),
        protection=f"masked; only in a sum of {config.secagg.k_min} or more" if masked else "none: the server reads it",
        charged=charged,
        when=_when(first),
    )


def _when(line: Line) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(float(line["time"])))
