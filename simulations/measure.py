"""What only a simulator can know: the model's exact quality on records that in a real federation nobody holds together.

Published figures are exact, so a researcher needs exact ones to compare. They leave no institution: the reports print
them apart from what the protocol released.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from client.contribute import Work
from client.enrolment import agreement_of
from client.own_statistics import with_own_statistics
from client.site import Site
from common.blocks import load
from common.data.batch import Batch, hide
from common.fairness.table import conditions_of
from common.messages import Task
from common.models.loss import scores
from common.reports.record import ConditionTest, ExactTest, SiteTest
from server.state import Arrays

_EVEN = 0.5


@dataclass(frozen=True)
class Measured:
    """One site's held-out records under one condition: labels [row] and probabilities [row, class or 1]."""

    labels: np.ndarray
    chances: np.ndarray

    @property
    def accuracy(self) -> float | None:
        """Share of rows whose most probable class is the label."""
        if not len(self.labels):
            return None
        chosen = self.chances[:, 0] >= _EVEN if self.chances.shape[1] == 1 else self.chances.argmax(axis=1)
        return float(np.mean(chosen == self.labels))

    @property
    def auroc(self) -> float | None:
        """Area under the ROC curve; None where only one class is there, or for more than two classes."""
        if self.chances.shape[1] != 1 or len(np.unique(self.labels)) < 2:  # noqa: PLR2004  (a curve needs two classes)
            return None
        return float(roc_auc_score(self.labels, self.chances[:, 0]))


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
            model.eval()
            with torch.no_grad():
                outputs = model(batch if keep is None else hide(batch, keep))
            labels = batch.labels[work.agreement.config.objective.task].numpy()
            known = labels >= 0
            found[work.site.name] = Measured(labels[known], scores(outputs).numpy()[known])
        return found


def open_bench(sites: tuple[Site, ...], run: str, released: Arrays) -> Bench:
    """Read every site's held-out records, scaled as the run scales them."""
    sums = {"sums": released["normalisation"]} if "normalisation" in released else {}
    asked = (Work(site, agreement_of(site, run), Task(run, 0, "measure", {}, sums), 1) for site in sites)
    works = tuple(with_own_statistics(work) for work in asked)
    return Bench(works, tuple(work.batch("test") for work in works))


def pooled(measured: Mapping[str, Measured]) -> Measured:
    """All sites' rows together."""
    return Measured(
        np.concatenate([item.labels for item in measured.values()]),
        np.concatenate([item.chances for item in measured.values()]),
    )


def exact_test(bench: Bench, weights: Arrays) -> ExactTest:
    """Measure the final model: pooled, by site, and under every modality condition."""
    by_site = bench.score(weights)
    together = pooled(by_site)
    accuracies = [item.accuracy for item in by_site.values() if item.accuracy is not None]
    conditions = {}
    for condition in conditions_of(tuple(bench.batches[0].values)):
        under = pooled(bench.score(weights, condition.keep))
        conditions[condition.name] = ConditionTest(under.accuracy, under.auroc)
    return ExactTest(
        num_subjects=sum(len(set(batch.subjects.tolist())) for batch in bench.batches),
        pooled_accuracy=together.accuracy,
        site_mean_accuracy=float(np.mean(accuracies)) if accuracies else None,
        auroc=together.auroc,
        sites={name: SiteTest(len(item.labels), item.accuracy, item.auroc) for name, item in by_site.items()},
        conditions=conditions,
    )
