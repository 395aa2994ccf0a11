"""The lattice of shared training noise: how far one subject can move a rounded sum, and that no sum wraps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.shared_noise import to_lattice
from common.privacy.lattice import MOST_CELLS, Lattice, fit_lattice, share_std
from common.privacy.plan import CLIP_NORMS
from common.secagg.encoding import decode_counts
from common.secagg.roster import guaranteed_honest, threshold_of, too_many_colluders

FINE = 8  # a brute force looks at every multiple of 1/8 of a step
WIDE = 10**9


def distance(one: np.ndarray, other: np.ndarray, *, largest: int) -> float:
    """How far two sums, in steps, are from each other once they are rounded and cut."""
    ends = [to_lattice(vector, step=1.0, largest=largest) for vector in (one, other)]
    return float(np.linalg.norm(ends[0] - ends[1]))


def farthest(coordinates: int, clip_steps: int) -> float:
    """Brute force: the largest distance between two rounded sums that are at most clip_steps apart."""
    offsets = np.arange(FINE) / FINE
    moves = np.arange(-FINE * clip_steps, FINE * clip_steps + 1) / FINE
    worst = 0.0
    for move in itertools.product(moves, repeat=coordinates):
        if math.hypot(*move) > clip_steps:
            continue
        # Coordinates are rounded apart from each other: each has its own worst offset.
        apart = [np.abs(np.rint(offsets + part) - np.rint(offsets)).max() for part in move]
        worst = max(worst, math.hypot(*apart))
    return worst


@pytest.mark.parametrize(("coordinates", "clip_steps"), [(1, 1), (1, 5), (2, 1), (2, 3), (2, 4), (3, 1), (3, 2)])
def test_the_sensitivity_is_what_brute_force_finds_and_no_less(coordinates: int, clip_steps: int) -> None:
    found, claimed = farthest(coordinates, clip_steps), Lattice(1, coordinates, clip_steps).l2_sensitivity
    assert found <= clip_steps + math.sqrt(coordinates) <= claimed < clip_steps + math.sqrt(coordinates) + 1
    assert found > clip_steps, "a claim that forgets the rounding is seen to be false"


@given(
    seed=st.integers(0, 2**32 - 1),
    coordinates=st.integers(1, 400),
    clip_steps=st.integers(1, 2**20),
    largest=st.integers(1, 2**22),
)
def test_no_subject_moves_a_rounded_sum_by_more_than_the_sensitivity(
    seed: int, coordinates: int, clip_steps: int, largest: int
) -> None:
    random = np.random.default_rng(seed)
    # Half of all coordinates lie just beside a half, where rounding can do most.
    place = np.floor(random.normal(0, 3 * clip_steps, coordinates))
    place += np.where(random.random(coordinates) < 0.5, 0.5 - 1e-9, random.random(coordinates))
    move = random.normal(size=coordinates) * (random.random(coordinates) < random.random())
    move *= clip_steps / max(float(np.linalg.norm(move)), 1e-9)
    allowed = Lattice(1, coordinates, clip_steps).l2_sensitivity
    assert distance(place, place + move, largest=WIDE) <= allowed
    assert distance(place, place + move, largest=largest) <= distance(place, place + move, largest=WIDE)


plans = st.fixed_dictionaries(
    {
        "sites": st.integers(1, 128),
        "coordinates": st.integers(1, 1000),
        "divisor": st.floats(1, 1000),
        "noise_multiplier": st.floats(0.05, 300),
        "rounds": st.integers(1, 1000),
    }
)


@given(plans)
def test_the_lattice_is_the_finest_on_which_no_sum_wraps(numbers: dict[str, float]) -> None:
    lattice = fit_lattice(**numbers)  # type: ignore[arg-type]
    rest = {name: numbers[name] for name in ("divisor", "noise_multiplier", "rounds")}
    finer = Lattice(lattice.sites, lattice.coordinates, 2 * lattice.clip_steps)
    assert lattice.largest_sum(**rest) <= 2**31 - 1 < finer.largest_sum(**rest)  # type: ignore[arg-type]
    assert lattice.l2_sensitivity <= lattice.clip_steps * (1 + 1 / 64)


@pytest.mark.parametrize("sites", [1, 2, 3, 4, 10, 100, 128])
def test_the_largest_sum_leaves_room_for_every_sites_noise(sites: int) -> None:
    numbers = {"divisor": 160.0, "noise_multiplier": 30.0, "rounds": 40}
    lattice = fit_lattice(sites=sites, coordinates=3000, **numbers)  # type: ignore[arg-type]
    assert _wrap_chance(lattice) < 2.0**-40
    assert _wrap_chance(Lattice(sites, 3000, 4 * lattice.clip_steps)) > 2.0**-40, "a finer one would not be safe"


def _wrap_chance(lattice: Lattice) -> float:
    """Bound the chance that any coordinate of 40 sums wraps, where all sites send as much as they may."""
    std = math.sqrt(lattice.sites) * share_std(lattice.l2_sensitivity, 30.0, guaranteed_honest(lattice.sites))
    room = max(0, 2**31 - 1 - lattice.sites * lattice.cut(160.0))
    return lattice.coordinates * 40 * 2 * math.exp(-0.5 * (room / std) ** 2)


@given(st.lists(st.integers(-(2**33), 2**33), min_size=3, max_size=6))
def test_a_sum_that_fits_is_read_right_whatever_its_parts_are(parts: list[int]) -> None:
    total = sum(parts)
    parts.append(total % 2**31 - 2**30 - total)  # any sum within 2^30, from parts that are far outside
    added = np.zeros(1, dtype=np.uint32)
    for part in parts:
        added += np.array([part], dtype=np.int64).astype(np.uint32)
    assert decode_counts(added).tolist() == [sum(parts)]


def test_every_sum_has_a_fifth_of_the_roster_honest() -> None:
    assert all(5 * guaranteed_honest(sites) >= sites for sites in range(1, 129))


def _can_be_opened(sites: int, colluders: int) -> bool:
    """Brute force: can a server with colluders get two different views of one sum signed and revealed by enough sites?

    Of the honest sites each signs one view. Which sites finish training is the server's to say, but for two thirds.
    """
    for left in range(threshold_of(sites), sites + 1):
        honest, needed = max(0, left - colluders), threshold_of(left)
        if any(min(colluders + one, colluders + honest - one) >= needed for one in range(honest + 1)):
            return True
    return False


@pytest.mark.parametrize("sites", [*range(3, 41), 100])
def test_fewer_colluders_than_are_too_many_open_no_sum_and_leave_the_honest_their_noise(sites: int) -> None:
    limit = too_many_colluders(sites)
    assert not any(_can_be_opened(sites, colluders) for colluders in range(limit))
    assert _can_be_opened(sites, limit)
    assert threshold_of(sites) - (limit - 1) >= guaranteed_honest(sites)


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    numbers = {"sites": 4, "divisor": 160.0, "noise_multiplier": 20.0, "rounds": 40}
    with pytest.raises(ValueError, match=r"32 bits are too few for the sum of 4 sites' 30,000 .* 8192 steps"):
        fit_lattice(**{**numbers, "noise_multiplier": 1e4}, coordinates=30_000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fewer than 50,000,000 coordinates times sites"):
        fit_lattice(**numbers, coordinates=MOST_CELLS // 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [0.0, 5e-324, 1e-310, -1.0, math.inf, math.nan])
def test_a_step_by_which_nothing_can_be_divided_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match="step of the lattice"):
        to_lattice(np.zeros(2), step=step, largest=5)


@given(clip_norm=st.floats(*CLIP_NORMS), exponent=st.integers(0, 32))
def test_a_step_times_the_steps_of_a_clip_norm_is_the_clip_norm_to_the_bit(clip_norm: float, exponent: int) -> None:
    assert clip_norm / 2**exponent * 2**exponent == clip_norm
