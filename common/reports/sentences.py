"""What a run means, in plain sentences: each is computed from the record, and none says more than the record shows."""

from __future__ import annotations

import math

from common.fairness.result import AuditResult, Gap
from common.privacy.step_audit import StepCertificate
from common.reports.headline import GAP_NAMES, NUMBERS, TITLES, figure_text, headline, measured
from common.reports.numbers import SPACE, decimal, decimal_figure, epsilon, plain, points, remaining
from common.reports.record import Promise, RedBox, RunRecord
from common.secagg.roster import too_many_colluders

_CERTAIN = 0.9995


def red_boxes(record: RunRecord) -> tuple[RedBox, ...]:
    """Everything that takes a promise away. Read off the record itself, so that no writer of a record can forget it."""
    found = []
    if record.promise.kind == "none":
        text = (
            "Differential privacy was off. Nobody's records were protected: the released model and tables may give "
            "away who took part, and what their records say. No budget was charged."
        )
        found.append(RedBox("privacy_none", "No privacy: privacy=none", text))
    if record.secagg.kind == "none":
        text = (
            "Secure aggregation was off. The server read every site's own updates and tables, one by one, and so knows "
            "how each site differs from the others. Only differential privacy, where it was on, still stands before "
            "its people."
        )
        found.append(RedBox("secagg_none", "No secure aggregation: secagg=none", text))
    if record.promise.kind != "none" and record.promise.random_source != "os-csprng":
        text = (
            "The noise came from a fixed, known seed, for tests. Whoever knows the seed can take the noise away again: "
            "this run protects nobody, whatever epsilon says."
        )
        found.append(RedBox("test_noise", "Test noise: no protection", text))
    certificates = (site.certificate for site in record.sites)
    if any(one is not None and one.refuting_mu > one.claimed_mu for one in certificates):
        text = (
            "Made-up people, put into a site's training step and left out of it, were told apart better than what was "
            "charged for the step allows, beyond any doubt. What is promised here does not hold."
        )
        found.append(RedBox("audit", "Less private than charged", text))
    return (*found, *record.warnings)


def certified(one: StepCertificate) -> str:
    """What a site found when it tried a training step before the run."""
    return (
        f"Before the run the site tried its training step on made-up people: {one.observations:,} steps with them and"
        f" as many without. A step is charged with mu {one.claimed_mu:.3g} for whoever is drawn (epsilon"
        f" {one.claimed_epsilon:.3g} at delta {one.delta:g}); they showed at least {one.lower_mu:.3g} (epsilon"
        f" {one.lower_epsilon:.3g}) with 95 % confidence. So few steps can show {one.largest_mu:.3g} at most. The noise"
        f" had {one.noise_ratio:.3g} of its planned standard deviation in {one.noise_draws:,} draws. This says"
        " nothing about the whole of the training, for which no lower bound was measured."
    )


def release_kind(record: RunRecord, noise_std: float) -> str:
    """What protects a released table: dp, test (noise that anybody can take away) or bare (none)."""
    if record.promise.kind == "none" or noise_std <= 0:
        return "bare"
    return "dp" if record.promise.random_source == "os-csprng" else "test"


def in_short(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """The run in a handful of sentences, each under a word or two."""
    said = (
        ("The run", _setting(record)),
        ("How good", _quality(record)),
        ("As released", _released(record)),
        ("Privacy", _privacy(record)),
        ("An attacker", attack(record.promise)),
        ("Fairness", fairness(record.audit)),
    )
    return tuple((name, sentence) for name, sentence in said if sentence)


def _setting(record: RunRecord) -> str:
    modalities = sorted({name for site in record.sites for name in site.modalities})
    kind = "simulated on one machine" if record.simulated else "run between institutions"
    rounds = f"{len(record.rounds)} of {record.rounds_planned} planned rounds took place"
    many = "modality" if len(modalities) == 1 else "modalities"
    return (
        f"{len(record.sites)} sites trained one model that predicts {record.task!r} from {len(modalities)} {many} "
        f"({', '.join(modalities)}), {kind}; {rounds}."
    )


def _quality(record: RunRecord) -> str:
    test = record.test
    if test is None:
        return ""
    accuracy, auroc, error = (measured(test, metric) for metric in ("accuracy", "auroc", "mae"))
    if accuracy is not None:
        about = "right about" if record.kind != "multilabel" else "right, a label at a time, about"
        text = f"On {test.num_subjects} held-out people the final model is {about} {100 * accuracy:.0f} of 100"
        if auroc is not None:
            text += (
                f"; of 100 pairs of one person with and one without the condition it ranks {100 * auroc:.0f} rightly "
                f"(AUROC {decimal(auroc)})"
            )
    elif error is not None:
        explained = measured(test, "r2")
        text = f"On {test.num_subjects} held-out people the final model is {plain(error)} off on average"
        text += "" if explained is None else f" (R\N{SUPERSCRIPT TWO} {decimal(explained)})"
    else:
        return ""
    return f"{text}. The simulator measured this; no institution released it."


def _released(record: RunRecord) -> str:
    if record.released is None or "all" not in record.released.conditions:
        return ""
    found = record.released.conditions["all"]
    noised = "noised" if record.released.noise_std > 0 else "not noised at all"
    first = headline(record.kind)[0]
    said = f"{TITLES[first]} at {figure_text(found[first], first)}"
    text = f"What the sites released, one table summed over them and {noised}, puts the {said}"
    if "auroc" in found:
        text += f" and the AUROC at {decimal_figure(found['auroc'])}"
    return f"{text}; in brackets the 95 % interval. This is what a real federation would know."


def _privacy(record: RunRecord) -> str:
    promise = record.promise
    if promise.kind == "none" or promise.epsilon is None:
        return "Nobody was promised any privacy."
    # The noise in tables is shared out under either kind; training noise only here.
    condition = ""
    if promise.kind == "distributed":
        condition = (
            f", as long as fewer than {too_many_colluders(len(record.sites))} of the sites collude with whoever looks"
        )
    return (
        f"Each person at each site was promised at most epsilon {plain(promise.epsilon)} at delta "
        f"{plain(promise.delta)} in this run, over everything released{condition}: {certainty(promise.epsilon)}"
    )


def certainty(value: float) -> str:
    """What an epsilon means in the worst case, for a reader who holds even odds beforehand."""
    sure = 1 / (1 + math.exp(-min(value, 700.0)))
    shown = f"up to {100 * sure:.0f} %" if sure < _CERTAIN else "almost"
    return (
        "in the worst case, an observer who knows everything else and holds it for as likely as not that a person took "
        f"part could become {shown} sure of it, apart from a chance of delta. How much can be learnt in practice was "
        "not measured: no attack was tried on this model."
    )


def attack(promise: Promise) -> str:
    """What an attacker can do at most, in one sentence; nothing where nothing was promised."""
    if not promise.attack:
        return ""
    said = [
        f"{100 * bound.false_alarms:g}{SPACE}% false alarms finds at most {shown_share(bound.found)} of the members"
        for bound in promise.attack
    ]
    return (
        "An attacker who knows everything else, sees all that this run released, and accepts "
        + "; one who accepts ".join(said)
        + ". This follows from the whole privacy curve of the plan, not from one epsilon, and no attack does better."
    )


def shown_share(share: float) -> str:
    """A share as a percentage that is never too small: rounded up to a tenth."""
    return f"{math.ceil(1000 * share - 1e-6) / 10:g}{SPACE}%"


def entry_numbers(numbers: tuple[int, ...]) -> str:
    """Entries of a ledger, those in a row as one range."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def fairness(audit: AuditResult | None) -> str:
    """What the audit found, in short."""
    if audit is None:
        return "No audit by group was asked for: whom the model serves worse is not known."
    claims = [gap for gap in audit.gaps if gap.claim and gap.condition == "all"]
    if claims:
        return "The audit finds a difference between groups: " + "; ".join(claim(gap) for gap in claims) + "."
    elsewhere = sum(gap.claim for gap in audit.gaps)
    hidden = f" With a modality left out it finds {elsewhere}." if elsewhere else ""
    return (
        "With all modalities, the audit cannot tell any difference between groups from chance and noise. That does not "
        f"show that there is none: see how wide the intervals are.{hidden}"
    )


def claim(gap: Gap) -> str:
    """One gap that the audit is sure of, in words."""
    return (
        f"by {gap.attribute}, {gap_name(gap)} differs by {gap_size(gap)}, higher for {gap.higher} than for {gap.lower}"
    )


def gap_name(gap: Gap) -> str:
    """What differs, in words."""
    return GAP_NAMES.get(f"{gap.metric}/{gap.of}", GAP_NAMES.get(gap.metric, gap.metric))


def verdict(gap: Gap) -> str:
    """What can be said about a gap."""
    if gap.size.value is None:
        return f"cannot be said: {gap.size.reason}"
    if gap.claim:
        return "a difference, beyond chance and noise"
    if gap.size.low:
        return "perhaps: clear on its own, not against all comparisons"
    if gap.smallest_visible is not None:
        visible = decimal(gap.smallest_visible) if gap.metric in NUMBERS else points(gap.smallest_visible)
        return f"cannot be told from none; about {visible} would have shown"
    return "cannot be told from none; no gap at all would have shown"


def took_part(record: RunRecord) -> str:
    """How reliably the sites took part."""
    missed = {site.name: sum(site.name not in item.sites for item in record.rounds) for site in record.sites}
    if not record.rounds:
        return "No training round took place."
    if not any(missed.values()):
        return f"Every site is in the sum of every one of the {len(record.rounds)} rounds."
    listed = ", ".join(f"{name} ({count})" for name, count in missed.items() if count)
    return (
        f"Missing from the sum of some rounds: {listed}. A round goes on without them as long as enough sites are left."
    )


def gap_size(gap: Gap) -> str:
    """A gap's size with its interval: in points, or as a plain number."""
    size = gap.size
    if gap.metric in NUMBERS or size.value is None or size.low is None or size.high is None:
        return decimal_figure(size)
    return f"{points(size.value)} ({100 * size.low:.0f} to {100 * size.high:.0f})"


def budget_meaning(spent: float, lifetime: float, left: float) -> str:
    """A site's ledger in one sentence."""
    share = 100 * spent / lifetime
    used = f"epsilon {epsilon(spent)} of {plain(lifetime)}, {remaining(left)} left"
    return f"{share:.0f}{SPACE}% of the lifetime budget is spent: {used}."
