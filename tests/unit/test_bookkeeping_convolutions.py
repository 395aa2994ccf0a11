"""A convolution's gradient of an element is that of the element alone; its bits depend on no place and no neighbour."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from common.bookkeeping.rules import element_gradients

ELEMENTS = 24  # three calls of eight

KINDS: dict[str, tuple[Callable[[], nn.Conv1d | nn.Conv2d], tuple[int, ...]]] = {
    "first of a network": (lambda: nn.Conv2d(3, 32, 3, stride=2, padding=1), (3, 32, 32)),
    "wide": (lambda: nn.Conv2d(64, 64, 3, padding=1), (64, 8, 8)),
    "one pixel": (lambda: nn.Conv2d(16, 8, 1, bias=False), (16, 8, 8)),
    "in groups": (lambda: nn.Conv2d(8, 16, (3, 2), stride=(2, 1), groups=4, dilation=(1, 2)), (8, 12, 10)),
    "same": (lambda: nn.Conv2d(4, 6, (2, 3), padding="same", dilation=2), (4, 9, 7)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 9, 7)),
    "more than it reads": (lambda: nn.Conv2d(2, 3, 3, stride=4), (2, 9, 10)),
    "series": (lambda: nn.Conv1d(8, 16, 5, stride=2, padding=2), (8, 40)),
    "series, circular": (lambda: nn.Conv1d(6, 6, 3, padding=1, padding_mode="circular", groups=6), (6, 20)),
}


def drawn(name: str) -> tuple[nn.Conv1d | nn.Conv2d, Tensor, Tensor]:
    """A layer, what it saw and the gradient of what it gave."""
    build, shape = KINDS[name]
    random = torch.Generator().manual_seed(0)
    module = build()
    seen = torch.randn(ELEMENTS, *shape, generator=random)
    return module, seen, torch.randn(module(seen).shape, generator=random)


@pytest.mark.parametrize("name", KINDS)
def test_each_elements_gradient_is_that_of_the_element_alone(name: str) -> None:
    module, seen, above = drawn(name)
    found = element_gradients(module, seen, above)
    twin = module.double()
    for element in range(ELEMENTS):
        given = twin(seen[element : element + 1].double())
        own = dict(twin.named_parameters())
        for key, true in zip(
            own, torch.autograd.grad(given, list(own.values()), above[element : element + 1].double()), strict=True
        ):
            assert torch.allclose(found[key][element].double(), true, atol=1e-5 * float(true.abs().max()) + 1e-12)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_elements_bits_depend_on_no_place_and_no_neighbour(name: str, threads: int) -> None:
    module, seen, above = drawn(name)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first = element_gradients(module, seen, above)["weight"]
        for shift in (1, 5, 11):
            there = element_gradients(module, torch.roll(seen, shift, 0), torch.roll(above, shift, 0))["weight"]
            assert torch.equal(torch.roll(there, -shift, 0), first)
        alone, above_alone = torch.full_like(seen, float("nan")), torch.full_like(above, float("inf"))
        alone[3], above_alone[3] = seen[3], above[3]
        assert torch.equal(element_gradients(module, alone, above_alone)["weight"][3], first[3])
    finally:
        torch.set_num_threads(before)
