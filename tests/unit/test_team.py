"""Several processes of a site: what one gives, subject by subject, and nothing of them stays."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import active_children

import numpy as np
import pytest
import torch

from client.dp import shares_of, whole_subjects
from client.site import site_of
from client.team import side_by_side
from client.train import LocalTraining, one_process, train_round
from common.privacy import noise as privacy_noise
from tests.encoder_models import ENCODER_CASES, built
from tests.example_models import EVERY_RECIPE, Recipe, model_of, part_of, ragged_batch
from tests.unit.test_train import flat, plan_of, training_of

SUBJECTS = (2, 1, 3, 1, 7, 1, 1, 2, 1, 4)


def update_of(training: LocalTraining, recipe: Recipe = Recipe(), *, seed: int = 0) -> np.ndarray:  # noqa: B008
    noise = privacy_noise.test_noise(seed, "here", 0, "training")
    return flat(train_round(model_of(recipe), ragged_batch(SUBJECTS), training, noise))


def private(processes: int, *, noise_multiplier: float = 1.0, rows: int = 4) -> LocalTraining:
    plan = plan_of(noise_multiplier=noise_multiplier, sampling_rate=0.7, steps=2)
    return replace(training_of(plan, steps=2), modality_dropout=0.3, rows=rows, processes=processes)


def plain(processes: int, *, rows: int = 4) -> LocalTraining:
    return replace(training_of(None, steps=3), batch_subjects=8, modality_dropout=0.3, rows=rows, processes=processes)


def test_two_processes_give_a_private_rounds_update_of_one() -> None:
    """With noise: it is the same, so it was added once."""
    np.testing.assert_allclose(update_of(private(2)), update_of(private(1)), rtol=0, atol=1e-7)
    assert not active_children()


@pytest.mark.slow
@pytest.mark.parametrize("make", [private, plain])
@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_gives_what_one_gives(make: Callable[[int], LocalTraining], processes: int) -> None:
    found = update_of(make(processes))
    np.testing.assert_allclose(found, update_of(make(1)), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found, update_of(make(processes)))


@pytest.mark.slow
def test_opacus_adds_up_in_several_processes_too() -> None:
    found = [update_of(replace(private(processes), engine="opacus")) for processes in (1, 2)]
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [private, plain])
def test_a_large_step_is_computed_in_parts_and_is_the_same_step(make: Callable[..., LocalTraining]) -> None:
    np.testing.assert_allclose(update_of(make(1, rows=2)), update_of(make(1, rows=64)), rtol=0, atol=1e-6)


def test_an_objective_that_compares_rows_stays_in_one_process() -> None:
    recipe = Recipe(parts=(part_of(kind="infonce", modalities=["labs", "ecg", "note"]),))
    training = replace(plain(2), parts=recipe.all_parts)
    np.testing.assert_array_equal(update_of(training, recipe), update_of(replace(training, processes=1), recipe))


@pytest.mark.parametrize("number", [1, 2, 3, 20])
def test_shares_keep_every_subject_whole_and_are_as_long_as_parts_make_them(number: int) -> None:
    batch, rows = ragged_batch(SUBJECTS), 4
    shares = shares_of(batch, rows, number)
    held = [set(share.subjects.tolist()) for share in shares]
    assert sum(map(len, held)) == len(set.union(*held)) == len(SUBJECTS)
    assert sum(map(len, shares)) == len(batch)
    most = max(len(list(whole_subjects(share.subjects, rows))) for share in shares)
    assert most <= -(-len(list(whole_subjects(batch.subjects, rows))) // number)


def test_every_model_travels() -> None:
    models = [model_of(recipe) for recipe in EVERY_RECIPE] + [built(name, Recipe()).model for name in ENCODER_CASES]
    for model in models:
        other = pickle.loads(pickle.dumps(model))  # noqa: S301  (our own bytes)
        assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.slow
def test_a_process_that_fails_says_why_and_one_that_is_killed_fails_the_sum() -> None:
    model, batch = model_of(Recipe()), ragged_batch((1, 1))
    broken = partial(one_process, training=replace(private(1), task="nobody"))
    with side_by_side(model, broken, 1) as add_up, pytest.raises(RuntimeError, match="KeyError: 'nobody'"):
        add_up([batch])
    assert not active_children()
    with side_by_side(model, partial(one_process, training=private(1)), 1) as add_up:
        assert add_up([batch])
        [process] = active_children()
        process.kill()
        with pytest.raises(RuntimeError, match="a training process is gone"):
            add_up([batch])
    assert not active_children()


_PARENT = """
import sys, time
from functools import partial
from multiprocessing import active_children
from client.team import side_by_side
from client.train import one_process
from tests.example_models import Recipe, model_of, ragged_batch
from tests.unit.test_team import private
if __name__ == "__main__":
    with side_by_side(model_of(Recipe()), partial(one_process, training=private(1)), 1) as add_up:
        add_up([ragged_batch((1, 1))])
        print(active_children()[0].pid, flush=True)
        time.sleep(600)
"""


@pytest.mark.slow
def test_processes_whose_parent_is_killed_are_gone() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not _runs(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("it went on without its parent")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [0, 65, "2", 1.5])
def test_a_node_that_names_no_number_of_processes_is_refused(number: object) -> None:
    node = {"site-name": "a", "site-folder": "data", "site-state": "state"}
    assert (site_of(node).processes, site_of({**node, "site-processes": 3}).processes) == (1, 3)
    with pytest.raises(ValueError, match="site-processes must be a number from 1 to 64"):
        site_of({**node, "site-processes": number})
