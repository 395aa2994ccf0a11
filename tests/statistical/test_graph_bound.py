"""Monte Carlo of the graph in which every honest site chooses by its own coins: no event is likelier than its bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from common.secagg.graph import Shape, bound_of

TRIALS = 2000
COLLUDERS, SILENT = 3, 2
THIN, THICK = Shape(15, 4, 3), Shape(15, 8, 6)


@dataclass(frozen=True)
class Seen:
    """How often each event was seen, as a share of the trials."""

    secrets: float
    split: float
    silence: float


def watch(shape: Shape, colluders: int, silent: int, rng: np.random.Generator) -> Seen:
    """Draw graphs and look at every set of honest sites of each: colluders come first, all sets are bit masks."""
    honest = range(colluders, shape.num_sites)
    sets = np.arange(1, 2 ** len(honest)) << colluders
    sets = sets[np.bitwise_count(sets) <= len(honest) // 2]
    gang, fallen = (1 << colluders) - 1, (1 << shape.num_sites) - (1 << (shape.num_sites - silent))
    counts = np.zeros(3)
    for _ in range(TRIALS):
        others = np.array([[o for o in range(shape.num_sites) if o != site] for site in range(shape.num_sites)])
        chosen = np.bitwise_or.reduce(1 << rng.permuted(others, axis=1)[:, : shape.degree], axis=1)
        counts[0] += any(int(chosen[site] & gang).bit_count() >= 2 * shape.threshold - shape.degree for site in honest)
        cut_off = np.ones(sets.size, dtype=bool)
        for site in honest:
            within = np.bitwise_count(chosen[site] & (sets | gang)) >= shape.threshold
            cut_off &= within | ((sets >> site) & 1 == 0)
        counts[1] += cut_off.any()
        counts[2] += any(int(choice & fallen).bit_count() > shape.degree - shape.threshold for choice in chosen)
    return Seen(*(counts / TRIALS))


@pytest.mark.parametrize("shape", [THIN, THICK])
def test_no_event_is_seen_more_often_than_its_bound_says(shape: Shape) -> None:
    seen = watch(shape, COLLUDERS, SILENT, np.random.default_rng(11))
    bound = bound_of(shape, COLLUDERS, SILENT)
    for frequency, figure in (
        (seen.secrets, bound.secrets),
        (seen.split, bound.split),
        (seen.silence, bound.silence),
    ):
        limit = min(1.0, 2.0**figure)
        # Five standard errors: this fails by chance once in millions.
        assert frequency <= limit + 5 * np.sqrt(limit * (1 - limit) / TRIALS)


def test_a_graph_that_is_too_thin_is_seen_to_fail() -> None:
    # The control: were the draws or the events wrong, the test above could not fail either.
    seen = watch(THIN, COLLUDERS, SILENT, np.random.default_rng(12))
    assert seen.secrets > 0.5
    assert seen.split > 0.02
    assert seen.silence > 0.2


def test_the_bound_on_one_sites_choices_is_not_far_from_what_is_seen() -> None:
    # A union over few and rare events is nearly exact; a bound that is loose by powers of two would hide a mistake.
    shape = Shape(15, 7, 6)
    seen, bound = watch(shape, 3, 3, np.random.default_rng(13)), bound_of(shape, 3, 3)
    assert seen.silence == pytest.approx(1 - (1 - 2.0**bound.silence / 15) ** 15, rel=0.25)
