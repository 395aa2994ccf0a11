"""From what institutions say they hold, and what is asked for, to a run that they can be asked to agree to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from common.compose import ConfigError, validate
from common.config import Config
from common.data.schema import FolderSpec, Schema, merge_schemas
from common.models.backbones.files import recorded
from common.models.model import summed_in_training
from common.privacy.plan import PrivacyPlan, make_plan
from common.releases import tables_of


@dataclass(frozen=True)
class Described:
    """What is public about the institutions that can take part.

    Attributes:
        names: of the institutions that have the task.
        schema: what their data look like.
        left_out: modalities of the folders that data.modalities leaves out.
        without_task: who is left out because they do not have the task.
    """

    names: tuple[str, ...]
    schema: Schema
    left_out: frozenset[str] = frozenset()
    without_task: tuple[str, ...] = ()

    def resolve(self, config: Config) -> Config:
        """Put the schema into the configuration, and check what only the schema can tell.

        Raises:
            ConfigError: the task or an attribute is not in the schema, or no task is named where there are several.
        """
        config = _without(config, self.left_out)
        only = next(iter(self.schema.tasks)) if len(self.schema.tasks) == 1 else ""
        objective = config.objective.model_copy(update={"task": config.objective.task or only})
        config = config.model_copy(update={"objective": objective})
        left_out = ""
        if self.without_task:
            left_out = f"Left out, as they have no task {objective.task}: {', '.join(self.without_task)}."
            config = config.model_copy(update={"honesty": f"{config.honesty} {left_out}".strip()})
        if objective.task not in self.schema.tasks:
            got = f"got {objective.task!r}" if objective.task else "name one"
            raise ConfigError(f"objective.task: the site folders have {sorted(self.schema.tasks)}, {got}")
        for name in config.audit.attributes:
            if name not in self.schema.attributes:
                raise ConfigError(
                    f"audit.attributes: the site folders have {sorted(self.schema.attributes)}, got {name!r}"
                )
        query = config.fusion.query
        if query is not None and query not in self.schema.modalities:
            raise ConfigError(f"fusion.query: the site folders have {sorted(self.schema.modalities)}, got {query!r}")
        names = set(self.names)
        if config.secagg.k_min > len(names):
            raise ConfigError(
                f"secagg.k_min: every sum takes {config.secagg.k_min} sites at least, and here are {len(names)}; to"
                " compare models all the same, without hiding anything from the server: secagg=none secagg.k_min=2."
                f" {left_out}".rstrip()
            )
        for item in config.drop:
            if item.split("@")[0] not in names:
                raise ConfigError(f"drop: the sites are {sorted(names)}, got {item!r}")
        try:
            model = recorded(config.model)
        except ValueError as error:
            raise ConfigError(f"model.encoders: {error}") from error
        resolved = {"model": model.model_dump(mode="json"), "data_schema": self.schema.model_dump(mode="json")}
        return validate(json.dumps({**config.model_dump(mode="json"), **resolved}))


def describe(config: Config, specs: Sequence[FolderSpec], *, where: str) -> Described:
    """Put the institutions' descriptions together.

    Args:
        config: names the task and the modalities.
        specs: of all institutions.
        where: what an error calls them.

    Raises:
        ConfigError: two do not fit together, or a modality is in none of them.
    """
    # Who does not have the task has nothing to teach, and would refuse: it must not pay for taking part.
    able = [spec for spec in specs if config.objective.task in spec.tasks] or list(specs)
    try:
        schema = merge_schemas(able)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    chosen = _chosen(schema, config.data.modalities)
    names = tuple(spec.name for spec in able)
    left_out = frozenset(schema.modalities) - frozenset(chosen.modalities)
    return Described(names, chosen, left_out, tuple(spec.name for spec in specs if spec.name not in names))


def plan_of(config: Config, *, num_sites: int) -> PrivacyPlan | None:
    """The run's plan; None where privacy is off.

    Raises:
        ConfigError: no noise can meet the target, or the sums that carry it do not fit into 32 bits.
    """
    if config.privacy.kind == "none":
        return None
    tables = {purpose: (table.cohort, table.l2_sensitivity) for purpose, table in tables_of(config).items()}
    try:
        summed = summed_in_training(config, num_sites)
        return make_plan(config.privacy, rounds=config.rounds, counts_needed=tables, summed=summed)
    except ValueError as error:
        raise ConfigError(f"privacy: {error}") from error


def _chosen(schema: Schema, modalities: tuple[str, ...]) -> Schema:
    """The schema with these modalities alone; none named: all."""
    for name in modalities:
        if name not in schema.modalities:
            raise ConfigError(f"data.modalities: the site folders have {sorted(schema.modalities)}, got {name!r}")
    chosen = {name: spec for name, spec in schema.modalities.items() if not modalities or name in modalities}
    return schema.model_copy(update={"modalities": chosen})


def _without(config: Config, left_out: frozenset[str]) -> Config:
    """The configuration without what it says of modalities that are left out."""
    encoders = {name: options for name, options in config.model.encoders.items() if name not in left_out}
    return config.model_copy(update={"model": config.model.model_copy(update={"encoders": encoders})})
