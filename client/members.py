"""Who takes part in a run at this site, and what they are charged for: looked at when the run is agreed to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from client.bundle import bundle_hash
from client.cohorts import Pseudonyms, load_pseudonyms
from client.ledger_schema import LedgerBroken
from client.ledger_subjects import Terms
from client.site import Site, site_data
from common.blocks import held_blocks
from common.curriculum import WHOLE, reads, trains
from common.data.folder import SPLITS
from common.models.model import first_weights
from common.privacy.events import Charge
from common.privacy.plan import TRAINING

if TYPE_CHECKING:
    from client.enrolment import Agreement


def load_key_of(site: Site, *, may_make: bool = False) -> Pseudonyms:
    """Read the site's pseudonym key; the ledger takes no other one than that of its first reservation.

    Raises:
        LedgerBroken: it is gone or damaged.
    """
    try:
        return load_pseudonyms(site.pseudonym_key_path, may_make=may_make)
    except (FileNotFoundError, ValueError) as error:
        raise LedgerBroken(f"{site.pseudonym_key_path.name} is gone or damaged: restore it with its ledger") from error


def charges_of(site: Site, agreement: Agreement) -> tuple[Charge, ...]:
    """The plan's charges, with the modalities that this site reads for them and the blocks that it moves.

    Training is one charge over all rounds: it names what any stage reads or moves.
    """
    if agreement.plan is None:
        return ()
    modalities = tuple(sorted(site.spec().modalities))
    stages = agreement.config.stages
    held = held_blocks(tuple(first_weights(agreement.config)), modalities)
    blocks = tuple(block for block in held if any(trains(stage, block) for stage in stages or (WHOLE,)))
    read = tuple(name for name in modalities if any(reads(stage, name) for stage in stages or (WHOLE,)))
    return tuple(
        replace(charge, modalities=read, blocks=blocks)
        if charge.purpose == TRAINING
        else replace(charge, modalities=modalities)
        for charge in agreement.plan.charges()
    )


def terms_of(site: Site, agreement: Agreement, *, leave_out: bool) -> Terms:
    """Freeze who takes part: of the folder, only the subjects' names and cohorts are looked at.

    A folder that cannot be read has no members: whether this run is agreed to does not depend on a record. It fails
    where its records are needed, and once it is repaired nobody in it takes part in this run.
    """
    key = load_key_of(site, may_make=True)
    try:
        data = site_data(site, agreement.config.data.split_seed)
        members = {split: [data.subjects[place] for place in data.subjects_of(split)] for split in SPLITS}
        cohorts = {split: key.cohort(subjects) for split, subjects in members.items()}
    except Exception as error:  # whatever a cell does to its reader: any other answer would tell of it, uncharged
        site.log("failed", trace=f"{type(error).__name__}: {error}")
        cohorts = {split: key.cohort(()) for split in SPLITS}
    return Terms(cohorts, key.check, bundle_hash(), leave_out)
