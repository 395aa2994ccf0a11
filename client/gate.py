"""The one door: everything that leaves an institution is built here, in this order.

Is it allowed by policy? Is there room in the ledger? Charge, durably. Clip and noise. Encode. Mask. Only this file
builds a reply. A crash after the charge and before the reply costs budget and releases nothing; the same request again
gets the same bytes without a second charge.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
from safetensors.numpy import load, save

from client import mask
from client.admission import admit, check_stage
from client.arithmetic import make_reproducible
from client.charging import charge, receipt_of
from client.contribute import Contribution, Work, contribute, encode
from client.enrolment import Agreement, agree, agreement_of, check_roster_of, num_honest, open_ledger
from client.large_stages import LARGE_SPENT, answer_large
from client.own_statistics import with_own_statistics
from client.policy import Refused, read_policy
from client.site import Site
from client.stages import Stages
from common.large_messages import Chosen, LargeMasked, LargeShares, LargeStageRequest
from common.messages import (
    Advert,
    Checked,
    CheckRequest,
    Enrol,
    Enrolled,
    Masked,
    MaskRequest,
    Plain,
    Refusal,
    Reply,
    Request,
    Revealed,
    RevealRequest,
    Settle,
    Settled,
    ShareRequest,
    Shares,
    StageRequest,
    Task,
    pack,
    unpack,
)
from common.receipts import keep_newest
from common.refusals import CODES
from common.secagg.identity import load_identity
from common.secagg.roster import LARGEST_COMPLETE, Roster, threshold_of

Read = Callable[[], Request | Reply]


def answer(site: Site, read: Read) -> Reply:
    """Answer one request. Whatever goes wrong, only a fixed code leaves; the reason goes to the site's own log."""
    make_reproducible()
    try:
        request = _read(read)
        handler = _HANDLERS.get(type(request))
        if handler is None:
            raise Refused("malformed", f"{type(request).__name__} is no request")
        return handler(site, request)
    except (Refused, mask.ProtocolError) as refusal:
        site.try_log("refused", code=refusal.code, reason=str(refusal))
        return Refusal(refusal.code if refusal.code in CODES else "failed")  # whatever an error was given for a code
    except Exception:
        site.try_log("failed", trace=traceback.format_exc())
        return Refusal("failed")


def _read(read: Read) -> Request | Reply:
    try:
        return read()
    except ValueError as error:
        raise Refused("malformed", str(error)) from error


def _pairs(names: list[str], bodies: list[bytes]) -> dict[str, bytes]:
    """Names and what belongs to each, from a server's two lists."""
    if len(names) != len(bodies) or len(set(names)) != len(names):
        raise Refused("malformed", f"{len(names)} names, not all different or not one for each of {len(bodies)} parts")
    return dict(zip(names, bodies, strict=True))


def _enrol(site: Site, request: Enrol) -> Reply:
    agree(site, request)
    site.log("agreed", run=request.run)
    modalities = sorted(site.spec().modalities)
    return Enrolled(institution=site.name, modalities=modalities)


def _task(site: Site, request: Task) -> Reply:
    agreement, stages = _at(site, request)
    admit(site, agreement, request)
    return _once(site, stages, request, lambda: _contribute(site, agreement, stages, request))


def _contribute(site: Site, agreement: Agreement, stages: Stages, request: Task) -> Reply:
    """Charge, then answer: from the charge on there is one answer and one draw of noise, whatever goes wrong."""
    noise_key, is_new = stages.begin("Task", pack(request))
    charge(site, agreement, request, stages if is_new else None)
    roster = Roster.from_bytes(site.roster_path.read_bytes())
    try:
        work = Work(site, agreement, request, num_honest(agreement.config, roster), noise_key)
        return _compute(work, stages, num_sites=len(roster.entries))
    except Exception:
        site.try_log("failed", trace=traceback.format_exc())
        return Refusal("failed")


def _compute(work: Work, stages: Stages, *, num_sites: int) -> Reply:
    site, request = work.site, work.task
    contribution = contribute(with_own_statistics(work))
    if work.agreement.config.secagg.kind == "none":
        return Plain(site.name, _with_weight(contribution), receipt_of(site, work.agreement))
    vectors = encode(work, contribution, num_sites=num_sites)
    # The whole request is bound into the session: sites that were asked for different things have no sum in common.
    where, asked = (request.run, request.round, request.purpose), request.digest()
    state, advert = mask.advertise(
        mask.Session(*where, asked, work.agreement.plan_hash, work.agreement.config.secagg.post_quantum),
        load_identity(site.identity_path),
        {block: int(vector.size) for block, vector in vectors.items()},
        institution=site.name,
        k_min=_smallest_cohort(site, work.agreement, request),
    )
    stages.keep("update", save(vectors))
    stages.keep("advertised", state.to_bytes())
    return Advert(advert, receipt_of(site, work.agreement))


def _share(site: Site, request: ShareRequest) -> Reply:
    agreement, stages = _at(site, request)

    def compute() -> Reply:
        roster = Roster.from_bytes(site.roster_path.read_bytes())
        if len(roster.entries) > LARGEST_COMPLETE:  # one of the two protocols, never both on the same keys
            raise Refused("large", f"{len(roster.entries)} sites are too many to mask all with all")
        if len(request.adverts) < threshold_of(len(roster.entries)):
            raise Refused("cohort", f"{len(request.adverts)} of the roster's {len(roster.entries)} sites are too few")
        smallest = _smallest_cohort(site, agreement, request)
        state = mask.SiteRound.from_bytes(stages.kept("advertised"))
        state, ciphertexts, signature = mask.share(state, request.adverts, request.threshold, roster, smallest)
        stages.keep("shared", state.to_bytes())
        peers = sorted(ciphertexts)
        return Shares(peers=peers, ciphertexts=[ciphertexts[peer] for peer in peers], signature=signature)

    return _once(site, stages, request, compute)


def _smallest_cohort(site: Site, agreement: Agreement, request: StageRequest) -> int:
    """The fewest sites that this one lets itself be summed with, by its own policy and by what it agreed to."""
    smallest = max(read_policy(site.policy_path).k_min, agreement.config.secagg.k_min)
    if request.purpose == "training" and not agreement.shares_training_noise:
        return smallest
    # The noise in a table is shared out among the sites: fewer of them than planned would carry too little.
    return max(smallest, threshold_of(len(Roster.from_bytes(site.roster_path.read_bytes()).entries)))


def _mask(site: Site, request: MaskRequest) -> Reply:
    _, stages = _at(site, request)

    def compute() -> Reply:
        state = mask.SiteRound.from_bytes(stages.kept("shared"))
        ciphertexts = _pairs(request.senders, request.ciphertexts)
        signatures = _pairs(request.signers, request.signatures)
        state, vectors = mask.mask(state, ciphertexts, signatures, dict(load(stages.kept("update"))))
        stages.keep("masked", state.to_bytes())
        return Masked(vectors=vectors)

    return _once(site, stages, request, compute)


def _check(site: Site, request: CheckRequest) -> Reply:
    _, stages = _at(site, request)

    def compute() -> Reply:
        state = mask.SiteRound.from_bytes(stages.kept("masked"))
        state, signature = mask.check(state, request.survivors, request.blocks)
        stages.keep("checked", state.to_bytes())
        return Checked(signature=signature)

    return _once(site, stages, request, compute)


def _reveal(site: Site, request: RevealRequest) -> Reply:
    _, stages = _at(site, request)

    def compute() -> Reply:
        state = mask.SiteRound.from_bytes(stages.kept("checked"))
        signatures = _pairs(request.signers, request.signatures)
        return Revealed(shares=mask.reveal(state, signatures))

    reply = _once(site, stages, request, compute)
    stages.erase()
    return reply


def _large(site: Site, request: LargeStageRequest) -> Reply:
    """Any stage of a sum over more sites than can mask all with all."""
    agreement, stages = _at(site, request)
    smallest = max(read_policy(site.policy_path).k_min, agreement.config.secagg.k_min)
    kind = _LARGE[type(request)]
    reply = _once(site, stages, request, lambda: kind(*answer_large(site, stages, request, smallest)))
    if isinstance(reply, Revealed):
        stages.erase()
    return reply


def _settle(site: Site, request: Settle) -> Reply:
    """Close a run: nothing new begins or is charged; then whoever is still at work is waited for, and erased."""
    agreement, receipt = agreement_of(site, request.run), b""
    site.mark_settled(request.run)
    if agreement.plan is not None:
        with open_ledger(site, read_policy(site.policy_path)) as ledger:
            ledger.settle(request.run)
            receipt = receipt_of(site, agreement)
    keep_newest(site.peer_receipts_path, request.receipts, Roster.from_bytes(site.roster_path.read_bytes()))
    run_folder = site.run_folder(request.run)
    # The rounds come first: where personal blocks and what belongs to the whole run are written, a round is locked.
    for folder in (*sorted(path for path in run_folder.iterdir() if path.is_dir()), run_folder):
        Stages(folder).erase()
    site.log("settled", run=request.run)
    return Settled(receipt=receipt)


def _at(site: Site, request: StageRequest) -> tuple[Agreement, Stages]:
    agreement = agreement_of(site, request.run)
    check_stage(request)
    check_roster_of(site, request.run)
    return agreement, Stages(_folder(site, request))


def _folder(site: Site, request: StageRequest) -> Path:
    return site.run_folder(request.run) / f"{request.round:06d}-{request.purpose}"


def _once(site: Site, stages: Stages, request: StageRequest, compute: Callable[[], Reply]) -> Reply:
    """Answer a stage once, write down what left, and erase what only this stage needed."""
    stage = type(request).__name__
    repeated = stages.answered(stage)

    def first() -> bytes:
        if site.is_settled(request.run):  # looked at inside the lock: `_settle` marks, then takes the lock and erases
            raise Refused("settled", f"run {request.run} is over")
        return pack(compute())

    body = stages.once(stage, pack(request), first, spent=_SPENT[stage])
    if not repeated:
        where = {"round": request.round, "bytes": len(body)}
        site.log("left", run=request.run, purpose=request.purpose, stage=stage, **where)
    return unpack(body)  # type: ignore[return-value]  # we packed a Reply


def _with_weight(contribution: Contribution) -> dict[str, np.ndarray]:
    """Each real block weighted, its weight last; each table as it is."""
    weight = contribution.weight
    reals = {name: np.append(vector.astype(np.float64) * weight, weight) for name, vector in contribution.reals.items()}
    return {**reals, **contribution.counts}


# By stage, the secrets that nobody needs once its answer is on disk.
_SPENT: dict[str, tuple[str, ...]] = {
    "Task": ("Task",),
    "ShareRequest": ("advertised",),
    "MaskRequest": ("shared", "update"),
    "CheckRequest": ("masked",),
    "RevealRequest": ("checked",),
    **LARGE_SPENT,
}
_LARGE = dict(zip(get_args(LargeStageRequest), (Chosen, LargeShares, LargeMasked, Checked, Revealed), strict=True))
_HANDLERS: dict[type, Callable[..., Reply]] = {
    Enrol: _enrol,
    Task: _task,
    ShareRequest: _share,
    MaskRequest: _mask,
    CheckRequest: _check,
    RevealRequest: _reveal,
    Settle: _settle,
    **dict.fromkeys(_LARGE, _large),
}
