"""A site tries a run's step on its own model before it agrees: with every encoder and network, it can, and passes."""

from __future__ import annotations

import pytest

from client import trial
from client.arithmetic import make_reproducible, rows_at_once
from client.train import training_of
from common.config import Config
from common.privacy.plan import PrivacyPlan
from tests.encoder_models import BACKBONE_CASES, ENCODER_CASES, config_with, config_with_backbone
from tests.example_models import Recipe

PLAN = PrivacyPlan(8.0, 1e-3, 0.5, 1.0, 1.0, 1, 10, 7.0, ())
NETWORKS = [(network, adapter) for network, (_, fitting) in BACKBONE_CASES.items() for adapter in fitting]


@pytest.mark.parametrize("encoder", ENCODER_CASES)
def test_the_step_of_every_encoder_is_tried_and_passes(encoder: str) -> None:
    passes(config_with(encoder, Recipe()))


@pytest.mark.slow
@pytest.mark.usefixtures("pretrained")
@pytest.mark.parametrize(("network", "adapter"), NETWORKS)
def test_the_step_of_every_network_and_adapter_is_tried_and_passes(network: str, adapter: str) -> None:
    passes(config_with_backbone(network, adapter, Recipe()))


def passes(config: Config) -> None:
    make_reproducible()
    training = training_of(config, PLAN, rows=rows_at_once(config.model_dump_json()))
    assert training.rows > 1, "rows do not depend on their place here"
    tried = trial.trial_of(config, training, 2)
    assert trial.check_gradients(tried) < 1e-6
    trial.check_bounded(tried)
    trial.check_not_finite(tried)
    trial.check_round(tried)
    trial.check_moves(tried, training)
    trial.check_saved(config, tried.model)
