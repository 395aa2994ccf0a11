"""Flower's way in: one action, which hands the request to the gate and sends back what the gate says."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.gate import Read, answer
from client.site import site_of
from common.wire import from_records, to_records

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer one request of the server."""
    return reply_to(message, context, lambda: from_records(message.content))


def reply_to(message: Message, context: Context, read: Read) -> Message:
    """Reply to a message with what the gate answers to `read`, which may raise why nothing is to be read."""
    reply = answer(site_of(context.node_config), read)
    return Message(to_records(reply), reply_to=message)
