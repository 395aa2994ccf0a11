"""Fill a page's template: strict about names, everything escaped, nothing fetched."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from common.fairness.result import GroupFigures
from common.reports import numbers
from common.reports.headline import NUMBERS, TITLES, figure_text, headline, is_share, measured, measured_text
from common.reports.plots import condition_title
from common.reports.record import RunRecord
from common.reports.sentences import (
    entry_numbers,
    gap_name,
    gap_size,
    red_boxes,
    release_kind,
    shown_share,
    verdict,
)
from common.secagg.roster import too_many_colluders

METRIC_NAMES = {
    "tpr": "found, of those with it (TPR)",
    "fpr": "falsely alarmed (FPR)",
    "selection_rate": "called positive",
    "ppv": "rightly called positive (PPV)",
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "calibration_gap": "predicted minus observed",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "bias": "mean error (predicted minus true)",
}


def render(template: str, record: RunRecord, **context: object) -> str:
    """Render a template of this folder for a record; the record's red boxes are always there."""
    pages = environment()
    pages.filters |= _FILTERS | {"release_kind": lambda noise_std: release_kind(record, noise_std)}
    always = {"record": record, "boxes": red_boxes(record), "headline": headline(record.kind)}
    return pages.get_template(template).render(always | context)


def environment() -> Environment:
    """Templates of this folder: strict about names, everything escaped."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(enabled_extensions=("html.j2", "css.j2"), default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def replaced(record: RunRecord) -> tuple[float, ...]:
    """What the plan costs the costliest cohort where one person is replaced; empty where nothing was charged."""
    known = [cohort.replace_one for site in record.sites for cohort in site.cohorts if cohort.replace_one is not None]
    return (max(known),) if known else ()


def file_name(site: str) -> str:
    """A site's name as a file's name, whatever characters it has."""
    return quote(site, safe=" ")


def _reasons(groups: tuple[GroupFigures, ...]) -> list[str]:
    """Why single figures of groups that are shown cannot be said, each once, with the groups."""
    found: dict[str, list[str]] = {}
    for group in groups:
        if group.condition == "all" and not group.suppressed:
            for reason in dict.fromkeys(figure.reason for figure in group.figures.values() if figure.value is None):
                found.setdefault(reason, []).append(f"{group.attribute} {group.group}")
    return [f"{', '.join(names)}: {reason}" for reason, names in found.items()]


_FILTERS = {
    "percent": numbers.percent,
    "decimal": numbers.decimal,
    "points": numbers.points,
    "epsilon": numbers.epsilon,
    "remaining": numbers.remaining,
    "plain": numbers.plain,
    "percent_figure": numbers.percent_figure,
    "decimal_figure": numbers.decimal_figure,
    "count": numbers.count_figure,
    "size": numbers.size,
    "moment": numbers.moment,
    "gap_size": gap_size,
    "too_many_colluders": too_many_colluders,
    "condition": condition_title,
    "metric": lambda name: METRIC_NAMES.get(name, name),
    "title": lambda name: TITLES[name],
    "shape": lambda name: "percent" if is_share(name) else "decimal",
    "gap_shape": lambda name: "decimal" if name in NUMBERS else "points",
    "measured_text": measured_text,
    "figure": figure_text,
    "gap_name": gap_name,
    "entry_numbers": entry_numbers,
    "share": shown_share,
    "verdict": verdict,
    "cell_reasons": _reasons,
    "file_name": file_name,
    "replaced": replaced,
    "measured": measured,
}
