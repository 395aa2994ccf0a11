"""Every model that the project can build passes its site's trial: a false no would stop a run that is in order."""

from __future__ import annotations

import pytest
import torch

from client import trial
from client.arithmetic import rows_at_once
from client.train import training_of
from common.config import Config
from common.privacy.plan import PrivacyPlan
from tests.example_models import EVERY_RECIPE, SCHEMA, Recipe, config_of


def config_with_schema(recipe: Recipe, *, width: int = 8, layers: int = 1) -> Config:
    config = config_of(recipe)
    model = config.model.model_copy(update={"width": width, "layers": layers, "heads": 2, "feedforward": 2 * width})
    return config.model_copy(update={"data_schema": SCHEMA, "model": model})


def with_rate(config: Config, learning_rate: float) -> Config:
    objective = config.objective.model_copy(update={"learning_rate": learning_rate})
    return config.model_copy(update={"objective": objective})


def try_all(config: Config, plan: PrivacyPlan) -> float:
    training = training_of(config, plan, rows=rows_at_once(config.model_dump_json()))
    tried = trial.trial_of(config, training, 1)
    trial.check_bounded(tried)
    trial.check_not_finite(tried)
    trial.check_noise(tried)
    trial.check_sampling(tried, training)
    trial.check_round(tried)
    trial.check_moves(tried, training)
    trial.check_saved(config, tried.model)
    return trial.check_gradients(tried)


@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=str)
def test_every_model_of_the_project_passes(recipe: Recipe) -> None:
    assert try_all(config_with_schema(recipe), PrivacyPlan(8.0, 1e-3, 0.5, 1.3, 0.4, 1, 10, 7.0, ())) < 1e-5


@pytest.mark.parametrize("clip_norm", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("noise_multiplier", [0.05, 1e4])
def test_plans_at_the_ends_of_what_is_allowed_pass(clip_norm: float, noise_multiplier: float) -> None:
    plan = PrivacyPlan(8.0, 1e-3, clip_norm, noise_multiplier, 1e-3, 1, 10, 1.0, ())
    assert try_all(with_rate(config_with_schema(Recipe()), 1 / clip_norm), plan) < 1e-5


def test_a_learning_rate_at_which_nothing_moves_is_a_no() -> None:
    plan = PrivacyPlan(8.0, 1e-3, 0.5, 1.3, 1.0, 1, 10, 7.0, ())
    with pytest.raises(trial.Broken, match=r"does not move, at a learning rate of 1e-12"):
        try_all(with_rate(config_with_schema(Recipe()), 1e-12), plan)


def test_a_deeper_model_passes() -> None:
    plan = PrivacyPlan(8.0, 1e-3, 1.0, 1.0, 1.0, 1, 10, 100.0, ())
    assert try_all(config_with_schema(Recipe(fusion="early"), width=32, layers=5), plan) < 1e-5


def test_a_trial_leaves_the_experiments_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    try_all(config_with_schema(Recipe(kind="additive")), PrivacyPlan(8.0, 1e-3, 0.5, 1.3, 1.0, 1, 10, 7.0, ()))
    assert torch.equal(before, torch.random.get_rng_state())
