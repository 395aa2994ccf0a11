"""The charge: a release stands in the ledger, durably, before any of it is computed."""

from __future__ import annotations

from client.enrolment import Agreement, num_honest, open_ledger
from client.members import load_key_of
from client.policy import Refused, read_policy
from client.self_check import certify
from client.site import Site
from client.stages import Stages
from common.messages import Task
from common.secagg.roster import Roster


def charge(site: Site, agreement: Agreement, request: Task, begun: Stages | None) -> None:
    """Write the release into the ledger; an interrupted one finds it there already.

    `begun` are the stages where the secret that the noise comes from was drawn just now; None where it was there.

    Raises:
        Refused: it was charged before, and what its noise came from is gone (replay), there is no room for it, or the
            step that this software takes does not do what the plan says (self-check).
    """
    if agreement.plan is None:
        return
    roster = Roster.from_bytes(site.roster_path.read_bytes())
    certify(site.run_folder(request.run), agreement, honest=num_honest(agreement.config, roster))
    count = agreement.plan.steps_per_round if request.purpose == "training" else 1
    policy = read_policy(site.policy_path)
    with open_ledger(site, policy) as ledger:
        # Whoever cannot be told apart is not computed with: found out before the charge.
        ledger.members(request.run, lambda: load_key_of(site).check)
        ledger.check_lifetime(request.run, leave_out=policy.spent_subjects == "leave-out")
        asked = request.digest().hex()
        first = ledger.release(
            request.run, request.round, "task", request.purpose, count, plan=agreement.plan_hash.hex(), request=asked
        )
        if begun is not None and not first:
            begun.drop("Task")
            raise Refused("replay", f"{request.purpose} of round {request.round} was charged, and its noise is gone")


def receipt_of(site: Site, agreement: Agreement) -> bytes:
    """The receipt that goes out with a release; none where nothing is charged."""
    return site.receipt_path.read_bytes() if agreement.plan is not None else b""
