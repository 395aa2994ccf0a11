"""Where an institution keeps what is its own: data, keys, policy, ledger, rounds in flight, log."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from common.data.folder import SiteData, read_site, read_spec
from common.data.schema import FolderSpec

SITES_VARIABLE = "FEDMOSAIC_SITES"
RUN_NAME = re.compile(r"[a-z0-9_-]{1,100}")  # lower case only: some file systems fold it


@dataclass(frozen=True)
class Site:
    """One institution on this machine: its data folder and its state folder."""

    name: str
    folder: Path
    state: Path

    @property
    def identity_path(self) -> Path:
        """The Ed25519 identity key, made here, 0600."""
        return self.state / "identity.pem"

    @property
    def roster_path(self) -> Path:
        """The consortium's signed roster, pinned."""
        return self.state / "roster.bin"

    @property
    def policy_path(self) -> Path:
        """The institution's own floor."""
        return self.state / "policy.yaml"

    @property
    def ledger_path(self) -> Path:
        """The privacy ledger."""
        return self.state / "ledger.sqlite"

    @property
    def receipt_path(self) -> Path:
        """The newest receipt of the ledger."""
        return self.state / "ledger.receipt"

    @property
    def peer_receipts_path(self) -> Path:
        """The newest receipts that this site was shown of the other sites' ledgers."""
        return self.state / "receipts-of-others.json"

    @property
    def pseudonym_key_path(self) -> Path:
        """The secret key of the subjects' pseudonyms in the ledger."""
        return self.state / "pseudonyms.key"

    @property
    def features_path(self) -> Path:
        """What frozen encoders said of this site's records."""
        return self.state / "features"

    def run_folder(self, run: str) -> Path:
        """What this site keeps of one run: its enrolment, its stages, its personal blocks."""
        if not RUN_NAME.fullmatch(run):
            raise ValueError("a run's name has up to 100 letters (a to z), digits, - and _, and nothing else")
        return self.state / "runs" / run

    def is_settled(self, run: str) -> bool:
        """Tell whether a run is over here."""
        return (self.run_folder(run) / "settled").exists()

    def mark_settled(self, run: str) -> None:
        """Close a run for ever."""
        (self.run_folder(run) / "settled").touch(mode=0o600)

    def spec(self) -> FolderSpec:
        """The public description of the data folder (dataset.yaml); reads no record."""
        return read_spec(self.folder)

    def log(self, event: str, **facts: str | int | float) -> None:
        """Append one line to the institution's own log, which never leaves it."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts})
        handle = os.open(self.state / "log.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)

    def logged(self, event: str) -> tuple[dict[str, str | int | float], ...]:
        """The log's lines of one kind, oldest first."""
        path = self.state / "log.jsonl"
        if not path.exists():
            return ()
        lines = (json.loads(line) for line in path.read_text().splitlines())
        return tuple(line for line in lines if line["event"] == event)


@lru_cache(maxsize=64)
def _read(folder: Path, split_seed: int, _stamp: tuple[int, ...]) -> SiteData:
    return read_site(folder, split_seed=split_seed)


def site_data(folder: Path, split_seed: int) -> SiteData:
    """Read a site's folder, once for as long as its files do not change."""
    found = [path.stat() for path in sorted(folder.iterdir()) if path.is_file()]
    stamps = [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found]
    return _read(folder, split_seed, tuple(fact for stamp in stamps for fact in stamp))


def site_of(node_config: Mapping[str, object]) -> Site:
    """Find this node's institution in the node's own configuration, never in the run's.

    A deployed node names `site-name`, `site-folder` and `site-state`. A simulated node of Flower's runtime has only
    its partition number, and looks it up in the file that the environment variable FEDMOSAIC_SITES names.

    Raises:
        ValueError: the node's configuration names no institution.
    """
    if "site-state" in node_config:
        entry: Mapping[str, object] = {key.removeprefix("site-"): value for key, value in node_config.items()}
    elif "partition-id" in node_config and SITES_VARIABLE in os.environ:
        entry = json.loads(Path(os.environ[SITES_VARIABLE]).read_text())[int(str(node_config["partition-id"]))]
    else:
        raise ValueError("this node's configuration names no site: it needs site-name, site-folder and site-state")
    return Site(name=str(entry["name"]), folder=Path(str(entry["folder"])), state=Path(str(entry["state"])))
