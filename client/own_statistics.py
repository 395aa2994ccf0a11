"""A site's own statistics (normalisation=site): a stage of the whole run, charged and drawn once.

They are never sent, but every gradient depends on them, and so on every subject behind them: exact ones would let one
subject move all the others' gradients, past any clip. So they carry full noise and are charged.
"""

from __future__ import annotations

import traceback
from dataclasses import replace

import numpy as np
from safetensors.numpy import load, save

from client.contribute import Work, contribute
from client.enrolment import open_ledger
from client.policy import Refused, read_policy
from client.stages import Stages
from common.messages import Task

_STAGE = "own-statistics"


def with_own_statistics(work: Work) -> Work:
    """Draw this site's own statistics, or find them, where the run scales by them; training and tables then read them.

    Guarantees:
        once: one charge, one draw of noise and one outcome a run: where it fails it fails for ever, so that nobody can
            ask until a record is repaired.

    Raises:
        Refused: they could not be drawn, now or earlier in this run.
    """
    if work.agreement.config.data.normalisation != "site":
        return work
    if work.agreement.plan is None:
        return replace(work, own_sums=_drawn(work, b""))
    own = Stages(work.site.run_folder(work.task.run))
    body = own.once(_STAGE, b"", lambda: _charged_and_drawn(work, own), spent=(_STAGE,))
    if not body:
        raise Refused("failed", "this site's own statistics could not be drawn, for ever in this run")
    return replace(work, own_sums=load(body)["sums"])


def _charged_and_drawn(work: Work, own: Stages) -> bytes:
    noise_key, is_new = own.begin(_STAGE, b"")
    try:
        with open_ledger(work.site, read_policy(work.site.policy_path)) as ledger:
            plan = work.agreement.plan_hash.hex()
            first = ledger.release(work.task.run, 0, "own", "normalisation", 1, plan=plan)
        if is_new and not first:
            raise Refused("replay", "this site's own statistics were charged, and their noise is gone")
        return save({"sums": _drawn(work, noise_key)})
    except Exception:
        work.site.log("failed", trace=traceback.format_exc())
        return b""


def _drawn(work: Work, noise_key: bytes) -> np.ndarray:
    first = replace(work, task=Task(work.agreement.run, 0, "normalisation"), honest=1, noise_key=noise_key)
    return contribute(first).counts["normalisation"]
