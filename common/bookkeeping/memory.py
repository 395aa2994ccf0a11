"""Memory for per-row gradients that is used again from step to step: to get it anew takes as long as to fill it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import get_ident

import torch
from torch import Tensor

_KEPT_BYTES = 31 << 20  # it learns from nothing above 32 MiB
_Key = tuple[tuple[int, ...], torch.dtype]


@dataclass(frozen=True)
class _Buffers:
    free: dict[_Key, list[Tensor]] = field(default_factory=dict)
    lent: list[Tensor] = field(default_factory=list)
    thread: int = field(default_factory=get_ident)


_buffers: ContextVar[_Buffers | None] = ContextVar("buffers", default=None)


@contextmanager
def reused_memory() -> Iterator[None]:
    """Keep the memory of the parts inside for the next one; it holds private numbers, and goes with the context."""
    # glibc gives memory back to the system, and gets it again page by page, in pieces above what it saw freed at once.
    torch.empty(_KEPT_BYTES, dtype=torch.uint8)
    before = _buffers.set(_Buffers())
    try:
        yield
    finally:
        _buffers.reset(before)


def _own() -> _Buffers | None:
    """What is kept here; a thread that was given a copy of the context would write where another one reads."""
    kept = _buffers.get()
    return kept if kept is not None and kept.thread == get_ident() else None


def buffer(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory to be overwritten as a whole, with anything in it; the part's own until the next `begin_part`."""
    kept = _own()
    if kept is None:
        return torch.empty(shape, dtype=dtype)
    waiting = kept.free.get((shape, dtype))
    found = waiting.pop() if waiting else torch.empty(shape, dtype=dtype)
    kept.lent.append(found)
    return found


def begin_part() -> None:
    """Take back what was lent to the part before."""
    kept = _own()
    if kept is not None:
        for found in kept.lent:
            kept.free.setdefault((tuple(found.shape), found.dtype), []).append(found)
        kept.lent.clear()
