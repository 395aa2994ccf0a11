"""The server's state: loading it is resuming, and optimizers carry theirs through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import ServerOptimizerConfig
from common.journal import Journal
from server.aggregate import BlockSum, mean_by_block, median_by_block
from server.optimizer import optimize
from server.state import Arrays, ServerState, averaged, load_state, save_state

KINDS = ["sgd", "adam", "adagrad"]


def _config(kind: str, lr: float = 0.1, momentum: float = 0.9) -> ServerOptimizerConfig:
    return ServerOptimizerConfig.model_validate({"kind": kind, "lr": lr, "momentum": momentum})


def _update(number: int) -> Arrays:
    rng = np.random.default_rng(number)
    return {"fusion": rng.normal(size=5).astype(np.float32), "head/a": rng.normal(size=2).astype(np.float32)}


@pytest.mark.parametrize("kind", KINDS)
def test_four_rounds_equal_two_and_save_and_load_and_two(kind: str, tmp_path: Path) -> None:
    start: Arrays = {"fusion": np.zeros(5, np.float32), "head/a": np.ones(2, np.float32)}
    weights, state = start, Arrays()
    for number in range(4):
        weights, state = optimize(weights, _update(number), state, _config(kind))
    half, kept = start, Arrays()
    for number in range(2):
        half, kept = optimize(half, _update(number), kept, _config(kind))
    save_state(averaged(ServerState(round=2, weights=half, optimizer=kept)), tmp_path / "state.safetensors")
    loaded = load_state(tmp_path / "state.safetensors")
    assert loaded is not None
    assert (loaded.round, loaded.averaged) == (2, 1)
    half, kept = loaded.weights, loaded.optimizer
    for number in range(2, 4):
        half, kept = optimize(half, _update(number), kept, _config(kind))
    for name in start:
        np.testing.assert_array_equal(half[name], weights[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_the_one_of_torch_optim(kind: str) -> None:
    config = _config(kind)
    tensor = torch.zeros(5, requires_grad=True)
    classes: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD([tensor], lr=config.lr, momentum=config.momentum),
        "adam": lambda: torch.optim.Adam([tensor], lr=config.lr, betas=(config.momentum, 0.99), eps=1e-6),
        "adagrad": lambda: torch.optim.Adagrad([tensor], lr=config.lr, eps=1e-6),
    }
    reference = classes[kind]()
    weights: Arrays = {"fusion": np.zeros(5, np.float32)}
    state: Arrays = {}
    for number in range(4):
        update = {"fusion": _update(number)["fusion"]}
        tensor.grad = torch.from_numpy(-update["fusion"])
        reference.step()
        weights, state = optimize(weights, update, state, config)
    np.testing.assert_allclose(weights["fusion"], tensor.detach().numpy(), rtol=1e-6)


def test_sgd_with_rate_one_is_federated_averaging() -> None:
    weights: Arrays = {"fusion": np.full(3, 2.0, np.float32)}
    moved, _ = optimize(weights, {"fusion": np.array([1.0, -1.0, 0.5])}, {}, _config("sgd", lr=1.0, momentum=0.0))
    np.testing.assert_allclose(moved["fusion"], [3.0, 1.0, 2.5])


def test_a_block_without_an_update_stays_as_it_is() -> None:
    weights: Arrays = {"fusion": np.ones(5, np.float32), "head/a": np.ones(2, np.float32)}
    moved, state = optimize(weights, {"fusion": np.ones(5)}, {}, _config("adam"))
    np.testing.assert_array_equal(moved["head/a"], weights["head/a"])
    assert not any(key.endswith("@head/a") for key in state)


def test_a_block_is_divided_by_those_who_hold_it() -> None:
    sums = {
        "fusion": BlockSum(np.array([4.0]), 4.0, ("a", "b", "c", "d")),
        "encoder/x": BlockSum(np.array([3.0]), 3.0, ("a", "b", "c")),
    }
    assert {name: float(mean[0]) for name, mean in mean_by_block(sums).items()} == {"fusion": 1.0, "encoder/x": 1.0}


def test_a_median_is_taken_by_coordinate() -> None:
    updates = {"fusion": [np.array([0.0, 9.0]), np.array([1.0, 1.0]), np.array([50.0, 2.0])]}
    np.testing.assert_array_equal(median_by_block(updates)["fusion"], [1.0, 2.0])


def test_no_state_is_no_round(tmp_path: Path) -> None:
    assert load_state(tmp_path / "none.safetensors") is None


def test_a_repeated_round_replaces_its_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.record("round", 1, {"sites": ["a"]})
    journal.record("round", 1, {"sites": ["a", "b"]})
    assert [event.facts["sites"] for event in journal.events("round")] == [["a", "b"]]
    journal.keep_model(1, {"fusion": np.ones(2, np.float32)})
    assert [number for number, _ in journal.models()] == [1]
