from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.metrics.bins import ScoreBins
from common.metrics.confusion import confusion_figures
from common.metrics.figure import Figure
from common.metrics.histogram import Histogram, auroc, figures
from common.metrics.interval import Z95, combine, share

MIXED = Histogram(np.array([[30.0, 15, 10, 5], [5, 10, 15, 40]]), 0.0, 2)


def test_without_noise_the_interval_of_a_share_is_wilsons() -> None:
    figure = share(8, 2, inside_var=0, outside_var=0, z=Z95)
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


def test_the_figures_of_a_histogram_are_those_of_its_subjects() -> None:
    found = {name: figure.value for name, figure in figures(MIXED).items()}
    assert found["tpr"] == pytest.approx(55 / 70)
    assert found["fpr"] == pytest.approx(15 / 60)
    assert found["selection_rate"] == pytest.approx(70 / 130)
    assert found["ppv"] == pytest.approx(55 / 70)
    assert found["accuracy"] == pytest.approx((55 + 45) / 130)
    assert found["balanced_accuracy"] == pytest.approx((55 / 70 + 45 / 60) / 2)
    predicted = (np.array([35, 25, 25, 45]) * ScoreBins(4).middles()).sum() / 130
    assert found["calibration_gap"] == pytest.approx(predicted - 70 / 130)


def test_every_interval_holds_its_value_and_stays_in_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        noised = Histogram(rng.integers(0, 12, (2, 10)).astype(np.float64) + np.rint(rng.normal(0, 4, (2, 10))), 4.0, 5)
        for name, figure in figures(noised).items():
            if figure.value is None or figure.low is None or figure.high is None:
                assert figure.reason
                continue
            assert (-1.0 if name == "calibration_gap" else 0.0) <= figure.low <= figure.value <= figure.high <= 1.0


def test_noise_widens_every_interval() -> None:
    quiet, loud = figures(MIXED), figures(Histogram(MIXED.counts, 3.0, 2))
    for name, figure in quiet.items():
        other = loud[name]
        assert figure.value == other.value
        assert figure.high is not None
        assert figure.low is not None
        assert other.high is not None
        assert other.low is not None
        assert other.high - other.low > figure.high - figure.low


def test_an_empty_histogram_says_nothing() -> None:
    for figure in figures(Histogram(np.zeros((2, 10)), 1.0, 5)).values():
        assert figure.value is None
        assert figure.reason


def test_where_the_noise_drowns_the_cell_nothing_is_excluded() -> None:
    figure = share(3, 4, inside_var=400, outside_var=400, z=Z95)
    assert (figure.low, figure.high) == (0.0, 1.0)


def test_the_threshold_is_the_nearest_edge_between_two_bins() -> None:
    assert [ScoreBins(10).edge_of(threshold) for threshold in (0.5, 0.31, 0.01, 0.999)] == [5, 3, 1, 9]
    assert ScoreBins(10).score_at(5) == pytest.approx(0.5)


def test_a_difference_of_shares_has_newcombes_interval() -> None:
    # Newcombe 1998, table II: 56/70 - 48/80, method 10.
    one, other = share(56, 14, inside_var=0, outside_var=0, z=Z95), share(48, 32, inside_var=0, outside_var=0, z=Z95)
    figure = combine((1.0, -1.0), (one, other))
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_a_difference_from_nothing_says_why() -> None:
    assert combine((1.0, -1.0), (Figure(0.5, 0.4, 0.6), Figure(None, reason="too few"))) == Figure(
        None, reason="too few"
    )


def test_a_multiclass_table_gives_accuracy_and_mean_recall() -> None:
    found = confusion_figures(np.array([[8.0, 1, 1], [2, 16, 2], [0, 0, 10]]), 0.0)
    assert found["accuracy"].value == pytest.approx(34 / 40)
    assert found["balanced_accuracy"].value == pytest.approx((0.8 + 0.8 + 1.0) / 3)


@pytest.mark.parametrize("base_rate", [0.5, 0.07, 1e-6])
@pytest.mark.parametrize("number", [2, 10, 25])
def test_a_score_lies_in_the_bin_between_its_edges(number: int, base_rate: float) -> None:
    bins = ScoreBins(number, base_rate)
    scores = np.linspace(0.001, 0.999, 500)
    places = bins.of(scores)
    for score, place in zip(scores, places, strict=True):
        assert place == 0 or bins.score_at(int(place)) <= score + 1e-9
        assert place == number - 1 or score < bins.score_at(int(place) + 1) + 1e-9
    assert (np.diff(places) >= 0).all()
    np.testing.assert_array_equal(bins.of(bins.middles()), np.arange(number))
    np.testing.assert_array_equal(bins.of(np.array([0.0, 1.0])), [0, number - 1])


def test_a_confident_model_keeps_its_order_in_the_bins() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 4000)
    odds = 3.5 * (2 * labels - 1) * 0.6 + 3.5 * random.normal(size=4000)
    scores = 1 / (1 + np.exp(-odds))
    counts = np.stack([np.bincount(ScoreBins(10).of(scores[labels == label]), minlength=10) for label in (0, 1)])
    above = odds[labels == 1][:, None] > odds[labels == 0][None]
    value = figures(Histogram(counts.astype(float), 0.0, 5))["auroc"].value
    assert value == pytest.approx(float(above.mean()), abs=0.01)


@pytest.mark.parametrize(("base_rate", "spread"), [(0.5, 0.3), (0.5, 2.0), (0.07, 0.3), (0.07, 2.0)])
def test_an_area_is_read_off_ten_bins_around_the_base_rate(base_rate: float, spread: float) -> None:
    """Of a timid model and of a sure one, of a common outcome and of a rare one."""
    random = np.random.default_rng(1)
    labels = random.random(40_000) < base_rate
    odds = np.log(base_rate / (1 - base_rate)) + spread * (random.normal(size=len(labels)) + 0.9 * labels)
    scores = 1 / (1 + np.exp(-odds))
    exact = roc_auc_score(labels, scores)
    found = auroc(_counted(scores, labels, base_rate)).value
    assert found == pytest.approx(exact, abs=0.02)
    if (base_rate, spread) == (0.07, 0.3):  # negative control: around a half, a third of the order is lost
        lost = auroc(_counted(scores, labels, 0.5)).value
        assert lost is None or abs(lost - exact) > 0.05


def _counted(scores: np.ndarray, labels: np.ndarray, base_rate: float) -> Histogram:
    bins = ScoreBins(10, base_rate)
    counts = [np.bincount(bins.of(scores[labels == label]), minlength=10) for label in (0, 1)]
    return Histogram(np.array(counts, dtype=np.float64), 0.0, bins.edge_of(0.5), base_rate)


def test_scores_around_the_base_rate_are_calibrated_around_it() -> None:
    scores, labels = np.full(1000, 0.07), np.arange(1000) < 70
    found = figures(_counted(scores, labels, 0.07))["calibration_gap"].value
    assert found == pytest.approx(0.0, abs=0.01)


def test_an_order_that_the_bins_lose_is_not_called_a_half() -> None:
    """A rare outcome: every score lies in the outermost bin, where the model may well rank rightly."""
    lost = np.zeros((2, 10))
    lost[:, 0] = 2956, 241
    assert auroc(Histogram(lost, noise_std=0.0, edge=5)).value is None
    spread = np.zeros((2, 10))
    spread[0, :3], spread[1, 1:4] = (1500, 1000, 456), (60, 100, 81)
    assert auroc(Histogram(spread, noise_std=0.0, edge=5)).value == pytest.approx(0.8875, abs=1e-4)
