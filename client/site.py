"""Where an institution keeps what is its own: data, keys, policy, ledger, rounds in flight, log."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from client.decoded import Shelf
from client.policy import read_policy
from client.stages import alone
from common.data.decoding import Decoder
from common.data.folder import SiteData, read_site, read_spec
from common.data.manifest import read_manifest
from common.data.modalities import TabularSpec
from common.data.records import file_names, with_companions
from common.data.schema import FolderSpec

SITES_VARIABLE = "FEDMOSAIC_SITES"
_MOST_PROCESSES = 64
RUN_NAME = re.compile(r"[a-z0-9_-]{1,100}")  # lower case only: some file systems fold it


@dataclass(frozen=True)
class Site:
    """One institution on this machine: its data folder, its state folder, and how many processes train."""

    name: str
    folder: Path
    state: Path
    processes: int = 1

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
    def decoded_path(self) -> Path:
        """What this site's files were decoded to."""
        return self.state / "decoded"

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

    def try_log(self, event: str, **facts: str | int | float) -> None:
        """The same for what is refused: on a full disk too, a server gets its fixed code and no error's text."""
        with suppress(OSError):
            self.log(event, **facts)

    def logged(self, event: str) -> tuple[dict[str, str | int | float], ...]:
        """The log's lines of one kind, oldest first."""
        path = self.state / "log.jsonl"
        if not path.exists():
            return ()
        lines = (json.loads(line) for line in path.read_text().splitlines())
        return tuple(line for line in lines if line["event"] == event)


def site_data(site: Site, split_seed: int, decoder: Decoder | None = None) -> SiteData:
    """Read a site's folder, once for as long as none of its files changes, under the site's own policy.

    Decoded files are kept in the site's state folder, unless the policy says `encrypt_features`: then they are decoded
    anew by every process.

    Raises:
        DataError: the first thing that is wrong, with file, row and column.
        PolicyBroken: the policy cannot be read.
    """
    policy = read_policy(site.policy_path)
    kept, identified = not policy.encrypt_features, policy.allow_identified_files
    table = _stamp(sorted(path for path in site.folder.iterdir() if path.is_file()))
    paths = (site.folder / name for name in _named(site.folder, table))
    files = _stamp(part for path in paths for part in with_companions(site.folder, path))
    newest, key = _newest(site, split_seed), (table, files, kept, identified)
    data = newest.get(key)
    if data is None:
        newest.clear()  # whoever left the folder leaves the memory
        data = newest[key] = _read(site, split_seed, decoder or Decoder(), kept=kept, identified=identified)
    return data


def _read(site: Site, split_seed: int, decoder: Decoder, *, kept: bool, identified: bool) -> SiteData:
    shelf = Shelf(site.decoded_path, decoder)
    with alone(site.decoded_path):
        shelf.tidy(tuple(site.spec().modalities.values()) if kept else ())
        return read_site(site.folder, split_seed=split_seed, decode=shelf if kept else decoder, identified=identified)


@lru_cache(maxsize=64)
def _newest(_site: Site, _split_seed: int) -> dict[tuple[bytes, bytes, bool, bool], SiteData]:
    return {}


@lru_cache(maxsize=64)
def _named(folder: Path, _stamp: bytes) -> tuple[str, ...]:
    """The files that a folder's manifest names, as often as it does."""
    specs = [spec for spec in read_spec(folder).modalities.values() if not isinstance(spec, TabularSpec)]
    manifest = read_manifest(folder) if specs else None
    return tuple(name for spec in specs if manifest is not None for name in file_names(manifest, spec))


def _stamp(paths: Iterable[Path]) -> bytes:
    """What the file system says of files: another time, size or place is another file."""
    digest = hashlib.blake2b(digest_size=32)
    for path in paths:
        try:
            facts = path.stat()
            said = repr((facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino))
        except (OSError, ValueError):  # it is not there, or no name of a file: whoever reads it says so
            said = ""
        digest.update(f"{str(path)!r} {said}\n".encode(errors="surrogatepass"))
    return digest.digest()


def site_of(node_config: Mapping[str, object]) -> Site:
    """Find this node's institution in the node's own configuration, never in the run's.

    A deployed node names `site-name`, `site-folder`, `site-state` and, where it has several, how many `site-processes`
    share a training step out. A simulated node of Flower's runtime has only
    its partition number, and looks it up in the file that the environment variable FEDMOSAIC_SITES names.

    Raises:
        ValueError: the node's configuration names no institution, or no number of processes.
    """
    if "site-state" in node_config:
        entry: Mapping[str, object] = {key.removeprefix("site-"): value for key, value in node_config.items()}
    elif "partition-id" in node_config and SITES_VARIABLE in os.environ:
        entry = json.loads(Path(os.environ[SITES_VARIABLE]).read_text())[int(str(node_config["partition-id"]))]
    else:
        raise ValueError("this node's configuration names no site: it needs site-name, site-folder and site-state")
    processes = entry.get("processes", 1)
    if not isinstance(processes, int) or not 1 <= processes <= _MOST_PROCESSES:
        raise ValueError(f"site-processes must be a number from 1 to {_MOST_PROCESSES}, got {processes!r}")
    return Site(str(entry["name"]), Path(str(entry["folder"])), Path(str(entry["state"])), processes)
