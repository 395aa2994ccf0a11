"""Norms that decide how far a subject is clipped: never too small, the same bits wherever a row stands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.bookkeeping.pieces import squares_of

WIDTHS = (1, 255, 256, 1000, 4096)
SCALES = (1e-30, 1e-21, 1e-15, 1.0, 1e15, 1e25)


def exact(vectors: Tensor) -> Tensor:
    """The true squared norms, but for 1e-13 of them."""
    norms: Tensor = torch.linalg.vector_norm(vectors.double(), dim=1)
    return norms.square()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scale", SCALES)
def test_a_squared_norm_is_not_too_small_and_hardly_too_large(width: int, scale: float) -> None:
    vectors = torch.randn(64, width, generator=torch.Generator().manual_seed(width)) * scale
    found, true = squares_of(vectors), exact(vectors)
    assert (found >= true * (1 - 1e-12)).all()
    assert (found <= true * (1 + 9e-6) + width * 2.0**-125).all()


def test_float32_alone_would_be_too_small() -> None:
    """The control: without the margin, and with all squares added up in float32, this test's rows are too small."""
    vectors = torch.randn(64, 4096, generator=torch.Generator().manual_seed(4096))
    assert (vectors.square().cumsum(dim=1)[:, -1].double() < exact(vectors) * (1 - 1e-12)).any()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_rows_norm_is_the_same_bits_at_every_place_beside_whatever_stands_there(width: int) -> None:
    vectors = torch.randn(32, width, generator=torch.Generator().manual_seed(1))
    everywhere = squares_of(vectors)
    for shift in (1, 5, 30):
        assert torch.equal(torch.roll(squares_of(torch.roll(vectors, shift, 0)), -shift, 0), everywhere)
    others = torch.full_like(vectors, float("inf"))
    others[7] = vectors[7]
    assert squares_of(others)[7] == everywhere[7]


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_that_is_not_finite_has_no_finite_norm(width: int, bad: float) -> None:
    vectors = torch.zeros(3, width)
    vectors[1, width // 2] = bad
    assert torch.isfinite(squares_of(vectors)).tolist() == [True, False, True]
