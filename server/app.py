"""Flower's way in: a Link over the Grid, the settings of the run, and the rounds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from common.compose import validate
from common.messages import Reply, Request
from common.privacy.plan import PrivacyPlan
from common.secagg.roster import Roster
from common.wire import from_records, size_of, to_records
from server.folder import RUN_VARIABLE, RUNS_VARIABLE, RunFolder, run_folder_of
from server.link import Failure
from server.loop import Settings, run_federation

FOLDER_KEY = "server-folder"
_POLL_SECONDS = 0.05

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run's configuration describes."""
    settings = settings_of(context.run_config, _folder(context))
    known = RunFolder(settings.folder).nodes_path
    only = frozenset(json.loads(known.read_text()).values()) if known.exists() else None
    link = GridLink(grid, timeout_seconds=settings.config.federation.timeout_seconds, only=only)
    try:
        run_federation(link, settings)
    except Exception as error:
        settings.journal.record("stopped", 0, {"error": type(error).__name__, "why": str(error)})
        raise


def _folder(context: Context) -> Path:
    """Where the server keeps its own things is never the run's to say: its node's configuration or its environment."""
    if FOLDER_KEY in context.node_config:
        return Path(str(context.node_config[FOLDER_KEY]))
    if RUNS_VARIABLE in os.environ:
        return run_folder_of(Path(os.environ[RUNS_VARIABLE]), str(context.run_config["run"])).path
    return Path(os.environ[RUN_VARIABLE])


def settings_of(run_config: Mapping[str, str | int | float | bool], folder: Path) -> Settings:
    """Read the run's configuration (one JSON string each for config and plan) and the server's own roster."""
    plan = str(run_config["plan"])
    return Settings(
        run=str(run_config["run"]),
        config=validate(str(run_config["config"])),
        plan=PrivacyPlan.from_json(plan) if json.loads(plan) else None,
        folder=folder,
        roster=Roster.from_bytes((folder / "roster.bin").read_bytes()),
    )


class GridLink:
    """Our Link over Flower's Grid: push, then yield each reply as it arrives."""

    def __init__(self, grid: Grid, *, timeout_seconds: float, only: frozenset[str] | None = None) -> None:
        """Keep the grid, the longest wait for one stage, in seconds, and the run's nodes; None: all there are."""
        self._grid = grid
        self._timeout_seconds = timeout_seconds
        self._only = only

    def nodes(self) -> tuple[int, ...]:
        """Ids of the run's nodes, sorted: those that were named, or all that can be reached now."""
        return tuple(sorted(self._grid.get_node_ids() if self._only is None else map(int, self._only)))

    def ask(
        self, requests: Mapping[int, Request], *, group: str, largest_bytes: int
    ) -> Iterator[tuple[int, Reply | Failure]]:
        """Send one request to each node; a node that stays silent past the timeout is a failure.

        A node whose app died is asked once more: a site answers the same request with the same bytes, so that a
        process that was killed costs nobody a round.

        Replies are pulled one by one: a grid gives all that it has at once, and that many vectors would be in memory.
        What comes later than the timeout is never pulled, and no later stage waits for its number.
        """
        waiting, again, left = self._push(requests, group), set(requests), set(requests)
        deadline = time.monotonic() + self._timeout_seconds
        while waiting and time.monotonic() < deadline:
            arrived = False
            for name in list(waiting):
                for message in self._grid.pull_messages([name]):
                    node = waiting.pop(message.metadata.reply_to_message_id, None)
                    if node is None:
                        continue
                    arrived = True
                    if message.has_error() and node in again:
                        again.remove(node)
                        waiting |= self._push({node: requests[node]}, group)
                        continue
                    left.remove(node)
                    yield node, _reply_of(message, largest_bytes)
            if not arrived:
                time.sleep(_POLL_SECONDS)
        for node in sorted(left):
            yield node, Failure("silent" if node in waiting.values() else "unreachable")

    def _push(self, requests: Mapping[int, Request], group: str) -> dict[str, int]:
        """Send requests; gives the nodes by the numbers of their messages, without those whom Flower does not know."""
        nodes = sorted(requests)
        # One form for all who are asked the same: a model is not copied once for each site.
        records = {id(request): to_records(request) for request in {id(r): r for r in requests.values()}.values()}
        messages = [self._grid.create_message(records[id(requests[node])], "query", node, group) for node in nodes]
        return {name: node for name, node in zip(self._grid.push_messages(messages), nodes, strict=True) if name}


def _reply_of(message: Message, largest_bytes: int) -> Reply | Failure:
    if message.has_error():
        return Failure("unreachable")
    try:
        if size_of(message.content) > largest_bytes:
            return Failure("oversized")
        return from_records(message.content)  # type: ignore[return-value]  # checked by kind where it is used
    except ValueError:
        return Failure("malformed")
