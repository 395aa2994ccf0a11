"""How numbers are written in reports."""

from __future__ import annotations

from datetime import UTC, datetime

from common.metrics.figure import Figure

NOT_KNOWN = "not measured"
CANNOT = "cannot be said"
SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return NOT_KNOWN if value is None else f"{100 * value:.0f}{SPACE}%"


def points(value: float) -> str:
    """A difference of shares."""
    number = f"{100 * value:.0f}"
    return f"{number}{SPACE}point{'' if number == '1' else 's'}"


def decimal(value: float | None, digits: int = 2) -> str:
    """A plain number."""
    return NOT_KNOWN if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def epsilon(value: float | None) -> str:
    """A privacy figure; rounded up, so that it never promises more than it should."""
    if value is None:
        return "none"
    hundredths = int(value * 100)
    return f"{(hundredths + (hundredths < value * 100 - 1e-6)) / 100:.2f}"


def remaining(value: float) -> str:
    """What is left of a budget; rounded down, for the same reason."""
    return f"{int(max(value, 0.0) * 100 + 1e-6) / 100:.2f}"


def plain(value: float | None) -> str:
    """A number without needless digits; tiny ones as powers of ten."""
    if value is None:
        return "none"
    return f"{value:.4g}".replace("e-0", "e-").replace("-", MINUS)


def percent_figure(figure: Figure | None) -> str:
    """A share with its interval."""
    if figure is None or figure.value is None:
        return CANNOT
    if figure.low is None or figure.high is None:
        return percent(figure.value)
    return f"{100 * figure.value:.0f}{SPACE}% ({100 * figure.low:.0f} to {100 * figure.high:.0f})"


def decimal_figure(figure: Figure | None) -> str:
    """A plain number with its interval."""
    if figure is None or figure.value is None:
        return CANNOT
    if figure.low is None or figure.high is None:
        return decimal(figure.value)
    return f"{decimal(figure.value)} ({decimal(figure.low)} to {decimal(figure.high)})"


def count_figure(figure: Figure) -> str:
    """A noised count."""
    return CANNOT if figure.value is None else f"about{SPACE}{max(figure.value, 0):.0f}"


def moment(text: str) -> str:
    """A time as a reader writes it; what is no ISO 8601 time stays as it is."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
    except ValueError:
        return text


def size(num_bytes: int) -> str:
    """Bytes in units that a reader knows."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:  # noqa: PLR2004
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
