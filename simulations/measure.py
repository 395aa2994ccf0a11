"""What only a simulator can know: the model's exact quality on records that in a real federation nobody holds together.

Published figures are exact, so a researcher needs exact ones to compare. They leave no institution: the reports print
them apart from what the protocol released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from client.contribute import Work
from client.enrolment import agreement_of
from client.evaluate import answers
from client.own_statistics import with_own_statistics
from client.site import Site
from common.blocks import load
from common.data.batch import Batch, hide
from common.data.labels import is_labelled
from common.data.schema import TaskSpec
from common.fairness.table import conditions_of
from common.messages import Task
from common.objectives import read_modalities, told
from common.reports.record import ConditionTest, ExactTest, SiteTest
from server.state import Arrays
from simulations.retrieval import Ranks, ranks_of, together
from simulations.texts import Texts, texts_of
from simulations.texts import together as all_texts

_EVEN, _SHOWN_TEXTS = 0.5, 3
Figures = dict[str, float]


@dataclass(frozen=True)
class Measured:
    """Held-out records under one condition: labels as a model learns from them, and its answers, [row, ...] each."""

    task: TaskSpec
    labels: np.ndarray
    answers: np.ndarray

    @property
    def figures(self) -> Figures:
        """Every figure that can be said, by name; of a multilabel task, for each label and the mean over them."""
        return _MEASURES[self.task.kind](self) if len(self.labels) else {}


def _binary(measured: Measured) -> Figures:
    return _ranked(measured.labels, measured.answers[:, 0])


def _multiclass(measured: Measured) -> Figures:
    return {"accuracy": float(np.mean(measured.answers.argmax(axis=1) == measured.labels))}


def _multilabel(measured: Measured) -> Figures:
    each: dict[str, Figures] = {}
    for place, name in enumerate(measured.task.columns):
        known = measured.labels[:, place] >= 0
        if known.any():
            each[name] = _ranked(measured.labels[known, place], measured.answers[known, place])
    metrics = dict.fromkeys(metric for found in each.values() for metric in found)
    means = {  # a mean over other labels than all would be another figure
        metric: float(np.mean([found[metric] for found in each.values()]))
        for metric in metrics
        if sum(metric in found for found in each.values()) == len(measured.task.columns)
    }
    return means | {f"{metric}/{name}": value for name, found in each.items() for metric, value in found.items()}


def _regression(measured: Measured) -> Figures:
    low, high = measured.task.limits
    true, error = measured.labels, measured.answers[:, 0] - measured.labels
    half, spread = (high - low) / 2, float(np.var(true))
    found = {
        "mae": half * float(np.abs(error).mean()),
        "rmse": half * float(np.sqrt(np.mean(error**2))),
        "bias": half * float(error.mean()),
    }
    return found | ({"r2": 1 - float(np.mean(error**2)) / spread} if spread > 0 else {})


def _ranked(labels: np.ndarray, chances: np.ndarray) -> Figures:
    found = {"accuracy": float(np.mean((chances >= _EVEN) == labels))}
    if len(np.unique(labels)) == 2:  # noqa: PLR2004  (a curve needs two classes)
        found["auroc"] = float(roc_auc_score(labels, chances))
        found["average_precision"] = float(average_precision_score(labels, chances))
        found["f1"] = float(f1_score(labels, chances >= _EVEN))
    return found


_MEASURES: dict[str, Callable[[Measured], Figures]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
}


@dataclass(frozen=True)
class Bench:
    """The held-out records of all sites, ready to be scored again and again."""

    works: tuple[Work, ...]
    batches: tuple[Batch, ...]

    def score(self, weights: Arrays, keep: tuple[str, ...] | None = None) -> dict[str, Measured]:
        """Score every site's held-out records with released weights and the site's own personal blocks."""
        found = {}
        for work, batch in zip(self.works, self.batches, strict=True):
            model = work.model()
            load(model, weights)
            name = work.agreement.config.objective.task
            task, known = work.schema.tasks[name], is_labelled(batch.labels[name])
            said = answers(model, batch if keep is None else hide(batch, keep), task.kind, rows=work.rows_at_once())
            found[work.site.name] = Measured(task, batch.labels[name][known].numpy(), said[known.numpy()])
        return found

    def people(self) -> dict[str, int]:
        """How many held-out subjects have a known label, by site; however many records they have."""
        found = {}
        for work, batch in zip(self.works, self.batches, strict=True):
            known = is_labelled(batch.labels[work.agreement.config.objective.task])
            found[work.site.name] = len(set(batch.subjects[known].tolist()))
        return found

    def ranks(self, weights: Arrays) -> dict[str, Ranks]:
        """Rank every site's held-out records, each in its own site's gallery."""
        found = {}
        for work, batch in zip(self.works, self.batches, strict=True):
            model = work.model()
            load(model, weights)
            found[work.site.name] = ranks_of(
                model, batch, work.agreement.config.objective.parts, rows=work.rows_at_once()
            )
        return found

    def texts(self, weights: Arrays, keep: tuple[str, ...] | None = None) -> dict[str, Texts]:
        """Let the model write every site's texts, where captions tell any, from the modalities to keep (None: all)."""
        found = {}
        for work, batch in zip(self.works, self.batches, strict=True):
            if told(work.agreement.config.objective.parts):
                model = work.model()
                load(model, weights)
                found[work.site.name] = texts_of(model, batch, batch if keep is None else hide(batch, keep))
        return found


def open_bench(sites: tuple[Site, ...], run: str, released: Arrays) -> Bench:
    """Read every site's held-out records, scaled as the run scales them."""
    sums = {"sums": released["normalisation"]} if "normalisation" in released else {}
    asked = (Work(site, agreement_of(site, run), Task(run, 0, "measure", {}, sums), 1) for site in sites)
    works = tuple(with_own_statistics(work) for work in asked)
    return Bench(works, tuple(work.batch("test") for work in works))


def pooled(measured: Mapping[str, Measured]) -> Measured:
    """All sites' rows together."""
    held = [item for item in measured.values() if len(item.labels)] or list(measured.values())[:1]
    return Measured(
        held[0].task, np.concatenate([item.labels for item in held]), np.concatenate([item.answers for item in held])
    )


def exact_test(bench: Bench, weights: Arrays) -> ExactTest:
    """Measure the final model: pooled, by site, and under every modality condition."""
    by_site = bench.score(weights)
    ranks = bench.ranks(weights)
    texts, config = bench.texts(weights), bench.works[0].agreement.config
    found = {name: item.figures | ranks[name].figures for name, item in by_site.items()}
    found |= {name: found[name] | own.figures for name, own in texts.items()}
    written = all_texts(texts.values())
    overall = pooled(by_site).figures | together(ranks.values()).figures | written.figures
    accuracies = [figures["accuracy"] for figures in found.values() if "accuracy" in figures]
    conditions = {}
    for condition in conditions_of(read_modalities(config.objective.parts, bench.batches[0].values)):
        under = pooled(bench.score(weights, condition.keep)).figures
        under |= all_texts(bench.texts(weights, condition.keep).values()).figures
        conditions[condition.name] = ConditionTest(under.get("accuracy"), under.get("auroc"), under)
    people = bench.people()
    return ExactTest(
        num_subjects=sum(people.values()),
        pooled_accuracy=overall.get("accuracy"),
        site_mean_accuracy=float(np.mean(accuracies)) if accuracies else None,
        auroc=overall.get("auroc"),
        sites={
            name: SiteTest(people[name], figures.get("accuracy"), figures.get("auroc"), figures)
            for name, figures in found.items()
        },
        conditions=conditions,
        figures=overall,
        texts=written.some(_SHOWN_TEXTS) if config.data.kind == "synthetic" else {},
    )
