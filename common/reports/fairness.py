"""The fairness page, for an auditor or an ethics board, and the same as JSON."""

from __future__ import annotations

from pathlib import Path

from pydantic_core import to_json

from common.fairness.result import AuditResult
from common.files import PUBLIC, write_whole
from common.reports import plots
from common.reports.numbers import plain
from common.reports.record import RunRecord
from common.reports.render import METRIC_NAMES, render
from common.reports.sentences import fairness, red_boxes


def write_fairness_page(record: RunRecord, audit: AuditResult, folder: Path) -> tuple[Path, Path]:
    """Write `fairness.html` and `fairness.json` into the folder."""
    pictures = {
        "groups": plots.groups_picture(audit),
        "gaps": plots.gaps_picture(audit),
        "gains": plots.gains_picture(audit),
    }
    page = render(
        "fairness.html.j2",
        record,
        summary=fairness(audit),
        plots=pictures,
        metrics=[name for name in METRIC_NAMES if any(name in group.figures for group in audit.groups)],
        conditions=list(dict.fromkeys(group.condition for group in audit.groups)),
        charge=_charge(record),
        bins=f"one of {audit.bins} bins",
    )
    html = write_whole(folder / "fairness.html", page, mode=PUBLIC)
    content = {"run": record.run, "warnings": red_boxes(record), "charge": _charge(record), "audit": audit}
    return html, write_whole(
        folder / "fairness.json", to_json(content, indent=1, inf_nan_mode="null").decode() + "\n", mode=PUBLIC
    )


def _charge(record: RunRecord) -> str:
    """What the audit was charged, by the plan that is one for all sites."""
    for site in record.sites:
        for cohort in site.cohorts:
            for charge in cohort.charges:
                if charge.purpose == "audit":
                    mechanism = charge.mechanism.replace("_", " ")
                    return f"one {mechanism} release, noise {plain(charge.noise_multiplier)} times its sensitivity"
    return ""
