"""A ServerApp that sends every site the requests that lie in a file, one after the other, and keeps the answers."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.messages import pack, unpack
from common.wire import from_records, to_records

SCRIPT, ANSWERS = "FEDMOSAIC_TEST_SCRIPT", "FEDMOSAIC_TEST_ANSWERS"
_PATIENCE_SECONDS = 300

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Send, in order; a request is sent once all have answered the one before."""
    del context
    bodies = [base64.b64decode(body) for body in json.loads(Path(os.environ[SCRIPT]).read_text())]
    nodes, answers = sorted(grid.get_node_ids()), []
    for number, body in enumerate(bodies):
        content = to_records(unpack(body))
        asked = set(grid.push_messages([grid.create_message(content, "query", node, str(number)) for node in nodes]))
        found: dict[str, str] = {}
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while asked and time.monotonic() < deadline:
            for message in grid.pull_messages(asked):
                asked.discard(message.metadata.reply_to_message_id)
                node = str(message.metadata.src_node_id)
                if message.has_error():
                    found[node] = f"error {message.error.code}: {message.error.reason}"
                else:
                    found[node] = base64.b64encode(pack(from_records(message.content))).decode()
            time.sleep(0.05)
        answers.append(found)
    target = Path(os.environ[ANSWERS])
    target.with_suffix(".new").write_text(json.dumps(answers))
    target.with_suffix(".new").replace(target)
