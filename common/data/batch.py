"""One batch: every modality of the schema, whoever lacks what. A missing modality is an all-False mask over zeros."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from common.data.folder import SiteData
from common.data.labels import model_labels, unknown_labels
from common.data.modalities import ModalitySpec, TabularSpec
from common.data.normalise import Normaliser, features
from common.data.readings import NUM_TOKENS, Readings, is_tokens, scaled, step_shape, steps_per_second
from common.data.schema import Schema


@dataclass(frozen=True)
class Batch:
    """Rows of one site, ready for the model.

    Attributes:
        values: by modality, [batch, time, ...]; zeros where the mask is False. A table float32 [batch, 1, feature], an
            image float32 [batch, 1, channel, height, width], a text int64 [batch, token], a sound float32 [batch,
            sample], a signal float32 [batch, sample, channel].
        mask: by modality, bool [batch, time].
        seconds: by modality, float32 [batch, time]; when each step was measured, 0 for tables, images and texts.
        labels: by task, as `labels.model_labels` says: int64 [batch] or [batch, label] with -1 for unknown, or float32
            [batch] with NaN.
        attributes: by attribute, int64 [batch]; -1: unknown.
        subjects: int64 [batch], the row's subject: an index that has a meaning within this site only.
        encoded: by modality with a frozen encoder or a pretrained network, float32 [batch, token, feature]: what that
            says, computed once a record.
        hidden: by modality, bool [batch, piece]: which pieces (common/data/pieces.py) training hides and asks for.
    """

    values: dict[str, Tensor]
    mask: dict[str, Tensor]
    seconds: dict[str, Tensor]
    labels: dict[str, Tensor]
    attributes: dict[str, Tensor]
    subjects: Tensor
    encoded: dict[str, Tensor] = field(default_factory=dict)
    hidden: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.subjects)


def assemble(site: SiteData, schema: Schema, normaliser: Normaliser, rows: np.ndarray) -> Batch:
    """Put rows [row] of a site into a batch with all modalities of the schema, held or not."""
    values: dict[str, Tensor] = {}
    mask: dict[str, Tensor] = {}
    seconds: dict[str, Tensor] = {}
    for name, spec in schema.modalities.items():
        steps = torch.arange(spec.num_steps)
        if name in site.readings:
            some = site.readings[name].only(rows)
            mask[name] = steps < torch.from_numpy(some.lengths).unsqueeze(1)
            seconds[name] = (torch.from_numpy(some.starts).unsqueeze(1) + steps / steps_per_second(spec)).float()
            values[name] = masked(_inputs(some, name, spec, normaliser), mask[name])
        else:
            values[name] = no_values(spec, len(rows))
            mask[name] = torch.zeros(len(rows), spec.num_steps, dtype=torch.bool)
            seconds[name] = torch.zeros(len(rows), spec.num_steps)
    number = len(site.row_subject)
    unknown = np.full(number, -1, dtype=np.int64)
    labels = {name: site.labels.get(name, unknown_labels(task, number))[rows] for name, task in schema.tasks.items()}
    return Batch(
        values=values,
        mask=mask,
        seconds=seconds,
        labels={name: model_labels(labels[name], task) for name, task in schema.tasks.items()},
        attributes={name: torch.from_numpy(site.attributes.get(name, unknown)[rows]) for name in schema.attributes},
        subjects=torch.from_numpy(site.row_subject[rows]),
    )


def no_values(spec: ModalitySpec, rows: int) -> Tensor:
    """What a model gets of a modality that nobody has: zeros [row, time, ...]."""
    kind = torch.int64 if is_tokens(spec) else torch.float32
    return torch.zeros(rows, spec.num_steps, *step_shape(spec), dtype=kind)


def example_values(spec: ModalitySpec, rows: int, random: torch.Generator) -> Tensor:
    """Values of nobody, [row, time, ...]: normal, or any tokens."""
    shape = (rows, spec.num_steps, *step_shape(spec))
    if is_tokens(spec):
        return torch.randint(NUM_TOKENS, shape, generator=random)
    return torch.randn(shape, generator=random)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Set values [batch, time, ...] to zero where the mask [batch, time] is False."""
    return values.masked_fill(~mask.view(*mask.shape, *(1,) * (values.dim() - mask.dim())), 0)


def _inputs(readings: Readings, name: str, spec: ModalitySpec, normaliser: Normaliser) -> Tensor:
    if isinstance(spec, TabularSpec):
        return torch.from_numpy(features(readings.values, name, spec, normaliser)).unsqueeze(1)
    return torch.from_numpy(scaled(readings.values, spec))


def hide(batch: Batch, keep: Collection[str]) -> Batch:
    """Give the same rows with only these modalities in sight; shapes stay.

    Raises:
        ValueError: a modality to keep is not in the batch.
    """
    unknown = sorted(set(keep) - set(batch.values))
    if unknown:
        raise ValueError(f"cannot keep {', '.join(unknown)}: the batch has {', '.join(batch.values)}")
    values = {name: value if name in keep else torch.zeros_like(value) for name, value in batch.values.items()}
    mask = {name: seen if name in keep else torch.zeros_like(seen) for name, seen in batch.mask.items()}
    return replace(batch, values=values, mask=mask)


NOBODY = -1
"""The subject of a row that only fills up a part of fixed shape."""


def parts_of(batch: Batch, rows: int) -> Iterator[Batch]:
    """Cut a batch into parts of exactly `rows` rows each, in order; rows of nobody fill up the last.

    Libraries choose how to compute by the shape of what they get, and sums in another order round otherwise. With one
    shape for all parts, one row more or less in the batch changes no other row's arithmetic.

    Guarantees:
        filled by nobody: filling rows lack every modality, label and attribute, and their subject is NOBODY.
        empty: a batch without rows has no parts.
    """
    for start in range(0, len(batch), rows):
        part = take(batch, torch.arange(start, min(start + rows, len(batch))))
        yield _filled(part, rows - len(part)) if len(part) < rows else part


def nobodys_row(batch: Batch) -> Batch:
    """A batch of one row that lacks everything, shaped like the rows of this batch."""
    return _filled(take(batch, torch.arange(0)), 1)


def _filled(batch: Batch, number: int) -> Batch:
    def with_rows(tensors: dict[str, Tensor], value: float) -> dict[str, Tensor]:
        return {name: torch.cat([tensor, _rows(tensor, number, value)]) for name, tensor in tensors.items()}

    return Batch(
        values=with_rows(batch.values, 0.0),
        mask=with_rows(batch.mask, 0),
        seconds=with_rows(batch.seconds, 0.0),
        labels={name: _filled_labels(label, number) for name, label in batch.labels.items()},
        attributes=with_rows(batch.attributes, -1),
        subjects=torch.cat([batch.subjects, _rows(batch.subjects, number, NOBODY)]),
        encoded=with_rows(batch.encoded, 0.0),
        hidden=with_rows(batch.hidden, 0),
    )


def _filled_labels(labels: Tensor, number: int) -> Tensor:
    return torch.cat([labels, _rows(labels, number, float("nan") if labels.is_floating_point() else -1)])


def _rows(like: Tensor, number: int, value: float) -> Tensor:
    return torch.full((number, *like.shape[1:]), value, dtype=like.dtype)


def take(batch: Batch, rows: Tensor) -> Batch:
    """Give these rows: int64 [row] indices, in this order, or bool [batch]."""
    return Batch(
        values={name: value[rows] for name, value in batch.values.items()},
        mask={name: seen[rows] for name, seen in batch.mask.items()},
        seconds={name: when[rows] for name, when in batch.seconds.items()},
        labels={name: label[rows] for name, label in batch.labels.items()},
        attributes={name: level[rows] for name, level in batch.attributes.items()},
        subjects=batch.subjects[rows],
        encoded={name: tokens[rows] for name, tokens in batch.encoded.items()},
        hidden={name: pieces[rows] for name, pieces in batch.hidden.items()},
    )
