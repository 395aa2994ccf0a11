"""The privacy plan of a run: one frozen object that training, noise, accounting and ledger all read.

A plan is fixed before anything is released, so its composed PLD epsilon is what each subject is promised for the run:
a subject is in one cohort (train, valid or test) of a run, and each cohort's charges compose to at most `epsilon`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from common.privacy.accounting import pld_epsilon
from common.privacy.calibrate import Budget, calibrate_noise
from common.privacy.events import Charge, Event, Mechanism
from common.privacy.lattice import Lattice, fit_lattice

if TYPE_CHECKING:
    from common.config import PrivacyConfig

TRAINING, TRAINING_COHORT = "training", "train"
CLIP_NORMS, SMALLEST_RATE, MOST_STEPS = (1e-6, 1e6), 1e-6, 10_000_000
UNIT: Literal["subject"] = "subject"
ADJACENCY: Literal["zero-out (add or remove)"] = "zero-out (add or remove)"
SAMPLING: Literal["poisson"] = "poisson"


@dataclass(frozen=True)
class CountRelease:
    """A noised table of integers: whose records it counts, its L2 sensitivity, noise std / sensitivity."""

    purpose: str
    cohort: str
    l2_sensitivity: float
    noise_multiplier: float
    times: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be charged.

        Raises:
            ValueError: a field is of the wrong type or out of its range.
        """
        _check_types(self, {"purpose": str, "cohort": str, "times": int})
        _check_positive(self, ("l2_sensitivity", "noise_multiplier", "times"))
        if self.times > MOST_STEPS:
            raise ValueError(f"times must be at most {MOST_STEPS:,}, got {self.times}")


@dataclass(frozen=True)
class PrivacyPlan:
    """Everything that decides how private a run is.

    Attributes:
        clip_norm: L2 bound of one subject's joint gradient.
        noise_multiplier: std of a step's noise / clip_norm.
        sampling_rate: Poisson chance of a subject to be in a step.
        steps_per_round: noisy steps of a site in a round.
        divisor: public number that a step's noisy sum is divided by.
        counts: the noised tables of the run.
        lattice: the grid of the sites' sums where they share the noise of a step out between them; None: every site
            adds all of it to its own sum.
    """

    epsilon: float
    delta: float
    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    steps_per_round: int
    rounds: int
    divisor: float
    counts: tuple[CountRelease, ...]
    lattice: Lattice | None = None
    unit: Literal["subject"] = UNIT
    adjacency: Literal["zero-out (add or remove)"] = ADJACENCY
    sampling: Literal["poisson"] = SAMPLING

    def __post_init__(self) -> None:
        """Refuse a plan that nobody could carry out or account for.

        Raises:
            ValueError: a field is of the wrong type or out of its range.
        """
        _check_types(self, {"steps_per_round": int, "rounds": int})
        _check_positive(self, ("epsilon", "delta", "clip_norm", "noise_multiplier", "sampling_rate", "divisor"))
        _check_positive(self, ("steps_per_round", "rounds"))
        if self.rounds * self.steps_per_round > MOST_STEPS:  # more take minutes to account for
            raise ValueError(f"rounds * steps_per_round must be at most {MOST_STEPS:,}, got {self.rounds} rounds")
        if self.delta > 1:
            raise ValueError(f"delta must be at most 1, got {self.delta}")
        # Within these, dividing and comparing in floating point means what it says; outside, a step may round to 0.
        for name, least, most in (("clip_norm", *CLIP_NORMS), ("sampling_rate", SMALLEST_RATE, 1.0)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be within {least:g} and {most:g}, got {getattr(self, name)}")
        for name, only in (("unit", UNIT), ("adjacency", ADJACENCY), ("sampling", SAMPLING)):
            if getattr(self, name) != only:
                raise ValueError(f"{name} must be {only!r}, got {getattr(self, name)!r}")
        if self.lattice is not None:
            _check_shared(self, self.lattice)
        purposes = [TRAINING, *(release.purpose for release in self.counts)]
        if len(set(purposes)) < len(purposes):
            raise ValueError(f"counts: every purpose once, and training is none of them, got {', '.join(purposes[1:])}")

    @property
    def training_mechanism(self) -> Mechanism:
        """The noise of a training step: each site's own Gaussian, or the sites' discrete Gaussian shares together."""
        return "gaussian" if self.lattice is None else "discrete_gaussian"

    @property
    def step(self) -> float:
        """The real number that one step of the lattice stands for.

        Raises:
            ValueError: the plan has no lattice.
        """
        if self.lattice is None:
            raise ValueError("a plan without a lattice has no step")
        return self.clip_norm / self.lattice.clip_steps

    def charges(self) -> tuple[Charge, ...]:
        """Everything that this run may release, as the ledger reserves it: training first, then the tables."""
        count = self.rounds * self.steps_per_round
        steps = Event(self.training_mechanism, self.noise_multiplier, self.sampling_rate, count)
        return (
            Charge(TRAINING_COHORT, TRAINING, steps),
            *(
                Charge(release.cohort, release.purpose, _table_event(release.noise_multiplier, release.times))
                for release in self.counts
            ),
        )

    def epsilons(self) -> dict[str, float]:
        """The composed PLD epsilon of each cohort at `delta`, from the charges themselves."""
        events: dict[str, list[Event]] = {}
        for charge in self.charges():
            events.setdefault(charge.cohort, []).append(charge.event)
        return {cohort: pld_epsilon(charged, self.delta) for cohort, charged in events.items()}

    def to_json(self) -> str:
        """Write the plan as canonical JSON: sorted keys, no spaces, every float to the last bit."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @staticmethod
    def from_json(text: str) -> PrivacyPlan:
        """Read a plan back, exactly.

        Raises:
            ValueError: the text is no JSON, or a key is unknown, missing, of the wrong type or out of range.
        """
        entries = _entries(json.loads(text, object_pairs_hook=_no_duplicates), PrivacyPlan)
        counts = entries.pop("counts")
        if not isinstance(counts, list):
            raise ValueError(f"counts must be a list, got {counts!r}")
        releases = tuple(CountRelease(**_entries(release, CountRelease)) for release in counts)
        grid = entries.pop("lattice")
        lattice = None if grid is None else Lattice(**_entries(grid, Lattice))
        plan = PrivacyPlan(**entries, counts=releases, lattice=lattice)
        plan.charges()  # whoever wrote it: Event refuses what no accountant could read
        return plan


def make_plan(
    config: PrivacyConfig,
    *,
    rounds: int,
    counts_needed: Mapping[str, tuple[str, float]],
    summed: tuple[int, int] | None = None,
) -> PrivacyPlan:
    """Divide the run's epsilon over everything it releases; `counts_needed`: purpose to (cohort, L2 sensitivity).

    `summed` is given where the sites share the noise of training out between them: how many sites the roster has, and
    how many coordinates of the model they add up. Normalisation alone is calibrated to `normalisation_share` of
    epsilon, the audit alone to `audit_share`. What comes last in a cohort, training or evaluation, gets all that is
    left.

    Guarantees:
        within: in every cohort, the PLD epsilon of all charges together is at most config.epsilon at config.delta.

    Raises:
        ValueError: a purpose is unknown, the noise that epsilon needs is beyond measure, or no lattice fits.
    """
    total, noise = Budget(config.epsilon, config.delta), _noise_by_share(config, counts_needed)

    def spent_before(cohort: str) -> tuple[Event, ...]:
        return tuple(_table_event(noise[purpose]) for purpose in sorted(noise) if counts_needed[purpose][0] == cohort)

    mechanism: Mechanism = "gaussian" if summed is None else "discrete_gaussian"
    steps = Event(mechanism, 1.0, config.sampling_rate, rounds * config.steps_per_round)
    training = calibrate_noise(total, steps, before=spent_before(TRAINING_COHORT))
    if "evaluation" in counts_needed:
        cohort = counts_needed["evaluation"][0]
        before = spent_before(cohort)
        if cohort == TRAINING_COHORT:
            before = (*before, replace(steps, noise_multiplier=training))
        noise["evaluation"] = calibrate_noise(total, _table_event(), before=before)
    plan = PrivacyPlan(
        epsilon=config.epsilon,
        delta=config.delta,
        clip_norm=config.clip_norm,
        noise_multiplier=training,
        sampling_rate=config.sampling_rate,
        steps_per_round=config.steps_per_round,
        rounds=rounds,
        divisor=config.sampling_rate * config.declared_subjects,
        counts=tuple(CountRelease(purpose, *counts_needed[purpose], noise[purpose]) for purpose in counts_needed),
    )
    return plan if summed is None else replace(plan, lattice=_lattice_of(plan, *summed))


def _noise_by_share(config: PrivacyConfig, counts_needed: Mapping[str, tuple[str, float]]) -> dict[str, float]:
    """The noise multipliers of the tables that get a fixed part of epsilon, by purpose."""
    shares = {"normalisation": config.normalisation_share, "audit": config.audit_share}
    unknown = sorted(set(counts_needed) - set(shares) - {"evaluation"})
    if unknown:
        raise ValueError(f"counts_needed: unknown purpose {', '.join(unknown)}")
    return {
        purpose: calibrate_noise(Budget(share * config.epsilon, config.delta), _table_event())
        for purpose, share in shares.items()
        if purpose in counts_needed
    }


def _table_event(noise_multiplier: float = 1.0, times: int = 1) -> Event:
    return Event("discrete_gaussian", noise_multiplier, 1.0, times)


def _check_shared(plan: PrivacyPlan, lattice: Lattice) -> None:
    """The noise of a shared step is accounted once a round, for sums that everybody is in, and that cannot wrap."""
    if plan.sampling_rate != 1 or plan.steps_per_round != 1:
        raise ValueError(
            "noise that sites share out needs sampling_rate 1 and steps_per_round 1,"
            f" got {plan.sampling_rate} and {plan.steps_per_round}"
        )
    fitting = _lattice_of(plan, lattice.sites, lattice.coordinates)
    if lattice != fitting:
        raise ValueError(f"lattice.clip_steps must be {fitting.clip_steps} for this plan, got {lattice.clip_steps}")


def _lattice_of(plan: PrivacyPlan, sites: int, coordinates: int) -> Lattice:
    return fit_lattice(
        sites=sites,
        coordinates=coordinates,
        divisor=plan.divisor,
        noise_multiplier=plan.noise_multiplier,
        rounds=plan.rounds,
    )


def _check_types(thing: CountRelease | PrivacyPlan, types: Mapping[str, type]) -> None:
    for name, kind in types.items():
        if type(getattr(thing, name)) is not kind:
            raise ValueError(f"{name} must be of type {kind.__name__}, got {getattr(thing, name)!r}")


def _check_positive(thing: CountRelease | PrivacyPlan, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(thing, name)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a number > 0 and finite, got {value!r}")


def _entries(body: object, kind: type[CountRelease | Lattice | PrivacyPlan]) -> dict[str, Any]:
    """The keys of a JSON object, which must be exactly the fields of a dataclass."""
    if not isinstance(body, dict):
        raise ValueError(f"{kind.__name__} must be a JSON object, got {body!r}")
    wanted = {field.name for field in fields(kind)}
    for words, names in (("unknown", body.keys() - wanted), ("missing", wanted - body.keys())):
        if names:
            raise ValueError(f"{kind.__name__}: {words} {', '.join(sorted(names))}")
    return dict(body)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


__all__ = ["Charge", "CountRelease", "Event", "PrivacyPlan", "make_plan"]
