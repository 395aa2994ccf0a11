"""Samples in time brought to one rate. A record's samples depend on that record alone, bit for bit.

scipy's polyphase filter does it: it computes in one thread and in one order, wherever a record is decoded and beside
whichever others.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

_FILTER_HALF = 10  # samples of the slower rate on either side, of resample_poly's filter
_FINEST = 100_000  # larger terms of a ratio cost memory, and say nothing that a clock would keep
_SECONDS_MORE = 1.0  # read behind the end, so that filters do not ring into what is kept
_ORDER = 4
LOWEST_RATE, HIGHEST_RATE = 1e-3, 1e6  # hertz, of a file


def samples_needed(seconds: float, file_rate: float, rate: float) -> int:
    """How many samples of a file are worth reading, however many it claims to hold."""
    return math.ceil((seconds + _SECONDS_MORE + 2 * _FILTER_HALF / min(file_rate, rate)) * file_rate)


def resampled(samples: np.ndarray, file_rate: float, rate: float) -> np.ndarray:
    """Bring samples [sample] from one rate to another: float64 [sample]."""
    from scipy.signal import resample_poly  # noqa: PLC0415  (slow to import)

    if file_rate == rate or not len(samples):
        return samples.astype(np.float64)
    ratio = Fraction(rate) / Fraction(file_rate)
    if max(ratio.numerator, ratio.denominator) > _FINEST:
        small = min(ratio, 1 / ratio).limit_denominator(_FINEST)
        ratio = small if ratio < 1 else 1 / small
    # Continued by a straight line at both ends: a temperature of 37 would ring, were there zeros around it.
    beyond = "line" if len(samples) > 1 else "mean"
    found = resample_poly(samples.astype(np.float64), ratio.numerator, ratio.denominator, padtype=beyond)
    return np.asarray(found)[: max(1, round(len(samples) * ratio))]


def bridged(samples: np.ndarray) -> np.ndarray:
    """Fill gaps (NaN) of samples [sample] by straight lines between their neighbours; ends go on as they were."""
    gaps = np.isnan(samples)
    if not gaps.any() or gaps.all():
        return samples
    places = np.arange(len(samples))
    return np.where(gaps, np.interp(places, places[~gaps], samples[~gaps]), samples)


def filtered(samples: np.ndarray, rate: float, band: tuple[float, float]) -> np.ndarray:
    """Let through the frequencies of a band, in hertz, without shifting anything in time: [sample].

    A Butterworth filter of fourth order, forth and back; 0 as the lowest lets all slow ones through, and half the rate
    as the highest all fast ones.
    """
    from scipy.signal import butter, sosfiltfilt  # noqa: PLC0415  (slow to import)

    low, high = band[0] > 0, band[1] < rate / 2
    if not (low or high) or len(samples) == 0:
        return samples
    edges = band if low and high else band[0] if low else band[1]
    kind = "bandpass" if low and high else "highpass" if low else "lowpass"
    sections = butter(_ORDER, edges, btype=kind, output="sos", fs=rate)
    padding = min(3 * (2 * len(sections) + 1), len(samples) - 1)
    return np.asarray(sosfiltfilt(sections, samples, padlen=padding))
