"""Gates: what a model must have shown, as it was released, before its operator hands it out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.compose import ConfigError
from common.reports.record import RunRecord

_GATE = re.compile(r"([a-z0-9_/]+)(>=|<=)([0-9]*\.?[0-9]+)")


@dataclass(frozen=True)
class Gate:
    """A figure that must be at least, or a gap between groups that must be at most, so much.

    Attributes:
        metric: `>=`: of the evaluation, with all modalities (auroc, accuracy, ...); `<=`: of the audit's gaps, any
            attribute (equal_opportunity, auroc, ...).
        limit: held against the cautious end of the 95 % interval: its low end, or a gap's high end.
    """

    metric: str
    is_gap: bool
    limit: float

    @property
    def text(self) -> str:
        """As it is written on the command line."""
        return f"{self.metric}{'<=' if self.is_gap else '>='}{self.limit:g}"


@dataclass(frozen=True)
class Verdict:
    """Whether a gate is passed, and the figure that decided; None: nothing was released that could decide."""

    gate: str
    passed: bool
    figure: float | None
    where: str


def read_gates(texts: Sequence[str]) -> tuple[Gate, ...]:
    """Read gates such as `auroc>=0.7` or `equal_opportunity<=0.2`.

    Raises:
        ConfigError: one is none.
    """
    found = []
    for text in texts:
        match = _GATE.fullmatch(text.replace(" ", ""))
        if match is None:
            raise ConfigError(f"--gate: METRIC>=LIMIT of the evaluation or METRIC<=LIMIT of the audit, got {text!r}")
        found.append(Gate(match[1], match[2] == "<=", float(match[3])))
    return tuple(found)


def judge(record: RunRecord, gates: Sequence[Gate]) -> tuple[Verdict, ...]:
    """Hold a run's released figures against gates; what cannot be said does not pass."""
    return tuple(_gap(record, gate) if gate.is_gap else _figure(record, gate) for gate in gates)


def _figure(record: RunRecord, gate: Gate) -> Verdict:
    figures = record.released.conditions["all"] if record.released is not None else {}
    figure = figures.get(gate.metric)
    low = None if figure is None else figure.low
    return Verdict(gate.text, low is not None and low >= gate.limit, low, "evaluation, all modalities, low end")


def _gap(record: RunRecord, gate: Gate) -> Verdict:
    gaps = [] if record.audit is None else [gap for gap in record.audit.gaps if gap.metric == gate.metric]
    if not gaps or any(gap.size.high is None for gap in gaps):
        return Verdict(gate.text, passed=False, figure=None, where="audit: a gap cannot be said")
    worst = max(gaps, key=lambda gap: gap.size.high or 0.0)
    high = worst.size.high or 0.0
    return Verdict(gate.text, high <= gate.limit, high, f"audit, {worst.attribute}, {worst.condition}, high end")
