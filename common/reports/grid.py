"""Small pictures without axes, written by hand: who took part in which round, and a budget's bar."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from common.reports.numbers import epsilon
from common.reports.palette import FAINT, RED, RELEASED
from common.reports.record import RoundRecord
from common.reports.spend import LedgerRecord

_WIDTH, _ROW, _LABEL = 760.0, 20.0, 130.0
_CELLS_APART = 80
_BARS_SHOWN, _BAR_LABEL, _FIGURE = 20, 40, 45.0


def participation(sites: Sequence[str], rounds: Sequence[RoundRecord]) -> str:
    """A row per site, a cell per round: filled where the site is in the sum, crossed where it dropped out."""
    if not rounds:
        return ""
    step = (_WIDTH - _LABEL) / len(rounds)
    gap = min(1.5, step / 5) if len(rounds) <= _CELLS_APART else 0.0
    parts: list[str] = []
    for row, site in enumerate(sites):
        top = row * _ROW + 3
        parts.append(f'<text x="0" y="{top + 12:.0f}">{escape(_short(site))}</text>')
        states = [_state(site, item) for item in rounds]
        for state, first, length in _runs(states, merge=gap == 0):
            left, width = _LABEL + first * step, max(length * step - gap, 0.8)
            parts.append(_cell(state, left, top, width))
    below = len(sites) * _ROW + 16
    for number in _ticks(len(rounds)):
        centre = _LABEL + (number - 0.5) * step
        parts.append(f'<text x="{centre:.1f}" y="{below:.0f}" text-anchor="middle">{rounds[number - 1].number}</text>')
    return _frame("".join(parts), below + 6, "Which site took part in which round")


def budget_bar(ledger: LedgerRecord) -> str:
    """One bar: spent before this run (light), by this run (dark), and left of the lifetime budget."""
    share = min(max(ledger.spent / ledger.lifetime_epsilon, 0.0), 1.0)
    before = min(max((ledger.spent_before or 0.0) / ledger.lifetime_epsilon, 0.0), share)
    body = (
        f'<rect x="0" y="0" width="{_WIDTH:.0f}" height="16" fill="#e4e9ed"/>'
        f'<rect x="0" y="0" width="{share * _WIDTH:.1f}" height="16" fill="{RELEASED if share < 1 else RED}"/>'
        f'<rect x="0" y="0" width="{before * _WIDTH:.1f}" height="16" fill="#7fb8c2"/>'
    )
    return _frame(body, 16, f"{ledger.spent:.2f} of {ledger.lifetime_epsilon:g} spent")


def bars(values: Sequence[tuple[str, float]], limit: float) -> str:
    """A row for each name: its epsilon as a bar, on a scale that ends at the budget; the last ones of many."""
    if not values:
        return ""
    shown, label = values[-_BARS_SHOWN:], 2 * _LABEL
    scale = (_WIDTH - label - _FIGURE) / max(limit, *(value for _, value in shown))
    parts = []
    for row, (name, value) in enumerate(shown):
        top, width = row * _ROW + 3, max(value * scale, 0.8)
        colour = RELEASED if value <= limit else RED
        parts.append(f'<text x="0" y="{top + 12:.0f}">{escape(_short(name, _BAR_LABEL))}</text>')
        parts.append(f'<rect x="{label:.0f}" y="{top}" width="{width:.1f}" height="15" fill="{colour}"/>')
        parts.append(f'<text x="{label + width + 6:.1f}" y="{top + 12:.0f}">{epsilon(value)}</text>')
    return _frame("".join(parts), len(shown) * _ROW + 6, f"Epsilon of each, of {limit:g}")


def _cell(state: str, left: float, top: float, width: float) -> str:
    place = f'x="{left:.1f}" y="{top:.0f}" width="{width:.1f}" height="15"'
    if state == "in":
        return f'<rect {place} fill="{RELEASED}"/>'
    if state == "dropped":
        lines = f"M{left:.1f} {top:.0f}l{width:.1f} 15m0 -15l{-width:.1f} 15"
        return f'<rect {place} fill="#fbe9e7" stroke="{RED}"/><path d="{lines}" stroke="{RED}" fill="none"/>'
    return f'<rect {place} fill="none" stroke="{FAINT}"/>'


def _state(site: str, item: RoundRecord) -> str:
    if site in item.sites:
        return "in"
    return "dropped" if site in item.dropped else "absent"


def _runs(states: Sequence[str], *, merge: bool) -> list[tuple[str, int, int]]:
    """State, first index and length; neighbours of the same state as one where asked."""
    if not merge:
        return [(state, index, 1) for index, state in enumerate(states)]
    found, start = [], 0
    for state, group in itertools.groupby(states):
        length = len(list(group))
        found.append((state, start, length))
        start += length
    return found


def _ticks(count: int) -> list[int]:
    every = max(1, round(count / 8))
    return sorted({1, *range(every, count + 1, every)})


def _short(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _frame(body: str, height: float, title: str) -> str:
    frame = f'viewBox="0 0 {_WIDTH:.0f} {height:.0f}" class="grid" role="img"'
    return f"<svg {frame}><title>{escape(title)}</title>{body}</svg>"
