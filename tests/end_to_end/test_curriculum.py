"""Runs in stages: what stands still, what is not read, what is charged, and where a killed run goes on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.contribute import Work, contribute
from client.enrolment import agreement_of, open_ledger
from client.policy import read_policy
from common.compose import ConfigError, compose
from common.config import Config
from common.messages import Task
from common.models.model import first_weights
from server.state import ServerState
from simulations.run import Prepared, reopen, run
from tests.federation_run import SMALL, prepare_toy, run_toy, same_weights, silent, state_of, toy_root

PARTS = "objective.parts=[{kind: task}, {kind: masked_tokens, modality: labs, weight: 0.5}]"
OFF_LABS = "blocks: [encoder/labs, restorer, head], modalities: [labs], weights: {masked_tokens: 1, task: 0.1}"
ALONE = f"{{name: alone, rounds: 2, {OFF_LABS}}}"
TOGETHER = "{name: together, rounds: 2, blocks: [fusion, head, auxiliary], weights: {task: 1}}"
STAGES = ("rounds=null", f"stages=[{ALONE},{TOGETHER}]", PARTS)
MOMENTUM = "federation.server_optimizer={kind: sgd, lr: 1.0, momentum: 0.9}"
PLAIN = ("data.normalisation=none", "audit.attributes=[]")
OPEN = (*PLAIN, "privacy=none", "secagg=none")
PRIVATE = (*PLAIN, "privacy.test_noise_seed=5")
SHARED = (*PRIVATE, "privacy=distributed", "privacy.delta=1e-3", "privacy.declared_subjects=40")


def models_of(prepared: Prepared) -> list[dict[str, np.ndarray]]:
    """The released model after each round."""
    return [weights for _, weights in prepared.folder.journal.models()]


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {block for block in before if before[block].tobytes() != after[block].tobytes()}


@pytest.fixture(scope="module", params=["open", "private", pytest.param("shared", marks=pytest.mark.slow)])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, ServerState]:
    settings = {"open": OPEN, "private": PRIVATE, "shared": SHARED}[request.param]
    prepared, _, state = run_toy(tmp_path_factory.mktemp(request.param), *STAGES, MOMENTUM, *settings)
    return prepared, state


def test_only_a_stages_blocks_move_and_the_servers_momentum_moves_no_other(
    finished: tuple[Prepared, ServerState],
) -> None:
    models = models_of(finished[0])
    early = {"encoder/labs", "restorer/labs", "head/sick"}
    late = {"fusion", "head/sick", *(f"auxiliary/{name}" for name in ("labs", "vitals", "ward"))}
    assert moved(models[0], models[1]) == early
    assert moved(models[1], models[2]) == moved(models[2], models[3]) == late
    assert {"encoder/vitals", "encoder/ward"}.isdisjoint(moved(models[0], models[3]))


def test_blocks_that_stand_still_are_not_sent(finished: tuple[Prepared, ServerState]) -> None:
    sent = [set(event.facts["blocks"]) for event in finished[0].folder.journal.events("round")]
    assert sent[0] == sent[1] == {"encoder/labs", "restorer/labs", "head/sick"}
    assert sent[2] == sent[3]
    assert not any(block.startswith("encoder/") for block in sent[2])


def _dies_after(round: int, prepared: Prepared) -> bool:
    """Run in a process that is killed (SIGKILL) as soon as a round's state is on disk."""
    child = os.fork()
    if child == 0:
        left = iter(range(round - 1))

        def watch(frame: FrameType, event: str, _: object) -> None:
            if event == "return" and frame.f_code.co_name == "save_state" and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        run(prepared, silent, pages=False)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_killed_within_a_stage_goes_on_to_the_same_bit(stop: int, tmp_path: Path) -> None:
    whole = run_toy(tmp_path / "whole", *STAGES, MOMENTUM, *PRIVATE)[2]
    prepared = prepare_toy(tmp_path / "killed", *STAGES, MOMENTUM, *PRIVATE)
    assert _dies_after(stop, prepared)
    assert state_of(prepared).round == stop
    run(reopen(prepared.folder.path), silent, pages=False)
    assert same_weights(state_of(prepared), whole)


def _update(prepared: Prepared, round: int) -> dict[str, np.ndarray]:
    site = prepared.sites[0]
    agreement = agreement_of(site, prepared.folder.name)
    task = Task(prepared.folder.name, round, "training", first_weights(prepared.config), {})
    return contribute(Work(site, agreement, task, 1)).reals


def test_what_a_stage_does_not_read_makes_no_difference(tmp_path: Path) -> None:
    updates = []
    for place, factor in (("as it is", 1.0), ("other vitals", -1.0)):
        root = toy_root(tmp_path / place)
        for manifest in root.glob("*/manifest.csv"):
            lines = manifest.read_text().splitlines()
            names = lines[0].split(",")
            rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
            for row in rows:
                row["pulse"] = row["pulse"] and f"{factor * float(row['pulse']):.4f}"
                row["triage"] = row["triage"] if factor > 0 else ""
            manifest.write_text("\n".join([lines[0], *(",".join(row.values()) for row in rows)]) + "\n")
        prepared = prepare_toy(tmp_path / place, *STAGES, *OPEN)
        updates.append([_update(prepared, round) for round in (1, 3)])
    (alone, together), (alone_too, together_too) = updates
    assert moved(alone, alone_too) == set()
    assert moved(together, together_too) != set()


def test_the_ledger_names_what_any_stage_reads_and_moves_and_charges_every_round(tmp_path: Path) -> None:
    only = ALONE.replace("rounds: 2", "rounds: 3")
    prepared, _, _ = run_toy(tmp_path, "rounds=null", f"stages=[{only}]", PARTS, *PRIVATE)
    site = prepared.sites[0]
    with open_ledger(site, read_policy(site.policy_path)) as ledger:
        (line,) = ledger.spent().runs
    training = next(c for cohort in line.cohorts for c in cohort.charged if c.purpose == "training")
    assert training.modalities == ("labs",)
    assert training.blocks == ("encoder/labs", "head/sick", "restorer/labs")
    assert training.event.count == 3
    page = (prepared.folder.path / "budget" / f"{site.name}.html").read_text()
    assert "labs only" in page
    assert "alone" in page


def test_personal_blocks_survive_a_stage_in_which_they_stand_still(tmp_path: Path) -> None:
    personal = "federation.personal=[head, auxiliary]"
    first = "{name: first, rounds: 1, blocks: [fusion, head]}"
    second = "{name: second, rounds: 2, blocks: [fusion, auxiliary]}"
    prepared, _, _ = run_toy(tmp_path, "rounds=null", f"stages=[{first},{second}]", personal, *OPEN)
    kept = [
        load_file(prepared.sites[0].run_folder(prepared.folder.name) / "personal" / f"{number}.safetensors")
        for number in (1, 2, 3)
    ]
    assert moved(kept[0], kept[1]) == moved(kept[1], kept[2]) == {name for name in kept[0] if name != "head/sick"}


def _toy(*overrides: str) -> Config:
    return compose((*SMALL, "data.root=x", *overrides))


def test_rounds_are_the_stages_rounds_and_a_contradiction_is_refused() -> None:
    assert _toy(*STAGES).rounds == 4
    assert _toy(*STAGES[1:], "rounds=4").rounds == 4
    with pytest.raises(ConfigError, match="rounds is 3, and the stages have 4 together"):
        _toy(*STAGES[1:])


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("{name: a, rounds: 3, blocks: [encoder/lab, head]}", "stage a: the blocks are .*, got 'encoder/lab'"),
        ("{name: a, rounds: 3, modalities: [labs, lab]}", "stage a: the modalities are .*, got 'lab'"),
        ("{name: a, rounds: 3, blocks: [encoder/labs]}", "stage a: a site that lacks a modality would have nothing"),
        ("{name: a, rounds: 3, weights: {anchor: 1}}", "stage a: weights has 'anchor'; the objective's parts are task"),
        ("{name: a, rounds: 3, weights: {task: 0}}", "stage a: every weight is 0 by its end"),
        ("{name: a, rounds: 3, modalities: [ward]}", "stage a: a part with a weight needs labs"),
        ("{name: a, rounds: 2},{name: a, rounds: 1}", "stages must have a name each"),
        ("{name: a, rounds: 3, block: [head]}", "stages.0.block: unknown key"),
    ],
)
def test_a_stage_that_could_not_be_meant_is_refused_by_name(stage: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare_toy(tmp_path, f"stages=[{stage}]", PARTS)


def test_a_site_that_lacks_a_stages_modality_sends_what_it_holds(tmp_path: Path) -> None:
    toy_root(tmp_path, lacking={"site-0": ("labs",)})
    prepared, record, _ = run_toy(tmp_path, *STAGES, *OPEN)
    sent = prepared.folder.journal.events("round")[0].facts["blocks"]
    assert sent["head/sick"] == ["site-0", "site-1", "site-2", "site-3"]
    assert sent["encoder/labs"] == ["site-1", "site-2", "site-3"]
    assert [item.left_out for item in record.rounds] == [()] * 4  # what stands still was not asked for
