"""Every word that a refusal may carry out of a site: a closed set, so that none can be made to tell more."""

from __future__ import annotations

from typing import Literal, get_args

Code = Literal[
    # The request, or its place in the run.
    "malformed",
    "not-enrolled",
    "order",
    "plan",
    "replay",
    "schema",
    "settled",
    "weights",
    # The institution's own floor: its policy, by rule, and its budget. docs/policy.md says which key says which.
    "attribute",
    "block",
    "budget",
    "bundle",
    "cohort",
    "delta",
    "distributed-noise",
    "epsilon",
    "modality",
    "no-privacy",
    "no-secagg",
    "noise",
    "normalisation",
    "peer",
    "post-quantum",
    "purpose",
    "steps",
    "table-noise",
    "task",
    "test-noise",
    # What the site keeps of its own is gone, damaged, or not what it was.
    "ledger",
    "policy",
    "roster",
    # The step that the site would take does not do what the plan says: found out on made-up subjects.
    "self-check",
    # The secure sum.
    "advert",
    "agreement",
    "blocks",
    "ciphertext",
    "complete",
    "duplicate",
    "graph",
    "k-min",
    "key",
    "large",
    "members",
    "own-advert",
    "own-choice",
    "pair",
    "places",
    "senders",
    "session",
    "share",
    "signature",
    "survivors",
    "tag",
    "threshold",
    "vector",
    "version",
    # Whatever else goes wrong. Once records are read there is no other word, and it comes after the charge.
    "failed",
]
CODES: tuple[str, ...] = get_args(Code)
