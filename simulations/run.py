"""A federation on this machine, from its configuration to its reports."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from client.enrolment import agree
from client.gate import answer
from client.site import Site, site_data
from common.compose import ConfigError
from common.config import Config
from common.messages import Enrol, Settle
from common.privacy.plan import PrivacyPlan
from common.receipts import read_receipts
from common.reports.record import RunRecord
from server.folder import RunFolder, create_run_folder
from server.planning import plan_of
from server.record import Finished, write_model
from simulations.federation import keep_receipts, prepare, read_sites, write_sites

Watch = Callable[[RunFolder, Config], AbstractContextManager[None]]


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to begin, or to go on."""

    folder: RunFolder
    config: Config
    plan: PrivacyPlan | None
    sites: tuple[Site, ...]

    @property
    def request(self) -> Enrol:
        """What every site is asked to agree to."""
        receipts = [receipt.to_bytes() for receipt in read_receipts(self.folder.receipts_path)]
        plan = self.plan.to_json() if self.plan else "null"
        return Enrol(self.folder.name, self.config.model_dump_json(), plan, receipts)

    @property
    def finished(self) -> Finished:
        """The run as its server knows it, once its rounds are over."""
        return Finished(self.folder, self.config, self.plan, len(self.sites))


def begin(config: Config, root: Path) -> Prepared:
    """Prepare a new run: folders, keys, plan, the sites' consent, a check of their data. Nothing stays of a failure.

    Raises:
        ConfigError, DataError: the configuration or a site folder is wrong.
        Refused: a site's policy or budget says no; no record of it was read.
    """
    folder = create_run_folder(config, root)
    try:
        federation = prepare(config, folder.path, folder.path)
        config = federation.described.resolve(config)
        plan = plan_of(config, num_sites=len(federation.sites))
        write_sites(federation.sites, folder.sites_path)
        prepared = Prepared(folder, config, plan, federation.sites)
        _admit(prepared)
        folder.save(config, plan)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return prepared


def reopen(path: Path) -> Prepared:
    """Prepare to go on with a run that was stopped.

    Raises:
        ConfigError: the path is no run folder.
    """
    folder = RunFolder(path.resolve())
    config, plan = folder.load()
    return Prepared(folder, config, plan, read_sites(folder.sites_path))


def run(prepared: Prepared, watch: Watch, *, pages: bool = True) -> RunRecord:
    """Run the rounds with the chosen engine, measure, and write model and reports (`pages`)."""
    from simulations.record import assemble_record  # noqa: PLC0415

    started = time.monotonic()
    if not prepared.folder.journal.events("ended"):
        with watch(prepared.folder, prepared.config):
            ENGINES[prepared.config.engine.kind](prepared)
    keep_receipts(prepared.sites, prepared.folder.receipts_path)
    seconds = time.monotonic() - started
    write_model(prepared.finished)
    record = assemble_record(prepared, seconds=seconds)
    if pages:
        from common.reports.write import write_all  # noqa: PLC0415  (matplotlib: only where pages are wanted)

        write_all(prepared.folder.path, record)
    return record


def _admit(prepared: Prepared) -> None:
    """Ask every site for its consent first; only then look whether its records can be read."""
    try:
        for site in prepared.sites:
            agree(site, prepared.request)
        _check_data(prepared.sites, prepared.config)
    except BaseException:
        for site in prepared.sites:
            answer(site, lambda: Settle(prepared.folder.name))
        raise


def _check_data(sites: Sequence[Site], config: Config) -> None:
    for site in sites:
        data = site_data(site, config.data.split_seed)
        limit = 1.0 / max(1, len(data.subjects))
        if config.privacy.kind != "none" and config.privacy.delta >= limit:
            message = (
                f"privacy.delta must be below 1 / subjects ({limit:.2g} at {site.name}), got {config.privacy.delta}"
            )
            raise ConfigError(message)


def _run_config(prepared: Prepared) -> dict[str, str]:
    request = prepared.request
    return {"run": request.run, "config": request.config, "plan": request.plan}


def _in_process(prepared: Prepared) -> None:
    from flwr.app import Context, RecordDict  # noqa: PLC0415  (flwr and torch: not before the run begins)

    from server.app import FOLDER_KEY, app  # noqa: PLC0415
    from simulations.engine import InProcessGrid, drops_of  # noqa: PLC0415

    config = prepared.config
    grid = InProcessGrid(prepared.sites, workers=config.engine.workers, drops=drops_of(config.drop))
    node_config = {FOLDER_KEY: str(prepared.folder.path)}
    try:
        app(grid, Context(1, 0, dict(node_config), RecordDict(), dict(_run_config(prepared))))
    finally:
        grid.close()


def _with_flower(prepared: Prepared) -> None:
    from client.site import SITES_VARIABLE  # noqa: PLC0415
    from server.folder import RUN_VARIABLE  # noqa: PLC0415
    from simulations.flower import run_flower  # noqa: PLC0415

    if prepared.config.drop:
        raise ConfigError("drop: only engine=inprocess can play this scenario")
    environment = {SITES_VARIABLE: str(prepared.folder.sites_path), RUN_VARIABLE: str(prepared.folder.path)}
    log = prepared.folder.path / "flower.log"
    run_flower(_run_config(prepared), num_sites=len(prepared.sites), environment=environment, log=log)


ENGINES: dict[str, Callable[[Prepared], None]] = {"inprocess": _in_process, "flower": _with_flower}
