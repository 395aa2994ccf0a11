"""Gates on a model: the cautious end of what was released decides, and what cannot be said does not pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.compose import ConfigError
from common.metrics.figure import Figure
from common.reports.record import RunRecord
from server.deployment.gates import judge, read_gates
from tests.example_record import example_record


@pytest.fixture
def record() -> RunRecord:
    made = example_record()
    assert made.released is not None
    assert made.audit is not None
    return made


def auroc(record: RunRecord) -> Figure:
    assert record.released is not None
    return record.released.conditions["all"]["auroc"]


def test_the_low_end_of_the_interval_decides(record: RunRecord) -> None:
    low, value = auroc(record).low, auroc(record).value
    assert low is not None
    assert value is not None
    assert low < value
    passed, missed = judge(record, read_gates([f"auroc>={low - 0.001:.4f}", f"auroc>={value:.4f}"]))
    assert passed.passed
    assert not missed.passed, "the value itself is reached, its interval's low end is not"


def test_the_widest_gap_of_any_attribute_decides(record: RunRecord) -> None:
    assert record.audit is not None
    metric = record.audit.gaps[0].metric
    highs = [gap.size.high for gap in record.audit.gaps if gap.metric == metric]
    assert all(high is not None for high in highs)
    most = max(high for high in highs if high is not None)
    passed, missed = judge(record, read_gates([f"{metric}<={most + 0.001:.4f}", f"{metric}<={most - 0.001:.4f}"]))
    assert (passed.passed, missed.passed) == (True, False)


def test_what_was_not_released_does_not_pass(record: RunRecord) -> None:
    bare = replace(record, released=None, audit=None)
    for verdict in judge(bare, read_gates(["auroc>=0", "auroc<=1", "no_such_metric>=0"])):
        assert not verdict.passed
        assert verdict.figure is None


@pytest.mark.parametrize("text", ["auroc", "auroc>0.5", ">=0.5", "auroc>=high", "auroc>=0.5; rm"])
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--gate"):
        read_gates([text])
