"""An institution's budget page, for its data-protection officer, and the same as JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic_core import to_json

from common.files import PUBLIC, write_whole
from common.reports import sentences
from common.reports.grid import bars, budget_bar
from common.reports.limits import not_covered, recompute
from common.reports.plots import spend_picture
from common.reports.record import RunRecord, SiteRecord
from common.reports.render import file_name, render
from common.reports.spend import LedgerRecord


def write_budget_page(record: RunRecord, site: SiteRecord, folder: Path) -> tuple[Path, Path]:
    """Write `<site>.html` and `<site>.json` into the folder."""
    known = [cohort.pld for cohort in site.cohorts if cohort.pld is not None]
    ledger = site.ledger
    page = render(
        "budget.html.j2",
        record,
        site=site,
        worst=max(known, default=None),
        bar=budget_bar(ledger) if ledger else "",
        meaning=sentences.budget_meaning(ledger.spent, ledger.lifetime_epsilon, ledger.left) if ledger else "",
        certainty=sentences.certainty(record.promise.epsilon) if record.promise.epsilon is not None else "",
        not_covered=not_covered(record),
        recompute=recompute(site.cohorts),
        certified=sentences.certified(site.certificate) if site.certificate else "",
        attack=sentences.attack(record.promise),
        verify=verify_command(ledger) if ledger else "",
        over_time=spend_picture(ledger) if ledger else "",
        by_run=bars(by_run(ledger), ledger.lifetime_epsilon) if ledger else "",
        by_modality=bars(list(ledger.by_modality.items()), ledger.lifetime_epsilon) if ledger else "",
    )
    name = file_name(site.name)
    html = write_whole(folder / f"{name}.html", page, mode=PUBLIC)
    return html, write_whole(folder / f"{name}.json", _json(record, site), mode=PUBLIC)


def verify_command(ledger: LedgerRecord) -> str:
    """What the institution types, in its state folder, to have its ledger read by other code than wrote it."""
    place = ledger.location or "ledger.sqlite"
    receipts = "--receipt ledger.receipt --receipt RECEIPTS"
    return f"fedmosaic verify {place} {receipts} --public-key {ledger.public_key} --policy policy.yaml"


def by_run(ledger: LedgerRecord) -> list[tuple[str, float]]:
    """What each run cost whoever paid most in it, by the filter, of that run alone."""
    found: dict[str, float] = {}
    for line in ledger.runs:
        found[line.run] = max(found.get(line.run, 0.0), line.spent_epsilon or 0.0)
    return list(found.items())


def _json(record: RunRecord, site: SiteRecord) -> str:
    content = {
        "institution": site.name,
        "run": record.run,
        "created": record.created,
        "simulated": record.simulated,
        "warnings": sentences.red_boxes(record),
        "promise": record.promise,
        "attack": sentences.attack(record.promise),
        "secure_aggregation": record.secagg,
        "not_covered": not_covered(record),
        "this_run": site.cohorts,
        "stages": record.config.get("stages", []),
        "ledger": site.ledger,
        "left_the_site": site.out,
        "refused": site.refused,
        "verify": verify_command(site.ledger) if site.ledger else None,
        "recompute": recompute(site.cohorts),
        "certificate": site.certificate,
    }
    return to_json(content, indent=1, inf_nan_mode="null").decode() + "\n"
