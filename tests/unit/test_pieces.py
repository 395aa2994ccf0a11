"""What is hidden of a record says nothing any more, and what is asked for is what was hidden, kind by kind."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from common.data.batch import example_values
from common.data.modalities import ModalitySpec
from common.data.pieces import answer_width, hide_pieces, num_pieces, pieces_of
from common.data.readings import is_tokens

SPECS = {
    "text": {"kind": "text", "column": "note", "max_tokens": 11},
    "table": {"kind": "tabular", "columns": ["a", "b"], "categorical": {"c": ["x", "y"]}},
    "image": {"kind": "image", "column": "path", "size": [19, 24], "channels": 3},
    "sound": {"kind": "audio", "column": "path", "sample_rate": 1000, "seconds": 0.3},
    "signal": {"kind": "signal", "column": "path", "sample_rate": 100, "channels": ["x", "y"], "seconds": 0.5},
}


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> ModalitySpec:
    return TypeAdapter[ModalitySpec](ModalitySpec).validate_python(SPECS[request.param])


def example(spec: ModalitySpec) -> tuple[Tensor, Tensor]:
    values = example_values(spec, 2, torch.Generator().manual_seed(0))
    return values, torch.ones(values.shape[:2], dtype=torch.bool)


def test_pieces_have_the_public_number_and_width(spec: ModalitySpec) -> None:
    pieces = pieces_of(*example(spec), spec)
    assert pieces.there.shape == (2, num_pieces(spec))
    if not is_tokens(spec):
        assert pieces.target.shape == (2, num_pieces(spec), answer_width(spec))


def test_what_is_hidden_is_exactly_one_piece(spec: ModalitySpec) -> None:
    values, mask = example(spec)
    before = pieces_of(values, mask, spec).target
    for piece in range(num_pieces(spec)):
        hidden = torch.zeros(2, num_pieces(spec), dtype=torch.bool)
        hidden[0, piece] = True
        shown = hide_pieces(values, hidden, spec)
        after = pieces_of(shown, mask, spec).target
        changed = (after != before).reshape(2, num_pieces(spec), -1).any(dim=2)
        assert torch.equal(changed, hidden), "one row, one piece"
        other = torch.where(shown == values, values, example_values(spec, 2, torch.Generator().manual_seed(1)))
        assert torch.equal(hide_pieces(other, hidden, spec), shown), "and nothing of it shines through"


def test_what_is_not_there_is_not_asked_for(spec: ModalitySpec) -> None:
    values, mask = example(spec)
    assert not pieces_of(torch.zeros_like(values), torch.zeros_like(mask), spec).there.any()
    half = torch.arange(mask.shape[1]) < (mask.shape[1] + 1) // 2
    there = pieces_of(values * half.view(1, -1, *(1,) * (values.dim() - 2)), mask & half, spec).there
    if mask.shape[1] > 1:
        assert there[:, 0].all()
        assert not there[:, -1].any()
