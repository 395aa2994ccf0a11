"""Before a run costs anything, its own training step is tried on its own model, with subjects that do not exist.

What is wrong there would spend budget on nothing, or release more than was charged: so the run is refused before it.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from client import trial
from client.arithmetic import make_reproducible, rows_at_once
from client.bundle import bundle_hash
from client.dp import FEWEST_ROWS
from client.hiding_trial import check_hiding
from client.policy import Refused
from client.stages import alone
from client.step_audit import num_canaries, observe, plan_of
from client.train import LocalTraining, training_of
from common.blocks import standing_still
from common.compose import validate
from common.config import Config
from common.curriculum import first_rounds
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.plan import PrivacyPlan
from common.privacy.step_audit import ALARM, CONFIDENCE, StepCertificate, largest_bound, mu_lower_bound

if TYPE_CHECKING:
    from client.enrolment import Agreement

OBSERVATIONS = 300
CERTIFICATE = "certificate.json"
_PACKAGES = ("torch", "opacus", "numpy", "scipy", "cryptography", "dp-accounting")
_OPTIONAL = ("torchaudio", "torchvision", "transformers", "tokenizers", "peft", "efficientnet-lite-pytorch")
_SEES = (
    "the model's own step, in each stage, against one subject at a time in double precision; what one subject moves",
    "the noise of every parameter, and of one step beside the next; who is drawn; the divisor; saved and loaded blocks",
    "that what a step hides and alters of a record is drawn from the secret stream that its noise comes from",
    "on a small model of two modalities: a sensitivity, a noise or a weight beyond what is charged",
)
_OWN_NOISE = "that a round is the sum of its noised steps and moves all that is trained, and nothing else"
_SHARED_NOISE = "this site's share of a step's noise; on the small model, all of the noise as if it were one site's"
_DOES_NOT_SEE = (
    "records: all of this is synthetic, and nothing of it is charged",
    "what depends on values that no trial has, or on the machine's state at another time",
    "whole training: how well members can be found in the final model is another audit",
    "draws that depend on each other, where the plan draws so few that hardly anybody is drawn twice",
)


def self_check(config: Config, plan: PrivacyPlan, *, honest: int) -> StepCertificate:
    """Try a run's step. The certificate of what was found lacks the run and the plan's hash.

    Args:
        config: of the run.
        plan: of the run.
        honest: sites that share the noise of a step out, where the plan says so.

    Guarantees:
        no record: rows and weights are synthetic.
        closed: whatever goes wrong, the run is refused; what is right is refused with a chance below 1e-8 a stage.
        once: the same configuration, plan and number are tried once a process.

    Raises:
        Refused: the step does not do what the plan says, or could not be tried.
    """
    make_reproducible()
    try:
        # Where records lie makes no difference to a step; the same federation elsewhere is the same trial.
        nowhere = config.data.model_copy(update={"root": config.data.root and "nowhere"})
        return _tried(config.model_copy(update={"data": nowhere}).model_dump_json(), plan.to_json(), honest)
    except Exception as error:
        raise Refused("self-check", f"{type(error).__name__}: {error}") from error


def certify(folder: Path, agreement: Agreement, *, honest: int) -> None:
    """See to it that this very software tried a run's step, and keep its certificate in the run's folder.

    Raises:
        Refused: the step does not do what the plan says, or could not be tried.
    """
    plan, plan_hash = agreement.plan, agreement.plan_hash.hex()
    if plan is None or _is_certified(folder / CERTIFICATE, plan_hash):
        return
    found = self_check(agreement.config, plan, honest=honest)
    with alone(folder):
        draft = folder / f".{CERTIFICATE}.draft"
        draft.write_text(replace(found, run=agreement.run, plan_hash=plan_hash).to_json())
        draft.replace(folder / CERTIFICATE)


def _is_certified(path: Path, plan_hash: str) -> bool:
    try:
        certificate = StepCertificate.from_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return (certificate.plan_hash, certificate.software) == (plan_hash, software())


@cache
def software() -> dict[str, str]:
    """What a step runs on: versions, and one hash over the program's own files."""
    packages = {name: version(name) for name in _PACKAGES}
    for name in _OPTIONAL:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {"source": bundle_hash(), "python": platform.python_version(), **packages}


@lru_cache(maxsize=32)
def _tried(config_json: str, plan_json: str, honest: int) -> StepCertificate:
    config, plan = validate(config_json), PrivacyPlan.from_json(plan_json)
    rows, found = rows_at_once(config_json), []
    for first in first_rounds(config.stages):
        training = training_of(config, plan, round=first, rows=rows)
        if (training.steps, training.plan) != (plan.steps_per_round, plan):
            raise trial.Broken("a round takes another plan, or another number of steps, than was agreed to")
        # Whoever is made up needs few rows: parts of the run's own size are tried once, beside small ones.
        tried = trial.trial_of(config, replace(training, rows=min(training.rows, FEWEST_ROWS)), honest)
        with standing_still(tried.model, training.blocks):
            trial.check_parts(tried, training.rows)
            found.append(_try_stage(tried, training))
    trial.check_saved(config, tried.model)
    errors, ratios, draws = zip(*found, strict=True)
    noise = max(ratios, key=lambda ratio: abs(ratio - 1)), sum(draws)
    return _certificate(config, training, max(errors), noise)


def _try_stage(tried: trial.Trial, training: LocalTraining) -> tuple[float, float, int]:
    """Try the step of one stage: how far gradients are off, the noise measured / planned, and over how many draws."""
    gradient_error = trial.check_gradients(tried)
    trial.check_bounded(tried)
    trial.check_not_finite(tried)
    noise = trial.check_noise(tried)
    trial.check_sampling(tried, training)
    check_hiding(tried, training)
    if tried.plan.lattice is None:  # otherwise a site takes no step itself: it sends its part of one
        trial.check_round(tried)
        trial.check_moves(tried, training)
    return gradient_error, *noise


def _certificate(
    config: Config, training: LocalTraining, gradient_error: float, noise: tuple[float, int]
) -> StepCertificate:
    plan = plan_of(training)
    observed, canaries = observe(training, observations=OBSERVATIONS), num_canaries(plan)
    claimed, delta = 1 / plan.noise_multiplier, plan.delta
    lower, refuting = (mu_lower_bound(observed, confidence=level) / canaries for level in (CONFIDENCE, 1 - ALARM))
    if refuting > claimed:
        raise trial.Broken(f"canaries show a step's mu to be at least {refuting:.3g}, and {claimed:.3g} is charged")
    return StepCertificate(
        run="",
        when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        plan_hash="",
        software=software(),
        engine=config.privacy.engine,
        delta=delta,
        claimed_mu=claimed,
        claimed_epsilon=gaussian_epsilon(claimed, delta),
        lower_mu=lower,
        lower_epsilon=gaussian_epsilon(lower, delta),
        refuting_mu=refuting,
        largest_mu=largest_bound(OBSERVATIONS, confidence=CONFIDENCE) / canaries,
        observations=OBSERVATIONS,
        canaries=canaries,
        noise_ratio=noise[0],
        noise_draws=noise[1],
        gradient_error=gradient_error,
        sees=(*_SEES, _OWN_NOISE if plan.lattice is None else _SHARED_NOISE),
        does_not_see=_DOES_NOT_SEE,
    )
