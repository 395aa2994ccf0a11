"""`fedmosaic verify`: read, check, print."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from common.verify.anchors import read_anchors
from common.verify.explain import explain_run, show_subject
from common.verify.finding import shown
from common.verify.machine import as_json
from common.verify.read import LedgerUnreadable, read_ledger
from common.verify.show import show, show_findings
from common.verify.subject import subject_spend
from common.verify.verdict import read_budget, verify

FINE, PROBLEMS = 0, 1
_WIDTH = 140


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    receipts: tuple[Path, ...] = ()
    public_key: str | None = None
    roster: Path | None = None
    lifetime_epsilon: float | None = None
    policy: Path | None = None
    run: str | None = None
    subject: str | None = None
    modality: str | None = None
    as_json: bool = False


def run_verify(location: str, asked: Asked) -> int:
    """Verify a ledger and print what was found.

    Returns:
        The exit code: 0 nothing is wrong, 1 something is.

    Raises:
        LedgerUnreadable: the ledger, or a file beside it, cannot be read, or an option asks for what is not there.
    """
    anchors = read_anchors(asked.receipts, asked.public_key, asked.roster)
    verdict = verify(read_ledger(location), anchors, read_budget(asked.lifetime_epsilon, asked.policy))
    totals, subject = verdict.totals, None
    if asked.modality is not None and asked.subject is None:
        raise LedgerUnreadable(f"--modality {shown(asked.modality)} needs --subject: whose spending is asked for?")
    if totals is not None and asked.subject is not None:
        subject = subject_spend(totals, verdict.membership, asked.subject, asked.modality)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    if asked.as_json:
        sys.stdout.write(json.dumps(as_json(verdict, asked.run, subject), indent=1) + "\n")
    elif totals is not None and (asked.run is not None or subject is not None):
        if asked.run is not None:
            explain_run(console, verdict, totals, asked.run)
        if subject is not None:
            show_subject(console, subject, totals)
        show_findings(console, verdict)
    else:
        show(console, verdict, location.rpartition("@")[2].partition("?")[0] if "://" in location else location)
    return PROBLEMS if verdict.problems else FINE
