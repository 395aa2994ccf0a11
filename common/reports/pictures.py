"""Pictures as inline SVG: curves over rounds, and dots with their intervals. No script, no font, no file beside them.

Matplotlib is imported when a picture is drawn, not before: it takes half a second, and a command has to be quick.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.metrics.figure import Figure
from common.reports.palette import EXACT, FAINT, INK, RELEASED, SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedmosaic",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e4e9ed",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}
_INCHES_WIDE = 7.6
_COHORTS = {"train": RELEASED, "valid": SECOND, "test": EXACT}
_FEW_NAMES = 4


@dataclass(frozen=True)
class Line:
    """One curve: y where it is known, over x."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """One place in a column of dots: an interval with its value, and an exact value where the simulator has one."""

    figure: Figure
    exact: float | None = None
    colour: str = RELEASED


@dataclass(frozen=True)
class Column:
    """One panel of a dot chart; `dots` stand in the order of the chart's rows; `mark` is a line to compare with."""

    title: str
    label: str
    dots: tuple[Dot, ...]
    limits: tuple[float, float]
    percent: bool = False
    mark: float | None = None


def curve_chart(lines: Sequence[Line], *, name: str, x_label: str, y_label: str) -> str:
    """Draw curves that share one y axis, each labelled at its end."""
    with _canvas(2.7) as canvas:
        axes = canvas.subplots()
        for line in lines:
            style = "--" if line.dashed else "-"
            axes.plot(line.x, line.y, style, color=line.colour, linewidth=1.8, solid_capstyle="round")
            if line.x:
                text = f"{line.label} {line.y[-1]:.2f}"
                axes.annotate(
                    text, (line.x[-1], line.y[-1]), (6, 0), textcoords="offset points", va="center", color=line.colour
                )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.01, y=0.12)
        _whole_numbers(axes)
        return _svg(canvas, name)


def dot_chart(rows: Sequence[str], columns: Sequence[Column], *, name: str, separate: Sequence[int] = ()) -> str:
    """Draw dots with intervals: one row per thing, one panel per column; `separate` are rows with a rule above them.

    A figure without a value is drawn as the words "cannot be said", never as a dot at zero.
    """
    with _canvas(0.95 + 0.27 * len(rows)) as canvas:
        panels = canvas.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(panels, columns, strict=True):
            for place, dot in enumerate(column.dots):
                _draw_dot(axes, place, dot, column)
            _frame(axes, column, len(rows))
            for row in separate:
                axes.axhline(row - 0.5, color=FAINT, linewidth=0.7)
        panels[0].set_yticks(range(len(rows)), rows)
        return _svg(canvas, name)


def pattern_chart(names: Sequence[str], patterns: Mapping[tuple[str, ...], Mapping[str, int]], *, name: str) -> str:
    """Draw which of several things come together, one row a combination, and bars for how often, by cohort."""
    with _canvas(1.2 + 0.24 * len(patterns)) as canvas:
        share = max(0.25, min(0.5, 0.08 * len(names)))
        matrix, counts = canvas.subplots(1, 2, sharey=True, width_ratios=(share, 1 - share))
        for place, pattern in enumerate(patterns):
            for column, thing in enumerate(names):
                there = thing in pattern
                matrix.plot(column, place, "o", color=RELEASED if there else "#e4e9ed", markersize=8)
        matrix.set_xticks(range(len(names)), names, rotation=90 if len(names) > _FEW_NAMES else 0)
        matrix.set_xlim(-0.6, len(names) - 0.4)
        matrix.xaxis.tick_top()
        matrix.tick_params(length=0)
        matrix.grid(visible=False)
        matrix.spines[:].set_visible(False)
        _draw_counts(counts, patterns)
        matrix.set_yticks([])
        matrix.set_ylim(len(patterns) - 0.4, -0.6)
        return _svg(canvas, name)


def _draw_counts(axes: Axes, patterns: Mapping[tuple[str, ...], Mapping[str, int]]) -> None:
    cohorts = [cohort for cohort in _COHORTS if any(cohort in counts for counts in patterns.values())]
    left = [0] * len(patterns)
    for cohort in cohorts:
        widths = [counts.get(cohort, 0) for counts in patterns.values()]
        axes.barh(range(len(widths)), widths, left=left, height=0.62, color=_COHORTS[cohort], label=cohort)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        axes.annotate(str(total), (total, place), (4, 0), textcoords="offset points", va="center", size=8.5)
    axes.margins(x=0.09)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("rows")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=len(cohorts))
    _whole_numbers(axes)


def _draw_dot(axes: Axes, place: int, dot: Dot, column: Column) -> None:
    low_end, high_end = column.limits
    if dot.figure.value is None:
        if dot.exact is None:
            middle = (low_end + high_end) / 2
            axes.text(
                middle, place, "cannot be said", va="center", ha="center", style="italic", color="#6b7785", size=8.5
            )
    else:
        if dot.figure.low is not None and dot.figure.high is not None:
            ends = (max(dot.figure.low, low_end), min(dot.figure.high, high_end))
            axes.plot(ends, (place, place), color=dot.colour, linewidth=2.4, alpha=0.55, solid_capstyle="butt")
        axes.plot(dot.figure.value, place, "o", color=dot.colour, markersize=5.5, clip_on=False)
    if dot.exact is not None:
        axes.plot(dot.exact, place, "D", color="white", markeredgecolor=EXACT, markeredgewidth=1.3, markersize=4.6)


def _frame(axes: Axes, column: Column, rows: int) -> None:
    axes.set_title(column.title, pad=8)
    axes.set_xlabel(column.label)
    axes.set_xlim(*column.limits)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    if column.mark is not None:
        axes.axvline(column.mark, color=INK, linewidth=0.9, linestyle=(0, (3, 3)), zorder=0)
    if column.percent:
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  (see the module's docstring)

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@contextmanager
def _canvas(inches_high: float) -> Iterator[Canvas]:
    """A figure in our style, bound to no window and to no global state."""
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure as NewCanvas  # noqa: PLC0415
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    with rc_context(_STYLE):  # type: ignore[arg-type]  # its stub wants the keys as literals
        yield NewCanvas(figsize=(_INCHES_WIDE, inches_high), layout=ConstrainedLayoutEngine(wspace=0.07))


def _svg(canvas: Canvas, name: str) -> str:
    """The figure as an SVG element whose ids start with `name`, so that two pictures of a page never share one."""
    buffer = io.StringIO()
    canvas.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
    )
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(
        r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        r'<svg viewBox="\1" xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    )
    return re.sub(r"\n\s*", "\n", text)
