"""What an operator can do about what went wrong, by the fixed words that sites and Flower answer with."""

from __future__ import annotations

import re

_ADVICE = {
    "silent": "A site gave no answer in time: is its side running (fedmosaic site status STATE)?",
    "unreachable": "A site's app could not be started, or its node is gone: its logs are STATE/flower/*.log there.",
    "bundle": "A site has not approved this bundle or its own code changed: fedmosaic site approve STATE.",
    "roster": "A site has approved another roster: send it roster.bin again.",
    "peer": "A site's policy allows only certain institutions beside it (allowed_peers).",
    "budget": "A site's budget does not hold this run: fewer rounds, a smaller epsilon, or ask it (lifetime_epsilon).",
    "epsilon": "A site allows a smaller epsilon a run (per_run_epsilon).",
    "steps": "A site allows fewer steps a run (most_steps).",
    "noise": "A site wants more noise in training (min_noise_multiplier).",
    "table-noise": "A site wants more noise in tables (min_table_noise_multiplier).",
    "no-privacy": "A site does not allow runs without differential privacy (allow_no_privacy).",
    "no-secagg": "A site does not allow runs without secure aggregation (allow_no_secagg).",
    "cohort": "A site wants more sites in every sum (k_min).",
    "schema": "The run describes a site's data otherwise than its dataset.yaml: it must enrol again.",
    "policy": "A site's policy.yaml cannot be read, or others may write it: its log says what to correct.",
    "ledger": "A site's ledger is gone, damaged or older than its receipts: its log says which.",
    "self-check": "A site found that the step does not do what the plan says: compare versions of fedmosaic.",
    "failed": "Something else went wrong at a site; its own log says what.",
    "adverts": "Too few sites are left: at least two thirds of the roster must be there.",
}
_WORD = re.compile(r"[a-z][a-z-]*")


def advice(text: str) -> str:
    """Sentences on the fixed words in a text; empty where there is none."""
    said = dict.fromkeys(_ADVICE[word] for word in _WORD.findall(text) if word in _ADVICE)
    return " ".join(said)
