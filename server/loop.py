"""The rounds: the table of contents of the whole system."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.config import Config
from common.journal import Journal
from common.messages import Enrol, Task
from common.models.model import first_weights
from common.privacy.plan import PrivacyPlan
from common.receipts import keep_newest, read_receipts
from common.releases import tables_of
from common.secagg.roster import Roster
from server.aggregate import mean_by_block, median_by_block, step_along
from server.cohort import Member, enrol, settle
from server.collect import Collected, Rules, collect
from server.link import Link
from server.optimizer import optimize
from server.state import Arrays, ServerState, averaged, load_state, save_state
from server.unmask import RoundAborted

_KEPT_MODEL_BYTES = 4_000_000


@dataclass(frozen=True)
class Settings:
    """A run as the server knows it: its name, what was configured and planned, where the server keeps its state."""

    run: str
    config: Config
    plan: PrivacyPlan | None
    folder: Path
    roster: Roster

    @property
    def journal(self) -> Journal:
        """The run's journal."""
        return Journal(self.folder / "journal.sqlite")

    @property
    def receipts_path(self) -> Path:
        """The newest receipt of each site's ledger that this server was given."""
        return self.folder / "receipts.json"

    @property
    def state_path(self) -> Path:
        """Where the state is, from which a killed run resumes."""
        return self.folder / "state" / "server.safetensors"


def run_federation(link: Link, settings: Settings) -> ServerState:
    """Run all rounds of a federation, or those that are left.

    Guarantees:
        resumable: a run that was killed and started again ends in the same model, and no site is charged twice.

    Raises:
        RunRefused: a site refused the run.
        RoundAborted: too few sites were left for a table that the run cannot do without.
    """
    config = settings.config
    members = _enrol(link, settings)
    state = load_state(settings.state_path) or ServerState(round=0, weights=first_weights(config))
    state = _release(link, settings, members, state, "normalisation")
    for number in range(state.round + 1, config.rounds + 1):
        started = time.monotonic()
        task = Task(settings.run, number, "training", state.weights, _normalisation(state))
        try:
            collected = collect(link, members, task, _rules(settings))
            keep_newest(settings.receipts_path, collected.receipts.values(), settings.roster)
            update = _update(collected, state, settings)
            state = _advance(state, update, number, config)
            facts = _facts(collected, update)
        except RoundAborted as aborted:
            state = _advance(state, {}, number, config)
            names = [member.institution for member in members]
            facts = {"aborted": str(aborted), "sites": [], "dropped": names, "lost": dict(aborted.lost)}
        _keep(settings, state, {**facts, "seconds": time.monotonic() - started})
    for purpose in ("evaluation", "audit"):
        state = _release(link, settings, members, state, purpose)
    receipts = settle(link, members, settings.run)
    keep_newest(settings.receipts_path, receipts.values(), settings.roster)
    settings.journal.record("ended", config.rounds, {"settled": sorted(receipts)})
    return state


def _enrol(link: Link, settings: Settings) -> tuple[Member, ...]:
    plan = settings.plan.to_json() if settings.plan is not None else "null"
    receipts = [receipt.to_bytes() for receipt in read_receipts(settings.receipts_path)]
    before = [
        Member(node, name, tuple(modalities))
        for event in settings.journal.events("enrolled")
        for name, (node, modalities) in event.facts.get("members", {}).items()
    ]
    members = enrol(link, Enrol(settings.run, settings.config.model_dump_json(), plan, receipts), before)
    held = {member.institution: list(member.modalities) for member in members}
    nodes = {member.institution: (member.node, list(member.modalities)) for member in members}
    settings.journal.record("enrolled", 0, {"modalities": held, "members": nodes})
    return members


def _release(
    link: Link, settings: Settings, members: tuple[Member, ...], state: ServerState, purpose: str
) -> ServerState:
    """Ask for a table once a run; what was released before a crash is not asked for again."""
    table = tables_of(settings.config).get(purpose)
    if table is None or not table.summed or purpose in state.released:
        return state
    weights = {} if purpose == "normalisation" else state.final_weights()
    task = Task(settings.run, 0, purpose, weights, {} if purpose == "normalisation" else _normalisation(state))
    collected = collect(link, members, task, _rules(settings))
    keep_newest(settings.receipts_path, collected.receipts.values(), settings.roster)
    state = state.with_released(purpose, collected.tables[purpose])
    facts = {"sites": list(collected.sites), "lost": dict(collected.lost), "cells": collected.tables[purpose].size}
    settings.journal.record(f"released {purpose}", 0, facts)
    save_state(state, settings.state_path)
    return state


def _update(collected: Collected, state: ServerState, settings: Settings) -> Arrays:
    if settings.config.federation.aggregator == "median":
        return median_by_block(collected.singles)
    mean = mean_by_block(collected.sums)
    if settings.plan is None or settings.plan.lattice is None:
        return mean
    return step_along(mean, state.weights, settings.config.objective)  # what the sites sent are gradients


def _advance(state: ServerState, update: Arrays, number: int, config: Config) -> ServerState:
    weights, optimizer = state.weights, state.optimizer
    if update:
        weights, optimizer = optimize(weights, update, optimizer, config.federation.server_optimizer)
    state = replace(state, round=number, weights=weights, optimizer=optimizer)
    if number > config.rounds * (1.0 - config.federation.average_last):
        state = averaged(state)
    return state


def _facts(collected: Collected, update: Mapping[str, np.ndarray]) -> dict[str, object]:
    return {
        "sites": list(collected.sites),
        "dropped": list(collected.dropped),
        "lost": dict(collected.lost),
        "blocks": {name: list(block.sites) for name, block in collected.sums.items()},
        "stages": {name: round(seconds, 3) for name, seconds in collected.seconds.items()},
        "update_norm": float(np.sqrt(sum(float(np.sum(np.square(vector))) for vector in update.values()))),
    }


def _keep(settings: Settings, state: ServerState, facts: Mapping[str, object]) -> None:
    """Journal first, state last: a crash between them repeats the round, and replaces its row."""
    settings.journal.record("round", state.round, facts)
    if sum(vector.nbytes for vector in state.weights.values()) * settings.config.rounds <= _KEPT_MODEL_BYTES:
        settings.journal.keep_model(state.round, state.final_weights())
    save_state(state, settings.state_path)


def _normalisation(state: ServerState) -> Arrays:
    return {"sums": state.released["normalisation"]} if "normalisation" in state.released else {}


def _rules(settings: Settings) -> Rules:
    return Rules(
        masked=settings.config.secagg.kind == "masked",
        k_min=settings.config.secagg.k_min,
        bound=settings.config.secagg.bound,
        roster=settings.roster,
        plan=settings.plan,
        tables={name: table for name, table in tables_of(settings.config).items() if table.summed},
    )
