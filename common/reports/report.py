"""The run's main page: what a clinician, an engineer and an auditor read first."""

from __future__ import annotations

from pathlib import Path

import yaml

from common.files import PUBLIC, write_whole
from common.metrics.texts import SCORES
from common.reports import plots, sentences
from common.reports.grid import budget_bar, participation
from common.reports.leaning import leaning
from common.reports.limits import not_covered
from common.reports.record import RunRecord
from common.reports.render import render


def write_run_report(record: RunRecord, path: Path) -> Path:
    """Write one self-contained HTML page: no script, nothing loaded, fit for paper."""
    pictures = {
        "training": plots.training_picture(record),
        "updates": plots.update_picture(record),
        "conditions": plots.conditions_picture(record),
        "groups": plots.groups_picture(record.audit) if record.audit else "",
    }
    text = render(
        "report.html.j2",
        record,
        plots=pictures,
        bars={site.name: budget_bar(site.ledger) for site in record.sites if site.ledger},
        grid=participation([site.name for site in record.sites], record.rounds),
        in_short=sentences.in_short(record),
        leaning=leaning(record),
        fairness=sentences.fairness(record.audit),
        left_out={block.name: sum(block.name in item.left_out for item in record.rounds) for block in record.blocks},
        took_part=sentences.took_part(record),
        ranked=is_ranked(record),
        conditions_caption=_conditions_caption(record),
        retrieved=_retrieved(record),
        written=_written(record),
        text_scores=SCORES,
        not_covered=not_covered(record),
        config=_config(record),
    )
    return write_whole(path, text, mode=PUBLIC)


def _retrieved(record: RunRecord) -> list[str]:
    """The directions in which the simulator measured retrieval."""
    figures = record.test.figures if record.test else {}
    return [name.removeprefix("gallery/") for name in figures if name.startswith("gallery/")]


def _written(record: RunRecord) -> list[str]:
    """The modalities whose texts the model writes."""
    figures = record.released.conditions["all"] if record.released else record.test.figures if record.test else {}
    return [name.removeprefix("bleu/") for name in figures if name.startswith("bleu/")]


def is_ranked(record: RunRecord) -> bool:
    """Tell whether the task has an AUROC."""
    return record.released is not None and any("auroc" in figures for figures in record.released.conditions.values())


def _conditions_caption(record: RunRecord) -> str:
    parts = []
    if record.released:
        kind = sentences.release_kind(record, record.released.noise_std)
        noise = {
            "dp": "released under DP with noise",
            "test": "released with test noise",
            "bare": "released without noise",
        }[kind]
        parts.append(f"Filled dot with bar: {noise}, and its 95 % interval.")
    if record.test:
        parts.append("Hollow diamond: measured by the simulator.")
    return " ".join(parts)


def _config(record: RunRecord) -> str:
    """The configuration as YAML, less the public schema (the site folders have it) and a budget nobody kept to."""
    shown = {key: value for key, value in record.config.items() if key != "data_schema"}
    if record.promise.kind == "none" and "privacy" in shown:
        shown["privacy"] = {"kind": "none"}
    return yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True).strip()
