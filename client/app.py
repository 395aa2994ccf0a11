"""Flower's way in: one action, which hands the request to the gate and sends back what the gate says."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.gate import answer
from client.site import site_of
from common.wire import from_records, to_records

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer one request of the server."""
    reply = answer(site_of(context.node_config), lambda: from_records(message.content))
    return Message(to_records(reply), reply_to=message)
