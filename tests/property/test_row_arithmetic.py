"""One row's numbers are the same to the last bit, wherever the row stands and whoever else is there.

Libraries sum in another order for another shape, and for the last rows of a shape that fits badly. Weights chosen for
it turn such a rounding error into a difference that no clip norm and no table sensitivity accounts for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from client.dp import Clipping, clipped_sum, per_row_gradients, row_gradients
from client.evaluate import MOST_ROWS, count_table
from common.data.batch import Batch, parts_of, take
from common.fairness.table import evaluation_layout, l2_sensitivity
from common.models.attention import Block
from common.models.loss import scores
from common.models.told import Teller
from tests.captions import captions_config
from tests.example_models import EVERY_RECIPE, SCHEMA, TASK, Recipe, config_of, ragged_batch
from tests.reference_gradients import without

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = (8, 16, 24, 64)


def wide(recipe: Recipe, width: int) -> torch.nn.Module:
    from common.models.model import build_model  # noqa: PLC0415

    config = config_of(recipe)
    config = config.model_copy(update={"model": config.model.model_copy(update={"width": width})})
    model = build_model(config, SCHEMA, seed=0)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(10 * torch.randn(parameter.shape, generator=random))
    return model


def shifted(batch: Batch) -> Batch:
    """The same rows one place further on; the first is gone."""
    return take(batch, torch.arange(1, len(batch)))


def said(model: torch.nn.Module, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return torch.cat([scores(model(part)) for part in parts_of(batch, MOST_ROWS)])[: len(batch)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=str)
def test_a_rows_score_is_the_same_bits_wherever_it_stands(recipe: Recipe, width: int) -> None:
    model, batch = wide(recipe, width).eval(), ragged_batch((1,) * 150)
    assert torch.equal(said(model, batch)[1:], said(model, shifted(batch)))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=str)
def test_a_rows_gradient_is_the_same_bits_wherever_it_stands(recipe: Recipe, width: int) -> None:
    model, batch, clipping = (
        wide(recipe, width),
        ragged_batch((1,) * 128),
        Clipping(recipe.task, 0.3, 0.5, parts=recipe.all_parts),
    )
    with per_row_gradients(model):
        whole = row_gradients(model, batch, clipping)
        moved = row_gradients(model, next(parts_of(shifted(batch), 128)), clipping)
    assert torch.equal(whole[1:], moved[:-1])


IN_ANOTHER_MODE = """
import torch
from torch.nn import functional
from client.arithmetic import rows_at_once
from tests.property.test_row_arithmetic import narrow_config
torch.set_num_threads(1)
random = torch.Generator().manual_seed(3)
row, weight = torch.randn(16, generator=random), torch.randn(1, 16, generator=random)
together = [functional.linear(row.repeat(number, 1), weight)[:, 0].tolist() for number in range(1, 64)]
print(max(len(set(found)) for found in together), rows_at_once(narrow_config()))
"""


def narrow_config() -> str:
    config = config_of(Recipe())  # width 8: attention heads of 4 numbers, whose addresses are not aligned
    return config.model_copy(update={"data_schema": SCHEMA}).model_dump_json()


def in_mode(mode: str) -> tuple[int, int]:
    """In a process with this mode of MKL: different sums of one row among 1 to 63 of it, and the rows at once."""
    environment = {**os.environ, "MKL_CBWR": mode, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IN_ANOTHER_MODE]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    sums, rows = done.stdout.split()
    return int(sums), int(rows)


def test_in_the_librarys_reproducible_mode_rows_are_computed_together() -> None:
    assert in_mode("AUTO,STRICT") == (1, 128)


def test_where_a_rows_numbers_change_with_its_place_rows_are_computed_one_by_one() -> None:
    """The negative control: in its usual mode this library does sum the last rows in another order than the first."""
    sums, rows = in_mode("")
    if sums == 1:
        pytest.skip("this machine's library sums all rows in one order in its usual mode too")
    assert rows == 1


def straddling(model: torch.nn.Module) -> torch.nn.Module:
    """Set weights such that every row's logit is rounding error alone, right at the edge between two bins."""
    random = torch.Generator().manual_seed(3)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name.startswith("auxiliary") or name == "fusion.norm.weight":
                parameter.zero_()
        for _ in range(1000):
            hidden = torch.round((torch.rand(16, generator=random) - 0.5) * 190 * 16) / 16
            weight = (torch.rand(1, 16, generator=random) - 0.5) * 199
            bias = -(weight.double() @ hidden.double()).float()
            logits = functional.linear(hidden.repeat(43, 1), weight, bias)[:, 0]
            if logits[0] > 1e-6 and logits[-1] < -1e-6:
                break
        parameters["fusion.norm.bias"].copy_(hidden)
        parameters[f"heads.<{TASK}>.project.weight"].copy_(weight)
        parameters[f"heads.<{TASK}>.project.bias"].copy_(bias)
    return model


@pytest.mark.parametrize("number", [23, 24, 42, 43, 44, 64, 65])
def test_hostile_weights_move_the_table_by_no_more_than_its_sensitivity(number: int) -> None:
    model = straddling(wide(Recipe(), 16)).eval()
    batch, layout = ragged_batch((1,) * number), evaluation_layout(SCHEMA, task=TASK, bins=10)
    table = count_table(model, batch, layout)
    for subject in range(number):
        moved = float(np.linalg.norm(table - count_table(model, without(batch, subject), layout)))
        assert moved <= l2_sensitivity(layout) * (1 + 1e-12)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_a_row_writes_next_is_the_same_bits_wherever_it_stands(width: int) -> None:
    size = captions_config().model.model_copy(update={"width": width})
    with torch.random.fork_rng():
        torch.manual_seed(2)
        teller, tokens = Teller(size, layers=2, length=33).eval(), 10 * torch.randn(33, MOST_ROWS + 1, 1, width)
    layer = cast("Block", teller.layers[0])
    with torch.inference_mode():
        first = moved = None
        for token in tokens:
            here, first = layer.one_more(token[:-1], first)
            there, moved = layer.one_more(token[1:], moved)
            said, again = (teller.next(teller.norm(row[:, 0])) for row in (here, there))
            assert torch.equal(here[1:], there[:-1])
            assert torch.equal(said[1:], again[:-1])
        assert torch.equal(teller.write(tokens[0, :-1, 0])[1:], teller.write(tokens[0, 1:, 0])[:-1])


@pytest.mark.parametrize("number", [7, 8, 43, 129])
def test_hostile_weights_move_the_clipped_sum_by_no_more_than_the_clip_norm(number: int) -> None:
    model, batch = straddling(wide(Recipe(), 16)), ragged_batch((1,) * number)
    clipping = Clipping(TASK, 0.3, 0.5)
    with per_row_gradients(model):
        whole = clipped_sum(model, batch, clipping).gradients
        for subject in (0, number // 2, number - 1):
            rest = clipped_sum(model, without(batch, subject), clipping).gradients
            moved = torch.cat([(whole[name] - rest[name]).ravel() for name in whole]).norm()
            assert moved <= clipping.clip_norm * (1 + 1e-9)
