"""One figure with its interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval; without a value, the reason why it cannot be said."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""
