"""An operator's ServerApp for tests: it sends each site one message and writes down what came back."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from common.messages import Settle
from common.wire import from_records, to_records

ANSWERS = "FEDMOSAIC_TEST_ANSWERS"
_PATIENCE_SECONDS = 100

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every node to settle a run that it never agreed to, in the kind of message that the run is named after."""
    content, kind = to_records(Settle("never-agreed")), str(context.run_config["run"])
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (nodes := list(grid.get_node_ids())) and time.monotonic() < deadline:
        time.sleep(0.2)
    asked = list(grid.push_messages([grid.create_message(content, kind, node, "0") for node in nodes]))
    found: list[str] = []
    while asked and time.monotonic() < deadline:
        for message in grid.pull_messages(asked):
            asked.remove(message.metadata.reply_to_message_id)
            found.append(_said(message))
        time.sleep(0.05)
    target = Path(os.environ[ANSWERS])
    target.with_suffix(".new").write_text(json.dumps(found))
    target.with_suffix(".new").replace(target)


def _said(message: Message) -> str:
    return repr(message.error) if message.has_error() else repr(from_records(message.content))
