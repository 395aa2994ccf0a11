"""Which figures a kind of task is judged by, what they are called, and how they are written."""

from __future__ import annotations

from common.metrics.figure import Figure
from common.reports.numbers import decimal, decimal_figure, percent, percent_figure
from common.reports.record import ConditionTest, ExactTest, SiteTest

TITLES = {
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1": "F1",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R\N{SUPERSCRIPT TWO}",
    "bleu": "BLEU",
    "meteor_exact": "METEOR on exact words",
    "wer": "word error rate",
    "corpus_bleu": "BLEU of the corpus",
    "corpus_wer": "word error rate of the corpus",
}
_HEADLINES = {
    "multiclass": ("accuracy",),
    "multilabel": ("accuracy", "auroc", "average_precision", "f1"),
    "regression": ("mae", "rmse", "r2"),
}
_SHARES = frozenset({"accuracy", "balanced_accuracy", "tpr", "fpr", "selection_rate", "ppv"})

GAP_NAMES = {
    "equal_opportunity": "share found, of those with it (equal opportunity)",
    "equalized_odds": "share found or falsely alarmed (equalized odds)",
    "equalized_odds/tpr": "share found, of those with it (equalized odds)",
    "equalized_odds/fpr": "share falsely alarmed, of those without it (equalized odds)",
    "demographic_parity": "share called positive (demographic parity)",
    "auroc": "ranking (AUROC)",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "mean_absolute_error": "mean absolute error",
    "mean_error": "mean error (predicted minus true)",
}
NUMBERS = frozenset({"auroc", "mean_absolute_error", "mean_error"})  # gaps that are no differences of shares


def headline(kind: str) -> tuple[str, ...]:
    """The metrics that a kind of task is judged by first."""
    return _HEADLINES.get(kind, ("accuracy", "auroc"))


def is_share(metric: str) -> bool:
    """Whether a metric is written in per cent."""
    return metric.partition("/")[0] in _SHARES


def figure_text(figure: Figure | None, metric: str) -> str:
    """A released figure with its interval."""
    return percent_figure(figure) if is_share(metric) else decimal_figure(figure)


def measured_text(test: ExactTest | SiteTest | ConditionTest, metric: str) -> str:
    """A figure that the simulator measured."""
    value = measured(test, metric)
    return percent(value) if is_share(metric) else decimal(value)


def measured(test: ExactTest | SiteTest | ConditionTest, metric: str) -> float | None:
    """One figure that the simulator measured; runs of before had accuracy and AUROC only."""
    if metric in test.figures:
        return test.figures[metric]
    name = "pooled_accuracy" if metric == "accuracy" and isinstance(test, ExactTest) else metric
    value: float | None = getattr(test, name, None)
    return value
