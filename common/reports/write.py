"""Write everything that a run folder says about its run."""

from __future__ import annotations

from pathlib import Path

from common.files import PUBLIC, write_whole
from common.reports.budget import write_budget_page
from common.reports.fairness import write_fairness_page
from common.reports.federation import write_privacy_page
from common.reports.model_card import write_model_card
from common.reports.record import RunRecord
from common.reports.report import write_run_report


def write_all(run_folder: Path, record: RunRecord) -> tuple[Path, ...]:
    """Write metrics.json, model_card.md and pages: report, privacy, simulated budget/<site>, fairness after an audit.

    Guarantees:
        whole: each file is there whole or not at all; the record comes first, so that the pages can be written again.
        again: writing the same record again gives the same bytes.

    Returns:
        the files written, the report's page second.
    """
    written = [write_whole(run_folder / "metrics.json", record.to_json(), mode=PUBLIC)]
    written.append(write_run_report(record, run_folder / "report.html"))
    written += write_privacy_page(record, run_folder)
    for site in (
        record.sites if record.simulated else ()
    ):  # a deployed site's ledger is its own: `fedmosaic site budget`
        written += write_budget_page(record, site, run_folder / "budget")
    if record.audit is not None:
        written += write_fairness_page(record, record.audit, run_folder)
    written.append(write_model_card(record, run_folder / "model_card.md"))
    return tuple(written)
