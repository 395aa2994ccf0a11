"""A run's record as a real run would leave it: real tables, real noise, real figures; only the subjects are drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np

from common.fairness.groups import audit_figures
from common.fairness.table import EVERYONE, TableLayout, conditions_of, fill, l2_sensitivity
from common.privacy.step_audit import StepCertificate
from common.reports.record import (
    AttackBound,
    BlockRecord,
    ChargeRecord,
    CohortBudget,
    ConditionTest,
    ExactTest,
    OutRecord,
    Promise,
    RefusedRecord,
    RoundRecord,
    RunRecord,
    SecaggFacts,
    SiteRecord,
    SiteTest,
    Traffic,
)
from common.reports.spend import LedgerRecord, RunSpend, SubjectSpend
from server.evaluate import evaluation_figures

SITES = {
    "cleveland": ("demographics", "ecg", "exercise", "imaging", "labs"),
    "hungary": ("demographics", "ecg", "exercise", "labs"),
    "switzerland": ("demographics", "ecg", "exercise"),
    "va": ("demographics", "ecg", "exercise", "labs"),
}
MODALITIES = SITES["cleveland"]
GROUPS = (("sex", "female"), ("sex", "male"), ("age", "<50"), ("age", "50-60"), ("age", ">=60"))
_STRENGTH = {"demographics": 0.35, "ecg": 0.2, "exercise": 0.8, "imaging": 0.5, "labs": 0.1}
_ALONE = ("auxiliary/imaging", "encoder/imaging")
_SUBJECTS = 279
_ROUNDS = 40


def layouts() -> tuple[TableLayout, TableLayout]:
    """The evaluation's and the audit's layout of the heart experiment."""
    evaluation = TableLayout("disease", "binary", conditions_of(MODALITIES), (EVERYONE,), ("0", "1"), 10)
    audit = TableLayout("disease", "binary", conditions_of(MODALITIES, alone=False), GROUPS, ("0", "1"), 10)
    return evaluation, audit


@cache
def example_record() -> RunRecord:
    """A finished run of the heart experiment."""
    record = RunRecord(
        run="20250304-101532-3f9a1c",
        experiment="heart",
        created="2025-03-04T10:15:32+00:00",
        seconds=71.4,
        task="disease",
        classes=("0", "1"),
        honesty=(
            "Records, hospitals and missing measurements are real (UCI Heart Disease, CC BY 4.0, 920 patients of four "
            "hospitals); the tables are measured values, not raw signals."
        ),
        config={"experiment": "heart", "rounds": _ROUNDS, "privacy": {"kind": "subject", "epsilon": 8.0}},
        config_hash="c0ffee" + "0" * 58,
        rounds_planned=_ROUNDS,
        promise=Promise(
            kind="subject",
            epsilon=8.0,
            delta=1e-3,
            unit="subject",
            adjacency="zero-out (add or remove)",
            sampling="poisson",
            sampling_rate=1.0,
            steps=_ROUNDS,
            clip_norm=1.0,
            noise_multiplier=3.37,
            divisor=150.0,
            random_source="os-csprng",
            plan_hash="9b" * 32,
            engine="bookkeeping",
            attack=(AttackBound(0.001, 0.018), AttackBound(0.01, 0.0872), AttackBound(0.1, 0.365)),
        ),
        secagg=SecaggFacts("masked", k_min=3, threshold=3, honest_noise_shares=2),
        sites=tuple(_site(name, held) for name, held in SITES.items()),
        rounds=tuple(_round(number) for number in range(1, _ROUNDS + 1)),
        blocks=_blocks(),
        traffic=_traffic(),
        software={"fedmosaic": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0", "dp-accounting": "0.6.0"},
    )
    return _with_figures(record, noised=True)


def unprotected(record: RunRecord) -> RunRecord:
    """The same run with everything switched off that protects anybody."""
    promise = replace(record.promise, kind="none", epsilon=None, delta=None, noise_multiplier=None, clip_norm=None)
    sites = tuple(replace(site, cohorts=(), ledger=None, refused=(), certificate=None) for site in record.sites)
    bare = replace(record, promise=promise, secagg=SecaggFacts("none", k_min=3, key_agreement="none"), sites=sites)
    return _with_figures(bare, noised=False)


def _with_figures(record: RunRecord, *, noised: bool) -> RunRecord:
    rng = np.random.default_rng(7)
    evaluation, audit = layouts()
    sex = (rng.random(_SUBJECTS) < 0.79).astype(np.int64)
    age = rng.choice(3, _SUBJECTS, p=[0.3, 0.45, 0.25])
    label = (rng.random(_SUBJECTS) < np.where(sex == 1, 0.62, 0.32)).astype(np.int64)
    strength_of = {m: np.where((m == "exercise") & (sex == 0), 0.15, s) for m, s in _STRENGTH.items()}
    parts = {m: rng.normal((2 * label - 1) * s, 1.0) * _STRENGTH[m] for m, s in strength_of.items()}
    scores = {
        c.name: 1 / (1 + np.exp(-2.2 * sum(parts[m] for m in c.keep) + 2.2 * sex - 1.9))[:, None]
        for c in evaluation.conditions
    }
    groups, subjects = {"sex": sex, "age": age}, np.arange(_SUBJECTS)
    tables, stds = {}, {}
    for name, layout, multiplier in (("evaluation", evaluation, 0.62), ("audit", audit, 0.58)):
        stds[name] = l2_sensitivity(layout) * multiplier * math.sqrt(2) * noised
        noise = np.rint(rng.normal(0, stds[name], layout.size)).astype(np.int64)
        tables[name] = fill(layout, scores, label, groups, subjects) + noise
    return replace(
        record,
        test=_exact(scores, label, rng.choice(4, _SUBJECTS, p=[0.33, 0.32, 0.13, 0.22])),
        released=evaluation_figures(evaluation, tables["evaluation"], noise_std=stds["evaluation"], threshold=0.5),
        audit=audit_figures(audit, tables["audit"], noise_std=stds["audit"], threshold=0.5, min_cell=11),
    )


def _exact(scores: dict[str, np.ndarray], label: np.ndarray, site: np.ndarray) -> ExactTest:
    def accuracy(name: str, rows: np.ndarray) -> float:
        return float(((scores[name][rows, 0] >= 0.5) == label[rows]).mean())

    def auroc(name: str, rows: np.ndarray) -> float:
        score = scores[name][rows, 0]
        return float((score[label[rows] == 1][:, None] > score[label[rows] == 0][None]).mean())

    everyone = np.arange(len(label))
    members = {name: np.flatnonzero(site == number) for number, name in enumerate(SITES)}
    sites = {name: SiteTest(len(rows), accuracy("all", rows), auroc("all", rows)) for name, rows in members.items()}
    return ExactTest(
        num_subjects=len(label),
        pooled_accuracy=accuracy("all", everyone),
        site_mean_accuracy=float(np.mean([part.accuracy for part in sites.values()])),
        auroc=auroc("all", everyone),
        sites=sites,
        conditions={name: ConditionTest(accuracy(name, everyone), auroc(name, everyone)) for name in scores},
    )


def _round(number: int) -> RoundRecord:
    rng = np.random.default_rng(number)
    dropped = ("va",) if number in {7, 8} else ("switzerland",) if number == 23 else ()
    rise = 1 - math.exp(-number / 8)
    return RoundRecord(
        number=number,
        seconds=1.6 + float(rng.random()) * 0.3,
        sites=tuple(name for name in SITES if name not in dropped),
        dropped=dropped,
        left_out=("auxiliary/labs", "encoder/labs", *_ALONE) if dropped == ("va",) else _ALONE,
        update_norm=0.35 + float(rng.random()) * 0.05,
        test_accuracy=0.55 + 0.26 * rise + float(rng.normal(0, 0.008)),
        test_auroc=0.6 + 0.29 * rise + float(rng.normal(0, 0.006)),
    )


def _blocks() -> tuple[BlockRecord, ...]:
    def holders(modality: str) -> tuple[str, ...]:
        return tuple(name for name, held in SITES.items() if modality in held)

    encoders = tuple(BlockRecord(f"encoder/{m}", m, 96 + 16 * len(m), holders(m)) for m in MODALITIES)
    auxiliary = tuple(BlockRecord(f"auxiliary/{m}", m, 17, holders(m)) for m in MODALITIES)
    shared = (BlockRecord("fusion", None, 2304, tuple(SITES)), BlockRecord("head/disease", None, 17, tuple(SITES)))
    return encoders + auxiliary + shared


def _site(name: str, held: tuple[str, ...]) -> SiteRecord:
    lifetime, before = {
        "cleveland": (20.0, 2.9),
        "hungary": (12.0, 2.9),
        "switzerland": (30.0, 0.0),
        "va": (20.0, 9.7),
    }[name]
    dropped = 2 if name == "va" else 1 if name == "switzerland" else 0
    ledger = LedgerRecord(
        lifetime_epsilon=lifetime,
        delta=1e-3,
        spent=before + 8.72,
        left=lifetime - before - 8.72,
        needed=before + 8.93,
        entries=47,
        head="5d" * 32,
        public_key="a1" * 32,
        spent_before=before,
        runs=(
            RunSpend("20250211-090003-77aa01", "train", before + 0.2, before, "2025-02-11", (1, 2, 3, 4), before),
            RunSpend("20250304-101532-3f9a1c", "train", 8.71, 8.66, "2025-03-04", tuple(range(5, 47)), before + 8.72),
            RunSpend("20250304-101532-3f9a1c", "test", 8.62, 8.62, "2025-03-04", tuple(range(5, 47)), before + 8.72),
        ),
        by_modality=dict.fromkeys(SITES[name], before + 8.72),
        subjects=(
            SubjectSpend(180, 2, before + 8.66, dict.fromkeys(SITES[name], before + 8.66)),
            SubjectSpend(23, 1, 8.66, dict.fromkeys(SITES[name], 8.66)),
        ),
        location="ledger.sqlite",
    )
    refused = (
        RefusedRecord(
            "2025-03-04T10:12:01Z", "budget", "run 20250304-101201-0b11 asked for epsilon 16; 17.1 were left"
        ),
    )
    return SiteRecord(
        name, held, _cohorts(_ROUNDS - dropped), ledger, _out(dropped), refused if name == "va" else (), certificate()
    )


def certificate() -> StepCertificate:
    """A certificate of a step that is as private as charged."""
    return StepCertificate(
        run="20250304-101532-3f9a1c",
        when="2025-03-04T10:15:30Z",
        plan_hash="0c" * 32,
        software={"source": "7e" * 32, "torch": "2.13.0"},
        engine="opacus",
        delta=1e-3,
        claimed_mu=0.304,
        claimed_epsilon=0.747,
        lower_mu=0.261,
        lower_epsilon=0.63,
        refuting_mu=0.158,
        largest_mu=0.611,
        observations=300,
        canaries=7,
        noise_ratio=1.004,
        noise_draws=5836,
        gradient_error=5e-8,
        sees=("the model's own step",),
        does_not_see=("whole training",),
    )


def _cohorts(steps: int) -> tuple[CohortBudget, ...]:
    train = CohortBudget(
        "train",
        1e-3,
        pld=7.93,
        prv=7.95,
        rdp=8.71,
        replace_one=16.02,
        charges=(
            ChargeRecord("normalisation", "discrete_gaussian", 4.1, 1.0, 1, 1, 3.2),
            ChargeRecord("training", "gaussian", 3.37, 1.0, _ROUNDS, steps),
        ),
    )
    test = CohortBudget(
        "test",
        1e-3,
        pld=7.88,
        prv=7.9,
        rdp=8.62,
        replace_one=15.8,
        charges=(
            ChargeRecord("evaluation", "discrete_gaussian", 0.62, 1.0, 1, 1, 3.742),
            ChargeRecord("audit", "discrete_gaussian", 0.58, 1.0, 1, 1, 4.243),
        ),
    )
    return train, test


def _out(dropped: int) -> tuple[OutRecord, ...]:
    form = "masked; only in a sum of 3 or more"
    rounds = [n for n in range(1, _ROUNDS + 1) if not (dropped and n in {7, 8})]
    tables = (("normalisation", 4321), ("evaluation", 9120), ("audit", 13420))
    return tuple(
        OutRecord(number, "training", "update, 9 blocks", "server", 13824, form, "1 step", "2025-03-04")
        for number in rounds
    ) + tuple(
        OutRecord(0, what, "integer table", "server", size, form, "1 release", "2025-03-04") for what, size in tables
    )


def _traffic() -> tuple[Traffic, ...]:
    masked = "masked integers; the server can read only the sum"
    up = tuple(Traffic(name, "server", "training", masked, 5 * _ROUNDS, 13824 * _ROUNDS) for name in SITES)
    tables = tuple(Traffic(name, "server", "tables", masked, 15, 26861) for name in SITES)
    down = tuple(
        Traffic("server", name, "training", "released model and public keys", 5 * _ROUNDS, 12100 * _ROUNDS)
        for name in SITES
    )
    return up + tables + down
