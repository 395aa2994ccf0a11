"""What is charged: noisy events, named by the exact parameters that accounting and ledger read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mechanism = Literal["gaussian", "discrete_gaussian"]
MECHANISMS: tuple[Mechanism, ...] = ("gaussian", "discrete_gaussian")
SMALLEST_MULTIPLIER = 1e-3
"""Less noise than this protects nobody, and its cost leaves the range in which floats can be relied on."""
LARGEST_MULTIPLIER = 1e9
"""More noise than this drowns everything, and floats cannot square it for ever."""
LATTICE_SLACK = 1e-7
"""What a discrete_gaussian event may cost beyond the continuous Gaussian: derived in lattice.share_std, with room."""


@dataclass(frozen=True)
class Event:
    """`count` releases of one mechanism; neighbours differ by adding or removing (zeroing out) one subject.

    Attributes:
        noise_multiplier: std of the noise divided by the L2 sensitivity.
        sampling_rate: chance of each subject to be in a release, drawn independently (Poisson); 1.0: all are in.
    """

    mechanism: Mechanism
    noise_multiplier: float
    sampling_rate: float
    count: int

    def __post_init__(self) -> None:
        """Refuse events that no accountant could read.

        Raises:
            ValueError: a field is out of its range.
        """
        if self.mechanism not in MECHANISMS:
            raise ValueError(f"mechanism must be one of {', '.join(MECHANISMS)}, got {self.mechanism}")
        if not SMALLEST_MULTIPLIER <= self.noise_multiplier <= LARGEST_MULTIPLIER:
            allowed = f"at least {SMALLEST_MULTIPLIER:g} and at most {LARGEST_MULTIPLIER:g}"
            raise ValueError(f"noise_multiplier must be {allowed}, got {self.noise_multiplier}")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate must be in (0, 1], got {self.sampling_rate}")
        if self.mechanism == "discrete_gaussian" and self.sampling_rate != 1:
            raise ValueError(f"sampling_rate of a discrete_gaussian event must be 1, got {self.sampling_rate}")
        if self.count < 0:
            raise ValueError(f"count must be >= 0, got {self.count}")


@dataclass(frozen=True)
class Charge:
    """An event, whose records it reads (cohort: train, valid or test) and what for (purpose).

    Attributes:
        modalities: what it reads of a record; empty: nobody said, so all of it.
        blocks: the parts of the model that it moves; empty for a table, or where nobody said.
    """

    cohort: str
    purpose: str
    event: Event
    modalities: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
