"""What could ever leave an institution under its policy, kind by kind, and what never does: for whoever has to sign."""

from __future__ import annotations

from dataclasses import dataclass

from client.policy import EVERYTHING, Policy

_TABLES = {
    "normalisation": "three sums for each numeric column (how many people, sum, sum of squares)",
    "evaluation": "counts of held-out people by score, label and which modalities the model saw; where it writes texts,"
    " sums of how well",
    "audit": "the same counts by group",
}
NEVER = (
    "files, cells of the manifest, and what they are decoded to",
    "what frozen encoders say of a record (features)",
    "names of subjects, and their pseudonyms in the ledger",
    "the model's answer for a single record, or a text that it wrote",
    "blocks of the model that are personal in a run",
    "the policy's text, the site's log, and the reason of a refusal",
)
"""None of these is part of any reply; the institution may of course show its own ledger and pages to whom it likes."""


@dataclass(frozen=True)
class Leaving:
    """One kind of thing that could leave: what it is, how it is protected, and for which purpose."""

    purpose: str
    what: str
    protection: str


def leaving(policy: Policy) -> tuple[Leaving, ...]:
    """List what replies may hold under a policy, most harmless first."""
    found = [
        Leaving("consent", "the institution's name, and which modalities its dataset.yaml describes", "public facts"),
        Leaving("consent", "no: one word of a fixed set", "depends on no record"),
        Leaving(
            "protocol", "keys, ciphertexts for other sites, signatures, shares of masks", "says nothing of a record"
        ),
        Leaving("receipt", "how many entries the ledger has, and a digest of the newest", "depends on no record"),
        Leaving("failure", "that a request failed, where its records cannot be read", "charged before they are read"),
    ]
    for purpose in policy.allowed_purposes:
        own = purpose == "normalisation" and "federated" not in policy.allowed_normalisation
        if not own and not (purpose == "audit" and not policy.allowed_attributes):
            found.append(Leaving(purpose, _what(purpose, policy), _protection(purpose, policy)))
    return tuple(found)


def _what(purpose: str, policy: Policy) -> str:
    if purpose == "training":
        return f"the sum of people's clipped gradients, for blocks {_said(policy.allowed_blocks)}"
    named = f" ({_said(policy.allowed_attributes)})" if purpose == "audit" else ""
    return _TABLES[purpose] + named


def _protection(purpose: str, policy: Policy) -> str:
    """What stands between the records and whoever reads it; the weakest that the policy lets a run ask for."""
    least = policy.min_noise_multiplier if purpose == "training" else policy.min_table_noise_multiplier
    noise = f"noised (at least {least:g} times what one person moves)" if least else "noised as the budget demands"
    if purpose == "training" and policy.allow_distributed_noise:
        noise += ", by all sites together where a run asks for it"
    if policy.allow_no_privacy:
        noise = "NOT noised where a run asks for no privacy"
    masks = f"masked: readable only in a sum of {policy.k_min} sites or more"
    if policy.allow_no_secagg:
        masks = "NOT masked where a run asks for no secure aggregation"
    return f"{noise}; {masks}"


def _said(names: tuple[str, ...]) -> str:
    return "any" if EVERYTHING in names else ", ".join(names) or "none"
