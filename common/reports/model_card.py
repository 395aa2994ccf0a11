"""The model card, in the form that Hugging Face reads: YAML facts on top, Markdown below."""

from __future__ import annotations

from pathlib import Path

import yaml

from common.files import PUBLIC, write_whole
from common.reports import sentences
from common.reports.limits import not_covered
from common.reports.record import RunRecord
from common.reports.render import render
from common.reports.report import is_ranked


def write_model_card(record: RunRecord, path: Path) -> Path:
    """Write the card."""
    body = render(
        "model_card.md.j2",
        record,
        modalities=sorted({name for site in record.sites for name in site.modalities}),
        num_parameters=sum(block.num_parameters for block in record.blocks),
        fairness=sentences.fairness(record.audit),
        certainty=sentences.certainty(record.promise.epsilon) if record.promise.epsilon is not None else "",
        ranked=is_ranked(record),
        not_covered=not_covered(record),
    )
    front = yaml.safe_dump(_front(record), sort_keys=False, allow_unicode=True)
    return write_whole(path, f"---\n{front}---\n\n{body}", mode=PUBLIC)


def _front(record: RunRecord) -> dict[str, object]:
    """The facts that the Hub indexes."""
    private = ["differential-privacy"] if record.promise.kind != "none" else []
    masked = ["secure-aggregation"] if record.secagg.kind != "none" else []
    front: dict[str, object] = {
        "library_name": "fedmosaic",
        "pipeline_tag": "tabular-classification",
        "tags": ["federated-learning", "multimodal", *private, *masked],
        "metrics": ["accuracy", "roc_auc"] if is_ranked(record) else ["accuracy"],
    }
    if record.test is not None:
        values = {"accuracy": record.test.pooled_accuracy, "roc_auc": record.test.auroc}
        metrics = [
            {"type": kind, "value": round(value, 4), "verified": False}
            for kind, value in values.items()
            if value is not None
        ]
        task = {"type": "tabular-classification", "name": record.task}
        dataset = {"type": record.experiment, "name": record.experiment, "split": "test"}
        results = [{"task": task, "dataset": dataset, "metrics": metrics}]
        front["model-index"] = [{"name": f"fedmosaic-{record.experiment}", "results": results}]
    return front
