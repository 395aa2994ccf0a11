"""How well texts were written: three scores a record, and their sums over subjects, which may carry privacy noise.

A score of a single text lies within [0, 1], so that what a subject adds to a sum is bounded. BLEU of a whole corpus is
a ratio of counts that have no such bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.metrics.figure import Figure
from common.metrics.interval import Z95, share

SCORES = ("bleu", "meteor_exact", "wer")
NUM_SUMS = 1 + len(SCORES)
TEXT_UNIT = 512
"""What one subject counts among those with a text; half of what it counts elsewhere, see TEXT_REACH."""
# One sum tells a mean score, where an accuracy needs many cells: at half the weight it is still the more certain one,
# and makes the whole table's noise 1.2 times as large instead of 1.7.
TEXT_REACH = TEXT_UNIT * math.sqrt(1 + len(SCORES) / 4) + math.sqrt(len(SCORES)) / 2
"""The most that one subject moves the sums of one text, in L2 norm: that it is there, each score measured from 1/2, and
half a step of rounding in each."""
_LONGEST = 4  # words that BLEU looks at together


def score_text(written: str, true: str) -> tuple[float, float, float]:
    """Give BLEU, METEOR on exact words, and the word error rate, each within [0, 1], word by word.

    BLEU is smoothed (one is added to the counts of two words and more), since a single text often has no four words in
    common with the true one. METEOR matches words that are spelt alike, and knows neither stems nor synonyms. The word
    error rate is cut at 1.

    Raises:
        ValueError: the true text has no word.
    Source: Papineni et al. 2002; Lin and Och 2004 (smoothing); Banerjee and Lavie 2005, with their parameters.
    """
    from torchmetrics.functional.text import word_error_rate  # noqa: PLC0415  (seconds: only where texts are scored)

    said, meant = written.split(), true.split()
    if not meant:
        raise ValueError("a text without a word cannot be compared with")
    wrong = float(word_error_rate([written], [true]))
    return _bleu(said, meant), _meteor(said, meant), min(wrong, 1.0)


def score_texts(written: Sequence[str], true: Sequence[str]) -> NDArray[np.float64]:
    """Score a text a row: [row, score]; NaN where the true one has no word."""
    pairs = zip(written, true, strict=True)
    each = [score_text(ours, own) if own.split() else (math.nan,) * len(SCORES) for ours, own in pairs]
    return np.array(each, dtype=np.float64).reshape(-1, len(SCORES))


def text_sums(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """What subjects add to the sums: int64 [subject, sum], of mean scores [subject, score] within [0, 1].

    Guarantees:
        bounded: a row's L2 norm is at most TEXT_REACH.
    """
    middle = np.clip(scores, 0.0, 1.0) - 1 / 2
    return np.asarray(np.rint(TEXT_UNIT * np.column_stack([np.ones(len(middle)), middle])), dtype=np.int64)


def text_figures(sums: NDArray[np.float64], noise_std: float, z: float = Z95) -> dict[str, Figure]:
    """Give the mean over subjects of each score, with its interval.

    A score within [0, 1] varies at most as an event of the same mean does, so that the interval of a share holds for
    its mean, and is wide rather than narrow. So is its part for the noise. Sums n of subjects and c of scores, with
    noise of variance v each, give n/2 + c and n/2 - c. What `share` looks at, their mixture by a share p, then has
    variance v (1 + (1/2 - p)^2): at most what independent noise of 2 v in both gives it.

    Args:
        sums: [sum], in subjects.
        noise_std: standard deviation of the noise in every sum, in subjects.
        z: normal quantile of the wanted confidence.
    """
    half, var = float(sums[0]) / 2, 2 * noise_std**2
    return {
        name: share(half + float(centred), half - float(centred), inside_var=var, outside_var=var, z=z)
        for name, centred in zip(SCORES, sums[1:], strict=True)
    }


def _bleu(said: Sequence[str], meant: Sequence[str]) -> float:
    logs = []
    for length in range(1, _LONGEST + 1):
        ours, theirs = _runs(said, length), _runs(meant, length)
        right, total, extra = (ours & theirs).total(), ours.total(), int(length > 1)
        if not right and length == 1:
            return 0.0
        logs.append(math.log((right + extra) / (total + extra)))
    brevity = min(0.0, 1 - len(meant) / len(said))
    return math.exp(brevity + sum(logs) / _LONGEST)


def _runs(words: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + length]) for start in range(len(words) - length + 1))


def _meteor(said: Sequence[str], meant: Sequence[str]) -> float:
    matches, chunks = _aligned(said, meant)
    if not matches:
        return 0.0
    precision, recall = matches / len(said), matches / len(meant)
    mean = 10 * precision * recall / (recall + 9 * precision)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


def _aligned(said: Sequence[str], meant: Sequence[str]) -> tuple[int, int]:
    """Pair as many equal words as there are: how many, and in how many runs.

    From the left, the longest run first: near the fewest runs, which METEOR asks for since 2011; in 2005 it asked for
    the fewest crossings.
    """
    free: dict[str, set[int]] = {}
    for place, word in enumerate(meant):
        free.setdefault(word, set()).add(place)
    matches = chunks = start = 0
    while start < len(said):
        runs = {place: _run(said, start, meant, place, free) for place in free.get(said[start], ())}
        if runs:
            place = min(runs, key=lambda one: (-runs[one], one))
            for step in range(runs[place]):
                free[meant[place + step]].discard(place + step)
            matches, chunks = matches + runs[place], chunks + 1
        start += max(runs.values(), default=1)
    return matches, chunks


def _run(said: Sequence[str], start: int, meant: Sequence[str], place: int, free: dict[str, set[int]]) -> int:
    """How many words from here on are equal and not paired yet."""
    length = 0
    for one, other in zip(said[start:], meant[place:], strict=False):
        if one != other or place + length not in free[other]:
            break
        length += 1
    return length
