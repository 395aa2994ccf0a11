"""Whether this machine computes a row's numbers the same wherever the row stands, and what to do where it does not.

A linear algebra library may sum in another order for another shape, another place in a batch or another address in
memory. Who chooses the weights can blow such a rounding error up until it is larger than a clip norm or moves a subject
into another cell of a table, so that one subject's absence shows in another's numbers. Two remedies, and a test on the
machine itself: parts of one shape (`common.data.batch.parts_of`), the library's reproducible mode, and, where the test
fails all the same, one row at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from client.dp import FEWEST_ROWS, MOST_ROWS, Clipping, part_rows, per_row_gradients, row_gradients
from client.evaluate import MOST_ROWS as MOST_SCORED
from client.features import frozen_part
from client.team import threads_each
from common.compose import validate
from common.config import Config
from common.data.batch import Batch, example_values, masked, parts_of, take
from common.data.labels import example_labels
from common.data.pieces import num_pieces
from common.models.backbones.backbone import Backbone
from common.models.loss import row_losses
from common.models.model import build_model
from common.objectives import hidden
from common.releases import schema_of

_SPREAD = 1.0
_PART_BYTES = 1 << 27  # of a part's rows, and of what a model keeps of them: 128 MiB; engines take a few times as much
_SHIFTS = (1, 5, 30)


def make_reproducible() -> None:
    """Ask Intel's MKL, which PyTorch uses on x86, for sums whose order does not depend on addresses or on shapes.

    MKL reads this once, before its first sum; whoever set it already is left alone. Source: oneMKL developer guide,
    "Conditional numerical reproducibility".
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


@lru_cache(maxsize=8)
def rows_at_once(config: str, processes: int = 1) -> int:
    """Give how many rows of a run's model this machine may compute together.

    Args:
        config: the run's configuration as JSON.
        processes: how many of them compute side by side; small parts can be dealt out evenly.

    Guarantees:
        no record: the answer depends on the machine and the model's shape only; rows and weights are synthetic.
        one at least: a row that fills a part, or whose scores or gradients change with its place, is computed alone.
    """
    rows = rows_that_fit(config, processes)
    if rows == 1:
        return rows
    parsed = validate(config)
    model, clipping = synthetic_model(parsed), _clipping_of(parsed)
    with _threads(threads_each(processes)):
        found = [one for number in {rows, min(rows, MOST_SCORED)} for one in _numbers(model, parsed, clipping, number)]
    return rows if all(map(_same_everywhere, found)) else 1


@lru_cache(maxsize=8)
def rows_that_fit(config: str, processes: int = 1) -> int:
    """Give how many rows of a run's model fit into memory together: a power of two, the same for all of its records.

    Looked at are the parameters, whose gradients each row has, and what one row of nobody makes the model keep for the
    way back: a large image's maps, a long sound's spectra, every layer of a pretrained network that is adapted. The
    arguments are those of `rows_at_once`, which also asks whether they can be computed together.
    """
    parsed = validate(config)
    model = synthetic_model(parsed)
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    most = part_rows(size, most=MOST_ROWS if processes == 1 else FEWEST_ROWS)
    fitting = _PART_BYTES // processes // max(_kept_bytes(model, synthetic_batch(parsed, 1, presence=1.0), parsed), 1)
    return min(most, 1 << max(fitting, 1).bit_length() - 1)


def _kept_bytes(model: nn.Module, batch: Batch, config: Config) -> int:
    """Count the bytes of a batch, and of what the model keeps of it for the way back, its own weights left out."""
    own = {part.untyped_storage().data_ptr() for part in model.state_dict().values()}
    kept = [one.nbytes for part in (batch.values, batch.mask, batch.seconds, batch.encoded) for one in part.values()]

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append(tensor.nbytes)
        return tensor

    asked = config.objective
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        row_losses(model, batch, task=asked.task, auxiliary_weight=asked.auxiliary_weight, parts=asked.parts)
    return sum(kept)


def _clipping_of(config: Config) -> Clipping:
    asked = config.objective
    return Clipping(asked.task, asked.auxiliary_weight, 1.0, engine=config.privacy.engine, parts=asked.parts)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _numbers(model: nn.Module, config: Config, clipping: Clipping, rows: int) -> Iterator[list[Tensor]]:
    """Logits, then gradients, of the same rows at several places and in a part that is half filled up.

    Each is put back into the first order; what stands in a part's other half is left out.
    """
    batch, half = synthetic_batch(config, rows), rows // 2
    places = [torch.roll(torch.arange(rows), shift) for shift in (0, *_SHIFTS)]
    parts = [(take(batch, place), torch.argsort(place)[:half]) for place in places]
    parts.append((next(parts_of(take(batch, torch.arange(half)), rows)), torch.arange(half)))
    model.eval()
    with torch.inference_mode():
        yield [model(part).logits[order] for part, order in parts]
    with per_row_gradients(model):
        yield [row_gradients(model, part, clipping)[order] for part, order in parts]


def _same_everywhere(found: list[Tensor]) -> bool:
    bits = [one.contiguous().view(torch.uint8) for one in found]  # as bits: NaN is not equal to itself
    return all(torch.equal(bits[0], other) for other in bits[1:])


def synthetic_model(config: Config, *, spread: float = _SPREAD) -> nn.Module:
    """Build the run's model with no trained weight at a special place: they are moved by about `spread`."""
    model = build_model(config, schema_of(config), seed=config.seed)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (part for part in model.parameters() if part.requires_grad):
            parameter.add_(spread * torch.randn(parameter.shape, generator=random))
    return model


def synthetic_batch(config: Config, rows: int, *, presence: float = 1 / 2) -> Batch:
    """Make rows of nobody: random values, modalities of a row there or missing at random.

    What a pretrained network says of a record is random too: in a round it is looked up, not computed.
    """
    schema, random = schema_of(config), torch.Generator().manual_seed(1)
    values, mask = {}, {}
    for name, spec in schema.modalities.items():
        mask[name] = (torch.rand(rows, 1, generator=random) < presence).repeat(1, spec.num_steps)
        values[name] = masked(example_values(spec, rows, random), mask[name])
    labels = {name: example_labels(task, rows, random) for name, task in schema.tasks.items()}
    attributes = {name: torch.zeros(rows, dtype=torch.int64) for name in schema.attributes}
    seconds = {name: torch.zeros(seen.shape) for name, seen in mask.items()}
    encoded = {}
    for name in config.model.encoders:
        part = frozen_part(config, name)
        if part is not None and part.startswith("backbones."):
            backbone = cast("Backbone", build_model(config, schema, seed=config.seed).get_submodule(part))
            seen, _ = backbone.places(mask[name], seconds[name])
            encoded[name] = masked(torch.randn(*seen.shape, backbone.width, generator=random), seen)
    concealed = {
        name: torch.rand(rows, num_pieces(schema.modalities[name]), generator=random) < 1 / 2
        for name in hidden(config.objective.parts)
    }
    return Batch(values, mask, seconds, labels, attributes, torch.arange(rows), encoded, concealed)
