"""Simulated institutions: their data folders, and what `site init` would leave in their state folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.policy import Policy, write_policy
from client.site import Site
from common.compose import ConfigError
from common.config import Config, DataConfig
from common.data.folder import read_spec
from common.data.schema import Schema
from common.receipts import keep_newest, read_receipts
from common.secagg.identity import Identity, create_identity, load_identity
from common.secagg.roster import Roster, sign_roster
from server.planning import Described, describe
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
    """The simulated sites and what is public about their data."""

    sites: tuple[Site, ...]
    described: Described

    @property
    def schema(self) -> Schema:
        """What the sites' data look like."""
        return self.described.schema


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
    specs = [read_spec(folder) for folder in folders]
    described = describe(config, specs, where=f"the site folders in {folders[0].parent}")
    root = Path(config.site.state) if config.site.state else run_folder / "sites"
    sites = tuple(
        Site(spec.name, folder.resolve(), (root / spec.name).resolve(), config.engine.processes_per_site)
        for spec, folder in zip(specs, folders, strict=True)
        if spec.name in described.names
    )
    root.mkdir(parents=True, exist_ok=True)
    for site in sites:
        _init(site, config)
    roster = _roster(sites, root / "consortium.pem")
    for place in (*(site.roster_path for site in sites), server_folder / "roster.bin"):
        place.write_bytes(roster.to_bytes())
    keep_newest(server_folder / RECEIPTS, _bodies(root / RECEIPTS), roster)
    return Federation(sites, described)


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
