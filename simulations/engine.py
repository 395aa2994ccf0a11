"""Our Grid: Flower Messages to the ClientApp in this process, or in worker processes with one torch thread each."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.site import Site

NodeConfig = dict[str, str | int | float | bool]
_DROPPED = 20
_POLL_SECONDS = 60.0


class InProcessGrid(Grid):
    """Carries messages to simulated sites; `drops` names (site, group) pairs whose messages get no answer."""

    def __init__(
        self, sites: Sequence[Site], *, workers: int = 0, drops: frozenset[tuple[str, str]] = frozenset()
    ) -> None:
        """Open the pool, where one is asked for; close it with `close`."""
        self._sites = dict(enumerate(sites, start=1))
        self._drops = drops
        self._run = Run.create_empty(1)
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Message | Future[bytes]] = {}
        self._pool = _open_pool(workers) if workers else None
        _identify()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def set_run(self, run: Run) -> None:
        """Take over the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Build a message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the simulated nodes."""
        return tuple(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Accept messages; worker processes start on them at once."""
        ids = []
        for message in messages:
            name = f"message-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = name
            self._waiting[name] = self._start(message)
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return at least one reply: this process answers one message a call, a pool those that are done."""
        waiting = {name: self._waiting[name] for name in message_ids if name in self._waiting}
        futures = {item: name for name, item in waiting.items() if isinstance(item, Future)}
        if len(futures) < len(waiting):
            name = next(name for name, item in waiting.items() if isinstance(item, Message))
            message = self._waiting.pop(name)
            return [self._answer(message)] if isinstance(message, Message) else []
        done, _ = wait(futures, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        replies = []
        for future in done:
            del self._waiting[futures[future]]
            replies.append(message_from_proto(MessageProto.FromString(future.result())))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for all replies; a simulated site always answers, so `timeout` has nothing to do."""
        del timeout
        waiting, replies = set(self.push_messages(messages)), []
        while waiting:
            arrived = list(self.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            replies += arrived
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def _start(self, message: Message) -> Message | Future[bytes]:
        if self._pool is None or self._dropped(message):
            return message
        node = message.metadata.dst_node_id
        return self._pool.submit(_answer_serialised, node_config(self._sites[node]), _serialise(message))

    def _answer(self, message: Message) -> Message:
        if self._dropped(message):
            return Message(Error(_DROPPED, "dropped by the scenario"), reply_to=message)
        return _call(node_config(self._sites[message.metadata.dst_node_id]), message)

    def _dropped(self, message: Message) -> bool:
        return (self._sites[message.metadata.dst_node_id].name, message.metadata.group_id) in self._drops


def node_config(site: Site) -> NodeConfig:
    """What a deployed node of this site would find in its own configuration."""
    places = {"site-name": site.name, "site-folder": str(site.folder), "site-state": str(site.state)}
    return {**places, "site-processes": site.processes}


def drops_of(scenario: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Read `site@round` as the messages that this site leaves without an answer."""
    pairs = (item.split("@") for item in scenario)
    return frozenset((site, f"training-{number}") for site, number in pairs)


def _open_pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=_start_worker)


def _start_worker() -> None:
    """One torch thread per process; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _identify()
    import torch  # noqa: PLC0415  (only worker processes load it here)

    torch.set_num_threads(1)


def _identify() -> None:
    """Flower refuses to build a Message in a process that has no task."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def _call(config: Mapping[str, str | int | float | bool], message: Message) -> Message:
    from client.app import app  # noqa: PLC0415  (workers load torch in parallel with their parent)

    context = Context(1, message.metadata.dst_node_id, dict(config), RecordDict(), {})
    return app(message, context)


def _serialise(message: Message) -> bytes:
    return bytes(message_to_proto(message).SerializeToString())


def _answer_serialised(config: NodeConfig, body: bytes) -> bytes:
    return _serialise(_call(config, message_from_proto(MessageProto.FromString(body))))
