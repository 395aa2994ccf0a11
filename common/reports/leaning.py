"""Which modality a model leans on: what leaving one out costs, and whether that is more than chance."""

from __future__ import annotations

import math

import numpy as np

from common.metrics.figure import Figure
from common.metrics.histogram import hanley_mcneil
from common.metrics.interval import Z95, combine
from common.reports.record import ExactTest, RunRecord

_WITHOUT = "without:"
_NOTICEABLE = 0.005


def leaning(record: RunRecord) -> str:
    """Say which modality the model leans on most, where the held-out people, and the noise, are enough to tell."""
    falls = _falls(record)
    if not falls:
        return ""
    most, least = (chosen(falls, key=lambda name: falls[name].value or 0.0) for chosen in (max, min))
    value, low = falls[most].value or 0.0, falls[most].low or 0.0
    measured = record.test is not None
    if low <= 0:
        people = (
            f"{record.test.num_subjects} held-out people" if record.test is not None else "these people and the noise"
        )
        return (
            f"Which modality the model leans on most cannot be told from chance with {people}: leaving out {most} "
            f"costs the AUROC most ({_change(-value)})."
        )
    return (
        f"The model leans most on {most}: without it the AUROC falls by {value:.2f}. It needs {least} least "
        f"({_change(-(falls[least].value or 0.0))}), "
        f"{'as the simulator measured it' if measured else 'as far as the noise lets us see'}."
    )


def _falls(record: RunRecord) -> dict[str, Figure]:
    """By modality, how far the AUROC falls without it."""
    if record.test is not None:
        values = {name: part.auroc for name, part in record.test.conditions.items()}
        full, reach = values.get("all"), _reach(record.test)
        return {
            name.removeprefix(_WITHOUT): Figure(full - value, full - value - reach, full - value + reach)
            for name, value in values.items()
            if name.startswith(_WITHOUT) and value is not None and full is not None
        }
    parts = record.released.conditions if record.released is not None else {}
    found = {
        name.removeprefix(_WITHOUT): combine((1.0, -1.0), (parts["all"]["auroc"], figures["auroc"]))
        for name, figures in parts.items()
        if name.startswith(_WITHOUT) and "auroc" in figures and "auroc" in parts.get("all", {})
    }
    return {name: fall for name, fall in found.items() if fall.value is not None}


def _reach(test: ExactTest) -> float:
    """How far the same people's two areas may be apart by chance, about.

    Taken from one area's error, half of the people with the condition: two areas of the same people, half of whose
    errors they share, differ by as much; where fewer have the condition it is more.
    """
    half, area = test.num_subjects / 2, np.array([test.auroc or 0.5])
    return Z95 * math.sqrt(float(hanley_mcneil(area, half, half)[0])) if half > 1 else math.inf


def _change(value: float) -> str:
    if abs(value) < _NOTICEABLE:
        return "no change"
    return f"{'a rise' if value > 0 else 'a fall'} of {abs(value):.2f}"
