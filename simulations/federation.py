"""Simulated institutions: their data folders, and what `site init` would leave in their state folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.policy import Policy, write_policy
from client.site import Site
from common.compose import ConfigError, validate
from common.config import Config, DataConfig
from common.data.folder import read_spec
from common.data.schema import Schema, merge_schemas
from common.models.backbones.files import recorded
from common.receipts import keep_newest, read_receipts
from common.secagg.identity import Identity, create_identity, load_identity
from common.secagg.roster import Roster, sign_roster
from simulations.datasets.digits import write_digits
from simulations.datasets.heart import write_heart, write_heart_flamby
from simulations.datasets.nafld import write_nafld
from simulations.datasets.synthetic import write_synthetic
from simulations.datasets.watch import write_watch
from simulations.datasets.xray_labs import write_xray_labs

RECEIPTS = "receipts.json"
WRITERS: dict[str, Callable[[DataConfig, Path], tuple[Path, ...]]] = {
    "heart": write_heart,
    "heart_flamby": write_heart_flamby,
    "watch": write_watch,
    "digits": write_digits,
    "xray_labs": write_xray_labs,
    "nafld": write_nafld,
    "synthetic": write_synthetic,
}


@dataclass(frozen=True)
class Federation:
    """The simulated sites and what is public about their data.

    Attributes:
        left_out: modalities of the folders that data.modalities leaves out.
        without_task: who is left out because they do not have the task.
    """

    sites: tuple[Site, ...]
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
        names = {site.name for site in self.sites}
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


def data_folders(config: Config, run_folder: Path) -> tuple[Path, ...]:
    """Write the packaged data as site folders, or find the user's.

    Raises:
        ConfigError: data.root holds no site folder, or not the recordings.
    """
    if config.data.kind in WRITERS:
        try:
            return WRITERS[config.data.kind](config.data, run_folder / "data")
        except ValueError as error:
            raise ConfigError(str(error)) from error
    root = Path(config.data.root or "")
    found = tuple(sorted(path.parent for path in root.glob("*/dataset.yaml")))
    if not found:
        itself = " (it is a site folder itself: give the one around it)" if (root / "dataset.yaml").exists() else ""
        raise ConfigError(f"data.root: no folder with a dataset.yaml in {root}{itself}")
    return found


def prepare(config: Config, run_folder: Path, server_folder: Path) -> Federation:
    """Make the sites ready; keys, policies and ledgers that are there already stay.

    Raises:
        DataError, ConfigError, ValueError: a site folder's description is wrong, or two do not fit together.
    """
    folders = data_folders(config, run_folder)
    read = {folder: read_spec(folder) for folder in folders}
    # Who does not have the task has nothing to teach, and would refuse: it must not pay for taking part.
    able = {folder: spec for folder, spec in read.items() if config.objective.task in spec.tasks} or read
    specs = tuple(able.values())
    try:
        schema = merge_schemas(specs)
    except ValueError as error:
        raise ConfigError(f"the site folders in {folders[0].parent}: {error}") from error
    described, schema = schema, _chosen(schema, config.data.modalities)
    root = Path(config.site.state) if config.site.state else run_folder / "sites"
    sites = tuple(
        Site(spec.name, folder.resolve(), (root / spec.name).resolve(), config.engine.processes_per_site)
        for spec, folder in zip(specs, able, strict=True)
    )
    root.mkdir(parents=True, exist_ok=True)
    for site in sites:
        _init(site, config)
    roster = _roster(sites, root / "consortium.pem")
    for place in (*(site.roster_path for site in sites), server_folder / "roster.bin"):
        place.write_bytes(roster.to_bytes())
    keep_newest(server_folder / RECEIPTS, _bodies(root / RECEIPTS), roster)
    left_out = frozenset(described.modalities) - frozenset(schema.modalities)
    return Federation(sites, schema, left_out, tuple(spec.name for folder, spec in read.items() if folder not in able))


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


def keep_receipts(sites: tuple[Site, ...], given: Path) -> None:
    """Keep what the server was given beside the sites' state folders, where the next run's server finds it."""
    roster = Roster.from_bytes(sites[0].roster_path.read_bytes())
    keep_newest(sites[0].state.parent / RECEIPTS, _bodies(given), roster)


def _bodies(path: Path) -> list[bytes]:
    return [receipt.to_bytes() for receipt in read_receipts(path)]


def read_sites(path: Path) -> tuple[Site, ...]:
    """Read the file that a Flower node looks its institution up in."""
    return tuple(
        Site(entry["name"], Path(entry["folder"]), Path(entry["state"]), entry.get("processes", 1))
        for entry in json.loads(path.read_text())
    )


def write_sites(sites: tuple[Site, ...], path: Path) -> None:
    """Write the file that a Flower node looks its institution up in."""
    entries = [
        {"name": site.name, "folder": str(site.folder), "state": str(site.state), "processes": site.processes}
        for site in sites
    ]
    path.write_text(json.dumps(entries, indent=1))


def _init(site: Site, config: Config) -> None:
    """What `site init` does: key, policy; a simulated institution allows what its researcher asks for."""
    site.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not site.identity_path.exists():
        create_identity(site.identity_path)
    if not site.policy_path.exists():
        policy = Policy(
            lifetime_epsilon=config.site.lifetime_epsilon,
            lifetime_delta=config.privacy.delta,
            allow_no_privacy=True,
            allow_no_secagg=True,
            allow_distributed_noise=True,
        )
        write_policy(site.policy_path, policy)


def _roster(sites: tuple[Site, ...], key_path: Path) -> Roster:
    consortium: Identity = load_identity(key_path) if key_path.exists() else create_identity(key_path)
    entries = {site.name: load_identity(site.identity_path).public_key for site in sites}
    return sign_roster(entries, consortium)
