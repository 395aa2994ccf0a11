"""Everything that a run's reports say, as one frozen record that lives in the run folder's metrics.json.

Two kinds of figures stand here, and the reports keep them apart. `ExactTest` was measured by the simulator, who holds
all records: in a real federation nobody could. Everything else was released by the protocol, or is a public fact.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from common.fairness.result import AuditResult
from common.metrics.figure import Figure
from common.privacy.step_audit import StepCertificate
from common.reports.spend import LedgerRecord

Json = dict[str, object]
_STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True)
class RedBox:
    """Something that takes a promise away: shown in red on top of every page."""

    code: str
    title: str
    text: str


@dataclass(frozen=True)
class AttackBound:
    """Who takes at most `false_alarms` of the others for members finds at most `found` of the members (both shares)."""

    false_alarms: float
    found: float


@dataclass(frozen=True)
class Promise:
    """What each subject was promised, and by what means; one for all sites, fixed before the first round.

    `kind` is subject, distributed or none, `random_source` os-csprng or test; `steps` are a site's noisy steps;
    `engine` computes the clipped sums; `attack` follows from the whole privacy curve of the costliest cohort's plan.
    """

    kind: str
    epsilon: float | None
    delta: float | None
    unit: str
    adjacency: str
    sampling: str
    sampling_rate: float | None
    steps: int
    clip_norm: float | None
    noise_multiplier: float | None
    divisor: float | None
    random_source: str
    plan_hash: str
    engine: str = ""
    attack: tuple[AttackBound, ...] = ()


@dataclass(frozen=True)
class SecaggFacts:
    """How contributions were hidden from the server, and how keys for it were agreed on; kind is masked or none."""

    kind: str
    k_min: int
    threshold: int | None = None
    honest_noise_shares: int | None = None
    key_agreement: Literal["none", "X25519", "X25519 and ML-KEM-768"] = "X25519"


@dataclass(frozen=True)
class ChargeRecord:
    """One mechanism that a cohort paid for; `ran` of `planned` times took place."""

    purpose: str
    mechanism: str
    noise_multiplier: float
    sampling_rate: float
    planned: int
    ran: int
    l2_sensitivity: float | None = None


@dataclass(frozen=True)
class CohortBudget:
    """What one cohort (train, valid, test) of a site paid in this run: epsilon at `delta`.

    `pld` is the figure (privacy loss distribution, add or remove one subject), `prv` and `rdp` are the same charge by
    other accountants, and `replace_one` is where one subject is replaced by another.
    """

    cohort: str
    delta: float
    pld: float | None
    prv: float | None
    rdp: float | None
    replace_one: float | None
    charges: tuple[ChargeRecord, ...]


@dataclass(frozen=True)
class OutRecord:
    """One thing that left a site, in one line."""

    round: int
    purpose: str
    what: str
    recipient: str
    num_bytes: int
    protection: str
    charged: str = ""
    when: str = ""


@dataclass(frozen=True)
class RefusedRecord:
    """One request that a site refused."""

    when: str
    rule: str
    text: str


@dataclass(frozen=True)
class SiteRecord:
    """One institution; what it refused and what left it are its own log, printed on its own budget page only."""

    name: str
    modalities: tuple[str, ...]
    cohorts: tuple[CohortBudget, ...] = ()
    ledger: LedgerRecord | None = None
    out: tuple[OutRecord, ...] = ()
    refused: tuple[RefusedRecord, ...] = ()
    certificate: StepCertificate | None = None


@dataclass(frozen=True)
class BlockRecord:
    """A named part of the model: which sites hold it; a block that does not travel stays personal."""

    name: str
    modality: str | None
    num_parameters: int
    sites: tuple[str, ...]
    travels: bool = True


@dataclass(frozen=True)
class RoundRecord:
    """One training round; accuracy and AUROC were measured by the simulator.

    Attributes:
        sites: who is in the released sum.
        dropped: who was asked and is not.
        left_out: blocks that were not summed because too few sites were left.
        update_norm: L2 norm of the released, noised mean update.
        test_error: mean absolute error of a regression.
    """

    number: int
    seconds: float
    sites: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    update_norm: float | None = None
    test_accuracy: float | None = None
    test_auroc: float | None = None
    test_error: float | None = None


@dataclass(frozen=True)
class SiteTest:
    """The final model on one site's held-out subjects, measured by the simulator; `figures` are all, by name."""

    num_subjects: int
    accuracy: float | None
    auroc: float | None
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ConditionTest:
    """The final model under one modality condition, measured by the simulator; `figures` are all, by name."""

    accuracy: float | None
    auroc: float | None
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExactTest:
    """The final model on all held-out subjects: measured by the simulator, who holds all records.

    Accuracy and AUROC of a multilabel task are means over its labels; a regression has neither. `figures` are all there
    are, by name: accuracy, auroc, average_precision, f1, with `/label` for one label; mae, rmse, r2, bias; of texts
    bleu, meteor_exact, wer, corpus_bleu and corpus_wer, with `/modality`. `texts` are some, by modality, each as it
    stands in a record and as it was written: of made-up records only, since anybody may read a report.
    """

    num_subjects: int
    pooled_accuracy: float | None
    site_mean_accuracy: float | None
    auroc: float | None
    sites: dict[str, SiteTest]
    conditions: dict[str, ConditionTest]
    figures: dict[str, float] = field(default_factory=dict)
    texts: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReleasedTest:
    """The final model as the protocol itself could measure it: from one summed, noised table.

    Attributes:
        conditions: by condition, by metric (common/fairness/figures.py).
        noise_std: standard deviation of the noise in one cell of the released table, in subjects.
        num_subjects: noised.
    """

    num_subjects: Figure
    noise_std: float
    conditions: dict[str, dict[str, Figure]]


@dataclass(frozen=True)
class Traffic:
    """What one party sent another over the whole run; `form` says what the receiver can see of it."""

    source: str
    target: str
    purpose: str
    form: str
    messages: int
    num_bytes: int


@dataclass(frozen=True)
class RunRecord:
    """One run, as its reports show it.

    Attributes:
        config: the resolved configuration as JSON values (`model_dump(mode="json")`).
        created: when it began, ISO 8601 in UTC.
        kind: of the task; `classes` are its classes, or the labels of a multilabel task.
        honesty: which parts of the data are real, paired, split or simulated.
        simulated: the sites were simulated on one machine.
    """

    run: str
    experiment: str
    created: str
    seconds: float
    task: str
    classes: tuple[str, ...]
    honesty: str
    config: Json
    config_hash: str
    rounds_planned: int
    promise: Promise
    secagg: SecaggFacts
    sites: tuple[SiteRecord, ...]
    rounds: tuple[RoundRecord, ...]
    blocks: tuple[BlockRecord, ...] = ()
    test: ExactTest | None = None
    released: ReleasedTest | None = None
    audit: AuditResult | None = None
    traffic: tuple[Traffic, ...] = ()
    warnings: tuple[RedBox, ...] = ()
    software: dict[str, str] = field(default_factory=dict)
    simulated: bool = True
    kind: str = "binary"
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def to_json(self) -> str:
        """Write the record as JSON; `from_json` gives it back equal."""
        return _adapter().dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read a record.

        Raises:
            ValueError: a field is missing, unknown or of another type; the message names it.
        """
        return _adapter().validate_json(text)


@functools.cache
def _adapter() -> TypeAdapter[RunRecord]:
    return TypeAdapter(RunRecord)
