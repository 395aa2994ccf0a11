"""The run folder: what a run leaves, and what resuming it needs."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.compose import ConfigError, validate
from common.config import Config
from common.journal import Journal
from common.privacy.plan import PrivacyPlan

RUN_VARIABLE, RUNS_VARIABLE = "FEDMOSAIC_RUN", "FEDMOSAIC_RUNS"
_TRIES = 100


@dataclass(frozen=True)
class RunFolder:
    """`runs/<experiment>/<time>-<short hash>/`."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name, as ledgers know it: experiment, time, hash."""
        return f"{self.path.parent.name}-{self.path.name}"

    @property
    def journal(self) -> Journal:
        """Every round: released values and public facts."""
        return Journal(self.path / "journal.sqlite")

    @property
    def receipts_path(self) -> Path:
        """The newest receipts of the sites' ledgers that the server was given."""
        return self.path / "receipts.json"

    @property
    def nodes_path(self) -> Path:
        """Deployed: which node is which institution."""
        return self.path / "state" / "nodes.json"

    @property
    def sites_path(self) -> Path:
        """Where the simulated institutions are."""
        return self.path / "state" / "sites.json"

    def save(self, config: Config, plan: PrivacyPlan | None) -> None:
        """Write the resolved configuration (with its hash) and the plan; from then on the run can be resumed."""
        (self.path / "state" / "plan.json").write_text("null" if plan is None else plan.to_json())
        values = json.loads(config.model_dump_json())
        body = yaml.safe_dump({"hash": config.hash(), "seal": _seal(values), "config": values}, sort_keys=False)
        draft = self.path / ".config.yaml"
        draft.write_text(body)
        draft.replace(self.path / "config.yaml")

    def load(self) -> tuple[Config, PrivacyPlan | None]:
        """Read back what was saved.

        Raises:
            ConfigError: this is no run folder, or its configuration was changed.
        """
        path = self.path / "config.yaml"
        if not path.exists():
            raise ConfigError(f"{self.path} is no run folder: it has no config.yaml")
        stored = yaml.safe_load(path.read_text())
        if _seal(stored["config"]) != stored.get("seal", _seal(stored["config"])):
            raise ConfigError(f"{path} was changed after the run began: its hash is another")
        other = f"{path} was written by another release of fedmosaic, which knows other settings: go on with that one"
        try:
            config = validate(json.dumps(stored["config"]))
        except ConfigError as error:
            raise ConfigError(f"{other} ({error})") from error
        if config.hash() != stored["hash"]:
            raise ConfigError(other)
        text = (self.path / "state" / "plan.json").read_text()
        return config, None if text == "null" else PrivacyPlan.from_json(text)


def _seal(config: object) -> str:
    """Name what stands in the file, whatever a release makes of it."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def create_run_folder(config: Config, root: Path) -> RunFolder:
    """Make a new run folder below `root`."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.hash()[:6]}"
    for attempt in range(_TRIES):
        path = root / config.experiment / (stem if not attempt else f"{stem}-{attempt}")
        try:
            (path / "state").mkdir(parents=True)
        except FileExistsError:
            continue
        return RunFolder(path.resolve())
    raise ConfigError(f"{root / config.experiment} holds too many runs of this second")


def run_folder_of(runs: Path, name: str) -> RunFolder:
    """Find a run's folder by the run's name.

    Raises:
        ConfigError: there is none.
    """
    for path in sorted(runs.glob("*/*")):
        if (found := RunFolder(path.resolve())).name == name:
            return found
    raise ConfigError(f"there is no run {name} in {runs}")
