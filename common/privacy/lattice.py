"""Noise on a lattice: what each site adds so that all add up to what was planned, and the grid that training uses.

Tables are integers as they are. Training whose noise is shared out (privacy=distributed) rounds its sums to a public
grid first; `Lattice` says how fine that grid is, what rounding does to the sensitivity, and why no sum can wrap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

LATTICE_VARIANCE = 2.0
SMALLEST_SHARE_VARIANCE = 4.0
MOST_CELLS = 50_000_000
"""Cells times sites of one release, up to which the distance that share_std bounds is within LATTICE_SLACK."""

_RING_BITS = 32
_LARGEST_SUM = 2 ** (_RING_BITS - 1) - 1  # of signed integers modulo 2^32
_SITES_PER_HONEST = 5  # roster.guaranteed_honest is never less than a fifth of the roster
_LOG_WRAP_CHANCE = -40 * math.log(2)
_LEAST_FINENESS = 64


@dataclass(frozen=True)
class Lattice:
    """The grid of integers on which training sums are rounded, noised and added up.

    Attributes:
        sites: the roster's sites; so many vectors may be added up.
        coordinates: how many integers leave a site in a round, at most.
        clip_steps: steps of the grid in one clip norm: a step is clip_norm / clip_steps.
    """

    sites: int
    coordinates: int
    clip_steps: int

    def __post_init__(self) -> None:
        """Refuse a grid whose noise would not cost what is charged for it.

        Raises:
            ValueError: a field is no integer above 0, or there are too many cells.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ValueError(f"lattice.{field.name} must be an integer >= 1, got {value!r}")
        if self.coordinates * self.sites >= MOST_CELLS:
            raise ValueError(
                f"distributed noise is accounted for fewer than {MOST_CELLS:,} coordinates times sites,"
                f" got {self.coordinates:,} times {self.sites}"
            )

    @property
    def l2_sensitivity(self) -> int:
        """Bound how far one subject moves a site's rounded sum, in steps: clip_steps + sqrt(coordinates), rounded up.

        With a subject and without, the sums x and x' are at most one clip norm, that is clip_steps, apart. Rounding
        moves each coordinate by at most 1/2, so two by at most 1 against each other: round(x) - round(x') is
        x - x' plus a vector of entries in [-1, 1], whose norm is at most sqrt(coordinates). Cutting at a public bound,
        before or after, brings no two points farther apart. (The gradients themselves are computed in floating point:
        what clipped_sum says about that holds here too.)
        """
        return self.clip_steps + math.isqrt(self.coordinates - 1) + 1

    def cut(self, divisor: float) -> int:
        """Give the largest magnitude of a coordinate of one site's sum, in steps: `divisor` clip norms."""
        return math.floor(divisor * self.clip_steps)

    def largest_sum(self, *, divisor: float, noise_multiplier: float, rounds: int) -> float:
        """Bound every coordinate of every sum of a run, but for a chance below 2^-40.

        A discrete Gaussian is subgaussian with its own parameter (Canonne, Kamath, Steinke 2020), and so is a sum of
        independent ones: beyond r times its parameter it lies with a chance of at most 2 exp(-r^2 / 2).
        """
        planned = math.hypot(self.l2_sensitivity * noise_multiplier, math.sqrt(LATTICE_VARIANCE))
        std = max(math.sqrt(_SITES_PER_HONEST) * planned, math.sqrt(self.sites * SMALLEST_SHARE_VARIANCE))
        reach = math.sqrt(2 * (math.log(2 * self.coordinates * rounds) - _LOG_WRAP_CHANCE))
        return self.sites * divisor * self.clip_steps + reach * std


def fit_lattice(*, sites: int, coordinates: int, divisor: float, noise_multiplier: float, rounds: int) -> Lattice:
    """Choose the finest grid on which no sum of a run wraps.

    Guarantees:
        no wrap: but for a chance below 2^-40 a run, every summed coordinate is within the 32 bits of the secure sum.
        no loss: rounding raises the sensitivity, and the noise with it, by at most 1/64.

    Raises:
        ValueError: 32 bits do not suffice for both, or there are too many coordinates.
    """
    for exponent in range(_RING_BITS, -1, -1):
        lattice = Lattice(sites, coordinates, 2**exponent)
        largest = lattice.largest_sum(divisor=divisor, noise_multiplier=noise_multiplier, rounds=rounds)
        if largest <= _LARGEST_SUM:
            break
    if largest > _LARGEST_SUM or _LEAST_FINENESS * (lattice.l2_sensitivity - lattice.clip_steps) > lattice.clip_steps:
        raise ValueError(
            f"32 bits are too few for the sum of {sites} sites' {coordinates:,} coordinates, each up to {divisor:g}"
            f" clip norms, with noise multiplier {noise_multiplier:g}: only {lattice.clip_steps} steps a clip norm fit"
        )
    return lattice


def share_std(sensitivity: float, noise_multiplier: float, honest: int) -> float:
    """Give the parameter of each site's discrete Gaussian share, so that `honest` of them carry all of the noise.

    Guarantees:
        accounted: the sum of `honest` shares (and of any more) on an integer table of that L2 sensitivity costs no more
            than one continuous Gaussian of std `noise_multiplier * sensitivity`, up to a factor exp(+-kappa) on
            every probability with kappa <= 6e-9 while cells times sites stay below 5e7. Accounting adds 1e-7.

    Two steps lead from the sum to the continuous Gaussian.
    1. A sum of h discrete Gaussians is not a discrete Gaussian. With share variance v >= 1/4 its probabilities are
       within exp(+-tau) of the discrete Gaussian of variance h v, tau = 10 sum_{k=1}^{h-1} exp(-2 pi^2 v k / (k+1))
       (Kairouz, Liu, Steinke 2021, arXiv:2102.06387, on sums of discrete Gaussians). k/(k+1) >= 1/2 and v >= 4 make
       tau <= 10 h exp(-4 pi^2) < 8e-17 h a cell.
    2. A discrete Gaussian has the Renyi divergences of the continuous one (Canonne, Kamath, Steinke 2020), but not
       exactly its (epsilon, delta) curve. So 2 is added to the variance: a continuous Gaussian of variance
       V = (noise_multiplier * sensitivity)^2, rounded at random by a discrete Gaussian of variance 2 about it, is
       x + a discrete Gaussian of variance V + 2 up to exp(+-2e), e = 2 exp(-4 pi^2) + ... < 2e-17, a cell
       (Peikert 2010, theorem 3.1). Rounding is post-processing: the continuous accounting holds.

    Raises:
        ValueError: an argument is not above 0.
    """
    if not (0 < sensitivity < math.inf and 0 < noise_multiplier < math.inf and honest >= 1):
        raise ValueError(
            "sensitivity and noise_multiplier must be > 0 and honest >= 1,"
            f" got {sensitivity}, {noise_multiplier} and {honest}"
        )
    variance = (sensitivity * noise_multiplier) ** 2 + LATTICE_VARIANCE
    return math.sqrt(max(variance / honest, SMALLEST_SHARE_VARIANCE))
