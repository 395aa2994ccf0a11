"""From what a finished run left, in the journal, the sites' ledgers and logs, to the record that its reports show."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from common.blocks import blocks_of, flatten, held_blocks, is_personal, modality_of
from common.config import Config
from common.curriculum import stage_in, trains
from common.journal import Event
from common.models.model import build_model, first_weights
from common.privacy.events import Event as NoisyEvent
from common.privacy.lattice import share_std
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
)
from common.secagg.roster import guaranteed_honest, threshold_of
from server.audit import audit
from server.evaluate import evaluation_figures
from server.state import ServerState, load_state
from simulations.budget import site_record, traffic_of
from simulations.measure import Bench, exact_test, open_bench, pooled

if TYPE_CHECKING:
    from common.fairness.result import AuditResult
    from common.privacy.plan import PrivacyPlan
    from simulations.run import Prepared

FALSE_ALARMS = (0.001, 0.01, 0.1)
_PACKAGES = ("fedmosaic", "flwr", "torch", "opacus", "dp-accounting", "cryptography", "numpy")


def assemble_record(prepared: Prepared, *, seconds: float) -> RunRecord:
    """Read everything back and put it into one record."""
    config, folder = prepared.config, prepared.folder
    state = _state(prepared)
    bench = open_bench(prepared.sites, folder.name, state.released)
    held = _held(folder.journal.events("enrolled"))
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
        promise=_promise(prepared),
        secagg=_secagg(config, len(prepared.sites)),
        sites=tuple(site_record(prepared, site, held[site.name]) for site in prepared.sites),
        rounds=_rounds(prepared, bench),
        blocks=_blocks(config, held),
        test=exact_test(bench, state.final_weights()),
        released=_released(prepared, state),
        audit=_audit(prepared, state),
        traffic=traffic_of(prepared.sites, folder.name, masked=config.secagg.kind == "masked"),
        software={name: version(name) for name in _PACKAGES},
        kind=task.kind,
    )


def write_model(prepared: Prepared) -> None:
    """Write the final model: one tensor a block, and in the header what building it again needs."""
    config, path = prepared.config, prepared.folder.path / "model.safetensors"
    facts = {"config": config.model_dump_json(), "config_hash": config.hash(), "run": prepared.folder.name}
    draft = path.with_name(".model.draft")
    save_file(_state(prepared).final_weights(), draft, metadata=facts)
    draft.replace(path)


def _state(prepared: Prepared) -> ServerState:
    state = load_state(prepared.folder.path / "state" / "server.safetensors")
    if state is None:
        raise ValueError(f"{prepared.folder.path} has no state: no round of it has ended")
    return state


def _held(enrolled: Sequence[Event]) -> dict[str, tuple[str, ...]]:
    facts = enrolled[-1].facts["modalities"]
    return {name: tuple(modalities) for name, modalities in dict(facts).items()}


def _created(events: Sequence[Event]) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(event.time for event in events)))


def _promise(prepared: Prepared) -> Promise:
    plan, config = prepared.plan, prepared.config
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
        plan_hash=prepared.plan_hash,
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


def _rounds(prepared: Prepared, bench: Bench) -> tuple[RoundRecord, ...]:
    """The rounds as the journal has them; the test curve is the simulator's."""
    models = prepared.folder.journal.models()
    curve = {number: pooled(bench.score(weights)).figures for number, weights in models}
    found = []
    for event in prepared.folder.journal.events("round"):
        facts, measured = event.facts, curve.get(event.round, {})
        summed = set(facts.get("blocks") or {})
        stage = stage_in(prepared.config.stages, event.round)
        asked = {block for block in first_weights(prepared.config) if trains(stage, block)}
        found.append(
            RoundRecord(
                number=event.round,
                seconds=float(facts["seconds"]),
                sites=tuple(facts["sites"]),
                dropped=tuple(facts["dropped"]),
                left_out=tuple(sorted(asked - summed)),
                update_norm=facts.get("update_norm"),
                test_accuracy=measured.get("accuracy"),
                test_auroc=measured.get("auroc"),
                test_error=measured.get("mae"),
            )
        )
    return tuple(found)


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


def released_noise(prepared: Prepared, purpose: str) -> float:
    """Standard deviation of the noise in one cell of a released sum: every site in it added its share."""
    if prepared.plan is None:
        return 0.0
    release = next(item for item in prepared.plan.counts if item.purpose == purpose)
    masked = prepared.config.secagg.kind == "masked"
    honest = guaranteed_honest(len(prepared.sites)) if masked else 1
    event = prepared.folder.journal.events(f"released {purpose}")[-1]
    num_sites = len(event.facts["sites"])
    return float(np.sqrt(num_sites)) * share_std(release.l2_sensitivity, release.noise_multiplier, honest)


def _released(prepared: Prepared, state: ServerState) -> ReleasedTest:
    layout = table_layout(prepared.config, "evaluation")
    noise = released_noise(prepared, "evaluation")
    threshold = prepared.config.audit.threshold
    return evaluation_figures(layout, state.released["evaluation"], noise_std=noise, threshold=threshold)


def _audit(prepared: Prepared, state: ServerState) -> AuditResult | None:
    if "audit" not in state.released:
        return None
    layout, noise = table_layout(prepared.config, "audit"), released_noise(prepared, "audit")
    return audit(layout, state.released["audit"], noise_std=noise, config=prepared.config.audit)


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
