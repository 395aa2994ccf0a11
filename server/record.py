"""From what a finished run left with its server to the record that its reports show: released values, public facts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from safetensors.numpy import save_file

from common.blocks import blocks_of, flatten, held_blocks, is_personal, modality_of
from common.config import Config
from common.curriculum import stage_in, trains
from common.fairness.result import AuditResult
from common.journal import Event
from common.messages import Enrol
from common.models.model import build_model, first_weights
from common.privacy.events import Event as NoisyEvent
from common.privacy.lattice import share_std
from common.privacy.plan import PrivacyPlan
from common.privacy.tradeoff import attack_power
from common.releases import schema_of, table_layout
from common.reports.record import (
    AttackBound,
    BlockRecord,
    Promise,
    ReleasedTest,
    RoundRecord,
    RunRecord,
    SecaggFacts,
    SiteRecord,
)
from common.secagg.roster import guaranteed_honest, threshold_of
from server.audit import audit
from server.evaluate import evaluation_figures
from server.folder import RunFolder
from server.state import ServerState, load_state

FALSE_ALARMS = (0.001, 0.01, 0.1)
_PACKAGES = ("fedmosaic", "flwr", "torch", "opacus", "dp-accounting", "cryptography", "numpy")


@dataclass(frozen=True)
class Finished:
    """A run whose rounds are over, as its server knows it."""

    folder: RunFolder
    config: Config
    plan: PrivacyPlan | None
    num_sites: int

    @property
    def plan_hash(self) -> str:
        """Name of configuration and plan together, as ledgers keep it."""
        plan = self.plan.to_json() if self.plan else "null"
        return Enrol(self.folder.name, self.config.model_dump_json(), plan).digest().hex()

    @property
    def state(self) -> ServerState:
        """Weights and released tables.

        Raises:
            ValueError: no round has ended.
        """
        state = load_state(self.folder.path / "state" / "server.safetensors")
        if state is None:
            raise ValueError(f"{self.folder.path} has no state: no round of it has ended")
        return state

    @property
    def held(self) -> dict[str, tuple[str, ...]]:
        """The modalities that each institution holds."""
        facts = self.folder.journal.events("enrolled")[-1].facts["modalities"]
        return {name: tuple(modalities) for name, modalities in dict(facts).items()}


def assemble(run: Finished, *, seconds: float) -> RunRecord:
    """Read journal and state back, and put them into one record; of the sites it has what is public."""
    config, folder, held = run.config, run.folder, run.held
    task = schema_of(config).tasks[config.objective.task]
    return RunRecord(
        run=folder.name,
        experiment=config.experiment,
        created=_created(folder.journal.events()),
        seconds=seconds,
        task=config.objective.task,
        classes={"multilabel": task.columns, "regression": ()}.get(task.kind, task.classes),
        honesty=_honesty(config),
        config=config.model_dump(mode="json"),
        config_hash=config.hash(),
        rounds_planned=config.rounds,
        promise=_promise(run),
        secagg=_secagg(config, run.num_sites),
        sites=tuple(SiteRecord(name, modalities) for name, modalities in sorted(held.items())),
        rounds=tuple(_round(event, config) for event in folder.journal.events("round")),
        blocks=_blocks(config, held),
        released=_released(run),
        audit=_audit(run),
        software={name: version(name) for name in _PACKAGES},
        simulated=False,
        kind=task.kind,
    )


def write_model(run: Finished) -> None:
    """Write the final model: one tensor a block, and in the header what building it again needs."""
    config, path = run.config, run.folder.path / "model.safetensors"
    facts = {"config": config.model_dump_json(), "config_hash": config.hash(), "run": run.folder.name}
    draft = path.with_name(".model.draft")
    save_file(run.state.final_weights(), draft, metadata=facts)
    draft.replace(path)


def _created(events: Sequence[Event]) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(event.time for event in events)))


def _promise(run: Finished) -> Promise:
    plan, config = run.plan, run.config
    source = "test" if config.privacy.test_noise_seed is not None else "os-csprng"
    steps = config.rounds * config.privacy.steps_per_round
    if plan is None:
        return Promise(
            *("none", None, None, "none", "none", "by seed", None, steps, None, None, None),
            random_source="none",
            plan_hash="",
        )
    return Promise(
        kind=config.privacy.kind,
        epsilon=plan.epsilon,
        delta=plan.delta,
        unit=plan.unit,
        adjacency=plan.adjacency,
        sampling=plan.sampling,
        sampling_rate=plan.sampling_rate,
        steps=steps,
        clip_norm=plan.clip_norm,
        noise_multiplier=plan.noise_multiplier,
        divisor=plan.divisor,
        random_source=source,
        plan_hash=run.plan_hash,
        engine=config.privacy.engine,
        attack=_attack(plan),
    )


def _attack(plan: PrivacyPlan) -> tuple[AttackBound, ...]:
    """What an attacker can do at most, from the planned charges of the cohort where it is most."""
    cohorts: dict[str, list[NoisyEvent]] = {}
    for charge in plan.charges():
        cohorts.setdefault(charge.cohort, []).append(charge.event)
    return tuple(
        AttackBound(alarms, max(attack_power(events, alarms) for events in cohorts.values())) for alarms in FALSE_ALARMS
    )


def _secagg(config: Config, num_sites: int) -> SecaggFacts:
    if config.secagg.kind == "none":
        return SecaggFacts("none", k_min=config.secagg.k_min, key_agreement="none")
    threshold, honest = threshold_of(num_sites), guaranteed_honest(num_sites)
    return SecaggFacts(
        *("masked", config.secagg.k_min, threshold, honest),
        key_agreement="X25519 and ML-KEM-768" if config.secagg.post_quantum else "X25519",
    )


def _round(event: Event, config: Config) -> RoundRecord:
    facts = event.facts
    stage, summed = stage_in(config.stages, event.round), set(facts.get("blocks") or {})
    asked = {block for block in first_weights(config) if trains(stage, block)}
    return RoundRecord(
        number=event.round,
        seconds=float(facts["seconds"]),
        sites=tuple(facts["sites"]),
        dropped=tuple(facts["dropped"]),
        left_out=tuple(sorted(asked - summed)),
        update_norm=facts.get("update_norm"),
    )


def _blocks(config: Config, held: dict[str, tuple[str, ...]]) -> tuple[BlockRecord, ...]:
    model = build_model(config, schema_of(config), seed=config.seed)
    names = tuple(blocks_of(model))
    sizes = {name: int(vector.size) for name, vector in flatten(model, names).items()}
    return tuple(
        BlockRecord(
            name=name,
            modality=modality_of(name),
            num_parameters=sizes[name],
            sites=tuple(site for site, modalities in held.items() if name in held_blocks(names, modalities)),
            travels=not is_personal(name, config.federation.personal),
        )
        for name in names
    )


def released_noise(run: Finished, purpose: str) -> float:
    """Standard deviation of the noise in one cell of a released sum: every site in it added its share."""
    if run.plan is None:
        return 0.0
    release = next(item for item in run.plan.counts if item.purpose == purpose)
    masked = run.config.secagg.kind == "masked"
    honest = guaranteed_honest(run.num_sites) if masked else 1
    event = run.folder.journal.events(f"released {purpose}")[-1]
    num_sites = len(event.facts["sites"])
    return float(np.sqrt(num_sites)) * share_std(release.l2_sensitivity, release.noise_multiplier, honest)


def _released(run: Finished) -> ReleasedTest:
    layout = table_layout(run.config, "evaluation")
    noise = released_noise(run, "evaluation")
    threshold = run.config.audit.threshold
    return evaluation_figures(layout, run.state.released["evaluation"], noise_std=noise, threshold=threshold)


def _audit(run: Finished) -> AuditResult | None:
    state = run.state
    if "audit" not in state.released:
        return None
    layout, noise = table_layout(run.config, "audit"), released_noise(run, "audit")
    return audit(layout, state.released["audit"], noise_std=noise, config=run.config.audit)


def _honesty(config: Config) -> str:
    """Which parts of the data are real, and what this run took away."""
    said = [config.honesty]
    if config.data.missing:
        said.append(f"{config.data.missing:.0%} of the records' modalities were taken away at random (simulated).")
    if config.data.held_out:
        said.append(
            f"Nobody trained on the recordings of {', '.join(config.data.held_out)}: the tests are made of them."
        )
    return " ".join(said)
