"""The federation's privacy page, for whoever has to answer for all of it, and the same as JSON: public facts only."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydantic_core import to_json

from common.files import PUBLIC, write_whole
from common.reports import sentences
from common.reports.limits import not_covered, recompute
from common.reports.record import CohortBudget, RunRecord
from common.reports.render import render


def write_privacy_page(record: RunRecord, folder: Path) -> tuple[Path, Path]:
    """Write `privacy.html` and `privacy.json` into the folder.

    Guarantees:
        public: all of it follows from the plan, the roster and the protocol's messages; nothing is from a site's
            ledger, log or folder.
    """
    plan = planned(record)
    keys = {site.name: site.ledger.public_key for site in record.sites if site.ledger}
    content = {
        "run": record.run,
        "created": record.created,
        "simulated": record.simulated,
        "warnings": sentences.red_boxes(record),
        "promise": record.promise,
        "attack": sentences.attack(record.promise),
        "secure_aggregation": record.secagg,
        "not_covered": not_covered(record),
        "plan": [_public(cohort) for cohort in plan],
        "left_the_sites": record.traffic,
        "public_keys": keys,
        "recompute": recompute(plan),
    }
    page = render(
        "privacy.html.j2",
        record,
        plan=plan,
        keys=keys,
        attack=content["attack"],
        not_covered=content["not_covered"],
        recompute=content["recompute"],
    )
    html = write_whole(folder / "privacy.html", page, mode=PUBLIC)
    return html, write_whole(
        folder / "privacy.json", to_json(content, indent=1, inf_nan_mode="null").decode() + "\n", mode=PUBLIC
    )


def planned(record: RunRecord) -> tuple[CohortBudget, ...]:
    """What the plan charges each cohort; it is one for all sites, so any site's will do."""
    return next((site.cohorts for site in record.sites if site.cohorts), ())


def _public(cohort: CohortBudget) -> dict[str, object]:
    """A cohort's part of the plan: all but how often each mechanism ran at the site that it was read from."""
    charges = [{key: value for key, value in asdict(charge).items() if key != "ran"} for charge in cohort.charges]
    return {**asdict(cohort), "charges": charges}
