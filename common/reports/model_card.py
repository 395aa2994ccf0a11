"""The model card, in the form that Hugging Face reads: YAML facts on top, Markdown below."""

from __future__ import annotations

from pathlib import Path

import yaml

from common.files import PUBLIC, write_whole
from common.reports import sentences
from common.reports.headline import headline, measured
from common.reports.limits import not_covered
from common.reports.record import RunRecord
from common.reports.render import render

_HUB_NAMES = {"accuracy": "accuracy", "auroc": "roc_auc", "f1": "f1", "mae": "mae", "rmse": "rmse", "r2": "r_squared"}


def write_model_card(record: RunRecord, path: Path) -> Path:
    """Write the card."""
    body = render(
        "model_card.md.j2",
        record,
        modalities=sorted({name for site in record.sites for name in site.modalities}),
        num_parameters=sum(block.num_parameters for block in record.blocks),
        fairness=sentences.fairness(record.audit),
        certainty=sentences.certainty(record.promise.epsilon) if record.promise.epsilon is not None else "",
        audited=_audited(record),
        not_covered=not_covered(record),
    )
    front = yaml.safe_dump(_front(record), sort_keys=False, allow_unicode=True)
    return write_whole(path, f"---\n{front}---\n\n{body}", mode=PUBLIC)


def _audited(record: RunRecord) -> list[str]:
    """The metrics of the audit's groups that a card has room for."""
    known = {metric for group in record.audit.groups for metric in group.figures} if record.audit else set()
    return [metric for metric in ("tpr", "fpr", "mae", "bias") if metric in known] or ["accuracy"]


def _front(record: RunRecord) -> dict[str, object]:
    """The facts that the Hub indexes."""
    private = ["differential-privacy"] if record.promise.kind != "none" else []
    masked = ["secure-aggregation"] if record.secagg.kind != "none" else []
    shown = [metric for metric in headline(record.kind) if metric in _HUB_NAMES]
    pipeline = f"tabular-{'regression' if record.kind == 'regression' else 'classification'}"
    front: dict[str, object] = {
        "library_name": "fedmosaic",
        "pipeline_tag": pipeline,
        "tags": ["federated-learning", "multimodal", *private, *masked],
        "metrics": [_HUB_NAMES[metric] for metric in shown],
    }
    if record.test is not None:
        values = {_HUB_NAMES[metric]: measured(record.test, metric) for metric in shown}
        metrics = [
            {"type": kind, "value": round(value, 4), "verified": False}
            for kind, value in values.items()
            if value is not None
        ]
        task = {"type": pipeline, "name": record.task}
        dataset = {"type": record.experiment, "name": record.experiment, "split": "test"}
        results = [{"task": task, "dataset": dataset, "metrics": metrics}]
        front["model-index"] = [{"name": f"fedmosaic-{record.experiment}", "results": results}]
    return front
