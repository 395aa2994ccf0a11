"""Intervals that carry the noise cover 95 +- 3 %, with noise on and off; intervals that ignore it do not.

The noise-ignoring twin is the negative control: if it passed too, these tests could not see a wrong sigma.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from common.fairness.groups import audit_figures
from common.fairness.result import AuditResult
from common.fairness.table import TableLayout, conditions_of, fill
from common.metrics.bins import ScoreBins
from common.metrics.histogram import METRICS, Histogram
from common.metrics.moments import NUM_MOMENTS, UNIT, moment_figures, moments_of

RUNS = 800
BINS = 10
COVERED = ("tpr", "fpr", "selection_rate", "accuracy", "balanced_accuracy", "auroc", "average_precision", "f1", "ppv")
SETTINGS = ((50, 2.0), (500, 0.0), (500, 4.0))  # positives, noise in each cell


def chances(shift: float) -> np.ndarray:
    """Chance of each score bin for logit scores that are normal around `shift`."""
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    below = [NormalDist(shift, 1.0).cdf(float(np.log(edge / (1 - edge)))) for edge in edges]
    return np.diff([0.0, *below, 1.0])


TRUTH = np.stack([chances(-0.6) * 0.6, chances(0.6) * 0.4])  # [label, bin], two in five have the condition


def coverage(metric: str, positives: int, noise_std: float, assumed_std: float) -> float:
    rng = np.random.default_rng(11)
    truth = METRICS[metric](Histogram(TRUTH * 1e9, 0.0, 5)).value
    assert truth is not None
    hits = said = 0
    for _ in range(RUNS):
        counts = rng.multinomial(round(positives / 0.4), TRUTH.ravel()).reshape(2, BINS)
        noised = counts + np.rint(rng.normal(0, noise_std, counts.shape))
        figure = METRICS[metric](Histogram(noised.astype(np.float64), assumed_std, 5))
        if figure.value is not None and figure.low is not None and figure.high is not None:
            said += 1
            hits += figure.low <= truth <= figure.high
    assert said > 0.95 * RUNS
    return hits / said


@pytest.mark.parametrize("metric", COVERED)
@pytest.mark.parametrize(("positives", "noise_std"), SETTINGS)
def test_intervals_that_carry_the_noise_cover_95_percent(metric: str, positives: int, noise_std: float) -> None:
    assert coverage(metric, positives, noise_std, noise_std) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("metric", COVERED)
def test_intervals_that_ignore_the_noise_do_not(metric: str) -> None:
    assert coverage(metric, 50, 4.0, 0.0) < 0.85


def test_intervals_that_believe_in_half_the_noise_do_not() -> None:
    assert coverage("tpr", 50, 4.0, 2.0) < 0.9


def rare_coverage(base_rate: float) -> float:
    """How often the interval read off ten bins holds the scores' own area: one in 14 has the condition."""
    rng, hits, apart = np.random.default_rng(13), 0, 1.0
    bins, truth = ScoreBins(BINS, base_rate), NormalDist().cdf(apart / 2**0.5)
    for _ in range(RUNS):
        odds = [-2.7 + 0.3 * (rng.normal(size=number) + apart * label) for label, number in enumerate((1860, 140))]
        counts = [np.bincount(bins.of(1 / (1 + np.exp(-one))), minlength=BINS) for one in odds]
        noised = np.array(counts, dtype=np.float64) + np.rint(rng.normal(0, 2.0, (2, BINS)))
        figure = METRICS["auroc"](Histogram(noised, 2.0, bins.edge_of(0.5), base_rate))
        hits += figure.low is not None and figure.high is not None and figure.low <= truth <= figure.high
    return hits / RUNS


def test_the_area_of_a_rare_outcome_is_covered_in_bins_around_its_base_rate_and_not_around_a_half() -> None:
    assert rare_coverage(0.07) == pytest.approx(0.95, abs=0.03)
    assert rare_coverage(0.5) < 0.5


LAYOUT = TableLayout(
    "disease",
    "binary",
    conditions_of(["audio", "labs", "note"], alone=False),
    (("sex", "female"), ("sex", "male"), ("age", "<50"), ("age", "50-60"), ("age", ">=60")),
    ("0", "1"),
    BINS,
)
AUDITED, AUDIT_NOISE = 1500, 3.0


def audited(rng: np.random.Generator, *, harm: float) -> AuditResult:
    """Audit a model that is fair but for `harm` points of TPR that the audio costs women."""
    label, sex, age = rng.integers(0, 2, AUDITED), rng.integers(0, 2, AUDITED), rng.integers(0, 3, AUDITED)
    found = rng.random(AUDITED) < np.where(label == 1, 0.8, 0.2)
    missed = (rng.random(AUDITED) < harm / 0.8) & (sex == 0) & (label == 1)
    spot = rng.random(AUDITED) / 2
    scores = {c.name: (spot + 0.5 * (found & ~(missed & ("audio" in c.keep))))[:, None] for c in LAYOUT.conditions}
    counts = fill(LAYOUT, scores, label, {"sex": sex, "age": age}, np.arange(AUDITED))
    noise = np.rint(rng.normal(0, AUDIT_NOISE, counts.size)).astype(np.int64)
    return audit_figures(LAYOUT, counts + noise, noise_std=AUDIT_NOISE, threshold=0.5, min_cell=11)


@pytest.mark.slow
def test_a_fair_model_raises_an_alarm_in_at_most_one_run_of_twenty() -> None:
    # Each audit looks at 32 gaps. The rate is 3 to 5 %; 400 runs know it to within a point (standard error).
    rng, runs = np.random.default_rng(3), 400
    results = [audited(rng, harm=0.0) for _ in range(runs)]
    assert sum(any(gap.claim for gap in result.gaps) for result in results) / runs <= 0.05 + 0.03
    # Negative control: reading every interval for itself, as if it were the only one, raises many.
    alone = sum(any(gap.size.low is not None and gap.size.low > 0 for gap in result.gaps) for result in results)
    assert alone / runs > 0.25


def test_a_planted_gap_is_claimed_and_gone_without_the_modality_that_makes_it() -> None:
    rng, runs = np.random.default_rng(4), 20
    results = [audited(rng, harm=0.3) for _ in range(runs)]
    claims = [{(g.attribute, g.condition, g.metric) for g in result.gaps if g.claim} for result in results]
    assert sum(("sex", "all", "equal_opportunity") in claim for claim in claims) >= 0.8 * runs
    assert sum(("sex", "without:audio", "equal_opportunity") in claim for claim in claims) <= 0.1 * runs


def error_coverage(metric: str, subjects: int, noise_std: float, assumed_std: float) -> float:
    rng = np.random.default_rng(12)

    def sums(number: int) -> np.ndarray:
        true = rng.beta(2, 4, number) * 2 - 1
        predicted = 0.5 * true - 0.1 + rng.normal(0, 0.25, number)
        return np.asarray(moments_of(predicted, true).sum(axis=0) / UNIT)

    truth = moment_figures(sums(2_000_000), 0.0, (0.0, 20.0))[metric].value
    assert truth is not None
    hits = said = 0
    for _ in range(RUNS):
        noised = sums(subjects) + rng.normal(0, noise_std, NUM_MOMENTS)
        figure = moment_figures(noised, assumed_std, (0.0, 20.0))[metric]
        if figure.value is not None and figure.low is not None and figure.high is not None:
            said += 1
            hits += figure.low <= truth <= figure.high
    assert said > 0.95 * RUNS
    return hits / said


@pytest.mark.parametrize("metric", ["mae", "rmse", "bias", "r2"])
@pytest.mark.parametrize(("subjects", "noise_std"), [(150, 0.0), (1000, 0.0), (1000, 4.0)])
def test_intervals_of_errors_cover_95_percent_or_more(metric: str, subjects: int, noise_std: float) -> None:
    covered = error_coverage(metric, subjects, noise_std, noise_std)
    assert covered > 0.92
    if metric in ("mae", "bias"):  # the others rest on bounds, and are wide
        assert covered == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("metric", ["mae", "rmse", "bias"])
def test_intervals_of_errors_that_ignore_the_noise_do_not(metric: str) -> None:
    assert error_coverage(metric, 1000, 40.0, 0.0) < 0.85
