"""Stages: which round is in which, and what the self-check tries of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from client import self_check, trial
from client.policy import Refused
from client.train import training_of
from client.trial import Trial
from common.augmentation import Augmentation
from common.compose import compose
from common.curriculum import Stage, first_rounds, stage_in, trains
from common.objectives import MaskedTokens, Part, TaskLoss
from simulations.run import Prepared
from tests.federation_run import prepare_toy
from tests.planted_bugs import WITH_PARTS

STAGES = tuple(
    Stage.model_validate({"name": name, "rounds": rounds}) for name, rounds in (("a", 2), ("b", 1), ("c", 3))
)
PARTS = "objective.parts=[{kind: task}, {kind: masked_tokens, modality: labs}]"
FIRST = "{name: first, rounds: 1, blocks: [encoder/labs, head], modalities: [labs], weights: {task: 1}}"
SECOND = "{name: second, rounds: 2, blocks: [fusion, restorer], weights: {masked_tokens/labs: 2}, augment: {gain: 0.1}}"


DOCS = (Path(__file__).parents[2] / "docs" / "curriculum.md").read_text()


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    settings = ("data.normalisation=none", "audit.attributes=[]", "rounds=null", PARTS)
    return prepare_toy(tmp_path_factory.mktemp("staged"), *settings, f"stages=[{FIRST},{SECOND}]")


@pytest.fixture(autouse=True)
def _each_test_tries_anew() -> Iterator[None]:
    self_check._tried.cache_clear()
    yield
    self_check._tried.cache_clear()


def test_every_round_is_in_exactly_one_stage_in_order() -> None:
    assert [stage_in(STAGES, number).name for number in range(1, 7)] == list("aabccc")
    assert first_rounds(STAGES) == (1, 3, 4)
    assert first_rounds(()) == (0,)
    assert trains(stage_in((), 99), "fusion")
    with pytest.raises(ValueError, match="end before round 7"):
        stage_in(STAGES, 7)


def test_a_stages_weights_stand_for_the_objectives_and_a_part_that_is_not_named_is_off() -> None:
    parts: tuple[Part, ...] = (
        TaskLoss.model_validate({"kind": "task", "weight": 3.0}),
        *(MaskedTokens.model_validate({"kind": "masked_tokens", "modality": name}) for name in ("ecg", "labs")),
    )
    found = Stage.model_validate(
        {"name": "a", "rounds": 1, "weights": {"masked_tokens": 2.0, "masked_tokens/ecg": 5.0}}
    )
    assert [part.weight for part in found.weighed(parts)] == [0.0, 5.0, 2.0]
    assert STAGES[0].weighed(parts) == parts


def test_a_site_takes_the_stage_from_what_it_agreed_to_and_the_rounds_number(staged: Prepared) -> None:
    first, second = (training_of(staged.config, staged.plan, round=number) for number in (1, 2))
    assert (first.reads, first.blocks) == (("labs",), ("encoder/labs", "head"))
    assert (second.reads, second.blocks) == ((), ("fusion", "restorer"))
    assert [part.weight for part in first.parts] == [1.0, 0.0]
    assert (first.hiding.pieces[0][2], second.hiding.pieces[0][2]) == (0.0, 0.3)
    assert (first.altering.is_on, second.altering.is_on) == (False, True)


def test_the_self_check_tries_every_stage(staged: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[set[str]] = []

    def watched(trial_: Trial) -> tuple[float, int]:
        tried.append({name.split(".")[0] for name, value in trial_.model.named_parameters() if value.requires_grad})
        return real(trial_)

    real = trial.check_noise
    monkeypatch.setattr(trial, "check_noise", watched)
    assert staged.plan is not None
    found = self_check.self_check(staged.config, staged.plan, honest=1)
    assert tried == [{"encoders", "heads"}, {"fusion", "parts"}]
    assert found.gradient_error < 1e-5


def test_what_is_broken_in_a_later_stage_only_is_refused_before_the_first(
    staged: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    WITH_PARTS["alterations drawn from the public seed"].plant(monkeypatch)
    assert staged.plan is not None
    with pytest.raises(Refused, match="Broken"):
        self_check.self_check(staged.config, staged.plan, honest=1)
    early = staged.config.model_copy(update={"stages": staged.config.stages[:1], "rounds": 1})
    self_check.self_check(early, staged.plan, honest=1)


def test_the_page_on_stages_names_every_key_and_its_example_is_a_run() -> None:
    assert [name for kind in (Stage, Augmentation) for name in kind.model_fields if f"`{name}`" not in DOCS] == []
    written = yaml.safe_load(DOCS.partition("```yaml")[2].partition("```")[0])
    parts = f"objective.parts={json.dumps(written['objective']['parts'])}"
    stages = f"stages={json.dumps(written['stages'])}"
    asked = ("experiment=folders", "data.root=here", "rounds=null", parts.replace('"', ""), stages.replace('"', ""))
    found = compose(asked)
    assert found.rounds == 100
    assert [stage.name for stage in found.stages] == ["alone", "aligned", "together"]
