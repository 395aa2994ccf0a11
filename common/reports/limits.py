"""What the promises do not cover, in sentences: the list that a reader must not be left to guess."""

from __future__ import annotations

from common.reports.record import CohortBudget, RunRecord
from common.secagg.roster import COLLUDERS, LARGEST_COMPLETE, too_many_colluders

_ALWAYS = (
    "A person present at several institutions pays at each of them: their loss is the sum.",
    "The code that runs at an institution is trusted: it sees the records. A site that is lied to about its code is "
    "not protected.",
    "Who took part in which round, which modalities a site holds, and how large and how late messages are is not "
    "hidden from the server.",
    "Privacy budgets know only what went through them: a release by another system, or a ledger that was thrown away, "
    "is not counted.",
)
_OWN_NOISE = (
    "Training noise is drawn as 64-bit floating point numbers, which is not exactly the Gaussian of the proof; it is "
    "rounded to integers before it leaves. The noise in tables is an exact discrete Gaussian.",
)
_WITH_PRIVACY = (
    "Epsilon bounds what the releases say about whether a person took part. It does not stop a conclusion that holds "
    "for everyone alike, such as that smokers are ill more often.",
    "Choosing settings by looking at earlier runs costs what those runs cost: each is in the ledger, none is in this "
    "run's figure.",
)
_WITHOUT_PRIVACY = ("With privacy off, nothing bounds what model and tables give away about a person.",)
_KEYS = {
    "X25519": "The sites' keys were agreed on by X25519 alone. Whoever keeps this run's messages, the server for one, "
    "and has a large quantum computer one day, can then read every site's contribution on its own. "
    "secagg.post_quantum=true guards against that.",
    "X25519 and ML-KEM-768": "The sites' keys were agreed on by X25519 and ML-KEM-768 together: messages that were "
    "kept open only to who breaks both. Signatures are Ed25519: who has a large quantum computer during a run can pose "
    "as a site of it.",
}
_LARGE = (
    f"With more than {LARGEST_COMPLETE} sites each masks with neighbours that it chose at random: a server that works "
    f"with more than 1 in {1 / COLLUDERS} of the sites on the roster is outside this promise, and within it a failure "
    "has a probability below 1 in 2^40 in each sum."
)
_SIMULATED = (
    "In a simulation one machine plays all sites and the server, and holds everybody's records and keys: the protocol "
    "ran in full, but hides nothing from whoever runs that machine. The figures that the simulator measured are "
    "outside every budget."
)


def not_covered(record: RunRecord) -> tuple[str, ...]:
    """What neither differential privacy nor secure aggregation covers in this run."""
    lines = [*_ALWAYS]
    if record.promise.kind == "distributed":
        lines += _shared_noise(record)
    elif record.promise.kind != "none":
        lines += _OWN_NOISE
    lines += _WITH_PRIVACY if record.promise.kind != "none" else _WITHOUT_PRIVACY
    if record.secagg.kind == "none":
        lines.append("With secure aggregation off, the server reads every site's contribution on its own.")
    else:
        lines.append(
            f"Sums over at least {record.secagg.k_min} sites hide a single site only while enough of the others are "
            "honest: sites that collude can subtract what is theirs."
        )
        lines.append(_KEYS[record.secagg.key_agreement])
        if len(record.sites) > LARGEST_COMPLETE:
            lines.append(_LARGE)
    if record.simulated:
        lines.append(_SIMULATED)
    lines.append("No attack was tried on this model: no lower bound on the whole run's epsilon was measured.")
    return tuple(lines)


def _shared_noise(record: RunRecord) -> tuple[str, ...]:
    """What training noise that the sites share out does not cover."""
    honest, limit = record.secagg.honest_noise_shares, too_many_colluders(len(record.sites))
    return (
        f"Training noise was shared out between the sites: {honest} of them, so many as are honest in every sum, carry "
        f"all of it. That holds against the server together with fewer than {limit} sites. If "
        f"{limit} or more collude, they can take their own shares off again: less noise is left than was charged, and "
        "epsilon is not kept.",
        "What a site adds to a sum carries only its share of the noise: before it is summed, secure aggregation alone "
        "hides it. Noise that protects a site's people whatever all others do is what privacy=subject adds.",
        "The noise of training and of tables is an exact discrete Gaussian, drawn and added in integers. The gradients "
        "that it is added to are clipped in floating point.",
    )


def recompute(cohorts: tuple[CohortBudget, ...]) -> str:
    """A few lines of Python that recompute every cohort's PLD figure with Google's dp-accounting."""
    lines = ["from dp_accounting import dp_event", "from dp_accounting.pld import PLDAccountant"]
    for cohort in cohorts:
        lines += ["", "accountant = PLDAccountant()  # neighbours: add or remove one"]
        for charge in cohort.charges:
            event = f"dp_event.GaussianDpEvent({charge.noise_multiplier!r})"
            if charge.sampling_rate < 1:
                event = f"dp_event.PoissonSampledDpEvent({charge.sampling_rate!r}, {event})"
            lines.append(f"accountant.compose({event}, {charge.planned})  # {charge.purpose}")
        lines.append(f"print({cohort.cohort!r}, accountant.get_epsilon({cohort.delta!r}))")
    return "\n".join(lines) if cohorts else ""
