"""What a site computes for each purpose, already clipped and noised: nothing here leaves without the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from torch import nn

from client.arithmetic import rows_at_once, rows_that_fit
from client.enrolment import Agreement, cohorts_of
from client.evaluate import count_table
from client.features import with_features
from client.members import load_key_of
from client.personal import load_personal, save_personal
from client.policy import Refused, read_policy
from client.shared_noise import shared_step
from client.site import Site, site_data
from client.train import LocalTraining, train_round, training_of
from common.blocks import load, standing_still
from common.data.batch import Batch, assemble
from common.data.folder import SiteData
from common.data.normalise import Normaliser, from_bounds, from_sums, normalisation_vector
from common.data.schema import Schema
from common.messages import Task
from common.models.model import build_model
from common.privacy.lattice import share_std
from common.privacy.noise import NoiseSource, os_noise, test_noise
from common.releases import from_fixed_point, schema_of, table_layout, to_fixed_point
from common.secagg.encoding import Draw, bits_for, encode_counts, encode_weighted
from common.seeds import numpy_generator


@dataclass(frozen=True)
class Contribution:
    """A site's part of a sum: real vectors by block [parameter], integers by block [cell or parameter], and its weight.

    The integers are noised already, also where they were real vectors once; only their sum modulo 2^32 counts.
    """

    reals: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class Work:
    """What a computation may look at: the site, what it agreed to, the request, and how many add noise with it.

    `own_sums` are this site's own statistics (normalisation=site), which own_statistics.py draws.
    """

    site: Site
    agreement: Agreement
    task: Task
    honest: int
    noise_key: bytes = field(default=b"", repr=False)
    own_sums: np.ndarray | None = field(default=None, repr=False)

    @property
    def schema(self) -> Schema:
        """The federation's schema."""
        return schema_of(self.agreement.config)

    def noise(self) -> NoiseSource:
        """This round's privacy noise: from the operating system, except in tests."""
        seed = self.agreement.config.privacy.test_noise_seed
        if seed is not None:
            return test_noise(seed, self.site.name, self.task.round, self.task.purpose)
        where = (self.site.name, self.task.run, self.task.round, self.task.purpose)
        return os_noise(*where, entropy=self.noise_key or None)

    def rounding(self) -> Draw:
        """Uniforms in [0, 1) for stochastic rounding, which happens after the noise: overwrites arrays with them.

        Without privacy they come from the experiment's seed, so that such a run can be repeated to the bit.
        """
        if self.agreement.plan is not None:
            return self.noise().uniforms("rounding")
        names = (self.site.name, self.task.purpose, self.task.round)
        generator = numpy_generator(self.agreement.config.seed, "rounding", *names)
        return lambda target: generator.random(out=target)

    def rows_at_once(self) -> int:
        """How many rows this machine may compute together; as many as fit where nothing is promised."""
        asked = rows_that_fit if self.agreement.plan is None else rows_at_once
        return asked(self.agreement.config.model_dump_json(), self.site.processes)

    def data(self) -> SiteData:
        """The site's records; refused where delta is no longer small against the number of subjects."""
        data = site_data(self.site, self.agreement.config.data.split_seed)
        # Against the institution's own delta, not the run's: a server that could choose it would learn the number.
        delta = read_policy(self.site.policy_path).lifetime_delta
        if self.agreement.plan is not None and delta * len(data.subjects) >= 1:
            raise Refused("failed", f"lifetime_delta {delta} is not below 1 / {len(data.subjects)} subjects")
        return data if self.agreement.plan is None else self._paying(data)

    @cached_property
    def cohorts(self) -> Mapping[str, frozenset[bytes]] | None:
        """Who takes part, by cohort, as the ledger has it; None where it charges every subject (version 2)."""
        return cohorts_of(self.site, self.agreement.run)

    def _paying(self, data: SiteData) -> SiteData:
        """Keep whom the ledger charges for this run: the members of its frozen cohorts, each in their own cohort.

        Who came into the folder, or moved to another cohort, since the run was agreed to takes no part in it.
        """
        if self.cohorts is None:
            return data
        cohorts, names = self.cohorts, load_key_of(self.site).of(data.subjects)
        pays = [name in cohorts.get(str(split), ()) for name, split in zip(names, data.split, strict=True)]
        return data.only(np.array(pays, dtype=np.bool_))

    def normaliser(self) -> Normaliser:
        """How values are scaled, as the run says."""
        kind = self.agreement.config.data.normalisation
        if kind == "none":
            return from_bounds(self.schema)
        sums = self.own_sums if kind == "site" else self.task.normalisation.get("sums")
        if sums is None:
            raise Refused("malformed", "there are no normalisation sums")
        return from_sums(self.schema, from_fixed_point(sums))

    def batch(self, split: str) -> Batch:
        """All records of one cohort."""
        data = self.data()
        rows = np.flatnonzero(data.split[data.row_subject] == split)
        batch = assemble(data, self.schema, self.normaliser(), rows)
        return with_features(self.site, self.agreement.config, batch, split, rows=self.rows_at_once())

    def model(self) -> nn.Module:
        """The model as the request's weights and the site's own personal blocks make it."""
        config = self.agreement.config
        model = build_model(config, self.schema, seed=config.seed)
        load(model, {**self.task.weights, **load_personal(self.site, self.task)})
        return model


def contribute(work: Work) -> Contribution:
    """Compute the contribution that a request asks for."""
    return CONTRIBUTIONS[work.task.purpose](work)


def local_training(work: Work) -> LocalTraining:
    """What this site does in the round that is asked for, out of what it agreed to."""
    agreement, rows = work.agreement, work.rows_at_once()
    found = training_of(agreement.config, agreement.plan, site=work.site.name, round=work.task.round, rows=rows)
    return replace(found, processes=work.site.processes)


def _training(work: Work) -> Contribution:
    config, plan = work.agreement.config, work.agreement.plan
    batch = work.batch("train")
    model, training = work.model(), local_training(work)
    with standing_still(model, training.blocks):
        if plan is not None and plan.lattice is not None:
            noised = shared_step(model, batch, training, work.noise(), honest=work.honest)
            return Contribution(counts={block: noised[block] for block in held_shared_blocks(work, tuple(noised))})
        update = train_round(model, batch, training, work.noise())
    held = held_shared_blocks(work, tuple(update))
    save_personal(work.site, work.task, model, config.federation.personal)
    # A site's true size is not for others: under DP every site weighs 1, and its size acts through its clipped sum.
    size = len(work.data().subjects_of("train")) / config.privacy.declared_subjects
    weight = 1.0 if plan is not None else min(size, config.secagg.bound)  # the last coordinate, cut like the others
    return Contribution(reals={block: update[block] for block in held}, weight=weight)


def _normalisation(work: Work) -> Contribution:
    sums = normalisation_vector(work.data(), work.schema, "train")
    return _noised_table(work, to_fixed_point(sums))


def _count_subjects(work: Work) -> Contribution:
    layout = table_layout(work.agreement.config, work.task.purpose)
    return _noised_table(work, count_table(work.model(), work.batch("test"), layout, rows=work.rows_at_once()))


def _noised_table(work: Work, table: np.ndarray) -> Contribution:
    """Add this site's share of the planned noise, so that the guaranteed honest sites carry all of it."""
    release = work.agreement.count_release(work.task.purpose)
    if release is not None:
        std = share_std(release.l2_sensitivity, release.noise_multiplier, work.honest)
        table = table + work.noise().discrete_gaussian(work.task.purpose, std, table.size)
    return Contribution(counts={work.task.purpose: table})


def held_shared_blocks(work: Work, blocks: tuple[str, ...]) -> tuple[str, ...]:
    """The blocks that this site holds and shares."""
    from common.blocks import held_blocks, is_personal  # noqa: PLC0415

    held = held_blocks(blocks, work.data().held)
    return tuple(block for block in held if not is_personal(block, work.agreement.config.federation.personal))


CONTRIBUTIONS: dict[str, Callable[[Work], Contribution]] = {
    "training": _training,
    "normalisation": _normalisation,
    "evaluation": _count_subjects,
    "audit": _count_subjects,
}


def encode(work: Work, contribution: Contribution, *, num_sites: int) -> dict[str, np.ndarray]:
    """Integers modulo 2^32 for the masks: fixed point for real blocks, cut at the public bound; tables as they are.

    What is noised already is never refused for its size: that would tell something about it.
    """
    bits, bound, draw = bits_for(num_sites), work.agreement.config.secagg.bound, work.rounding()
    encoded = {
        name: encode_weighted(vector, contribution.weight, bound=bound, bits=bits, draw=draw)
        for name, vector in sorted(contribution.reals.items())
    }
    return encoded | {name: encode_counts(table) for name, table in contribution.counts.items()}
