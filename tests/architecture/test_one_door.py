"""Everything that leaves an institution leaves through client/gate.py: nothing else at the site can build a reply."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

from common import messages
from tests.architecture.tree import imported_names, parsed, python_files, within

REPLIES = {f"{kind.__module__}.{kind.__name__}" for kind in get_args(messages.Reply)}
DOOR = Path("client/gate.py")
WAY_IN = Path("client/app.py")
# The way in may know these, and nothing else: with them it can only pass on what the gate answered.
WAY_IN_NAMES = {
    "__future__.annotations",
    "flwr.app.Context",
    "flwr.app.Message",
    "flwr.clientapp.ClientApp",
    "client.gate.Read",
    "client.gate.answer",
    "client.site.site_of",
    "common.wire.from_records",
    "common.wire.to_records",
}
# Other ways out of the machine. (`site join` starts Flower's SuperNode with `common.deployment.supervise`.)
WAYS_OUT = (
    *("ctypes", "ftplib", "grpc", "http", "httpx", "os.popen", "os.system", "ray", "requests", "smtplib", "socket"),
    *("ssl", "subprocess", "telnetlib", "torch.distributed", "urllib", "urllib3", "xmlrpc"),
)
# Sockets that never leave the machine: the warm worker's, and a look at which port of this machine is free.
LOCAL_SOCKETS = {f"client/deployment/{name}.py" for name in ("hand_over", "join", "warm")}


def builds_replies(tree: ast.Module) -> set[str]:
    """Names with which a file could build a reply or put one on the wire."""
    names = imported_names(tree)
    roots = {"common.messages", "common.messages.*", "common.messages.pack", "common.wire", "common.messages.Reply"}
    roots |= {"common.large_messages", "common.large_messages.*", "common.large_messages.LargeReply"}
    roots |= {name.replace("large_messages", "messages") for name in REPLIES}  # where they can be imported from as well
    wire = {name for name in names if within(name, "common.wire")}
    return (
        (names & (REPLIES | roots))
        | wire
        | {f"common.{name}" for name in ("messages", "large_messages") if name in _from_common(tree)}
    )


def other_ways_out(tree: ast.Module) -> set[str]:
    return {name for name in imported_names(tree) if within(name, *WAYS_OUT)}


def _from_common(tree: ast.Module) -> set[str]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "common"]
    return {alias.name for node in nodes for alias in node.names}


def _calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def test_only_the_gate_can_build_a_reply() -> None:
    found = {str(path): builds_replies(parsed(path)) for path in python_files("client") if path not in {DOOR, WAY_IN}}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_gate_builds_replies() -> None:
    assert builds_replies(parsed(DOOR)) >= {"common.messages.Masked", "common.messages.Refusal"}


@pytest.mark.parametrize(
    "source",
    [
        "from common.messages import Masked",
        "from common.messages import Plain as Quiet",
        "import common.messages",
        "from common import messages",
        "from common.messages import *",
        "from common.wire import to_records",
        "from common.large_messages import Chosen",
        "from common import large_messages",
        "def late():\n    from common.messages import Revealed",
    ],
)
def test_a_second_door_is_found(source: str) -> None:
    assert builds_replies(ast.parse(source))


def test_reading_requests_is_no_door() -> None:
    assert not builds_replies(ast.parse("from common.messages import Task, Enrol, StageRequest"))


def test_the_way_in_only_passes_on_what_the_gate_answers() -> None:
    tree = parsed(WAY_IN)
    assert imported_names(tree) <= WAY_IN_NAMES
    replies = _calls(tree, "Message")
    assert len(replies) == len(_calls(tree, "answer")) == 1  # what stands in for Flower's program uses the same
    assigned = {
        ast.unparse(node.value.func): ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
    }
    assert ast.unparse(replies[0].args[0]) == f"to_records({assigned['answer']})"
    assert {keyword.arg for keyword in replies[0].keywords} == {"reply_to"}


def test_the_way_in_keeps_nothing_in_flower() -> None:
    attributes = {ast.unparse(node) for node in ast.walk(parsed(WAY_IN)) if isinstance(node, ast.Attribute)}
    assert {name for name in attributes if name.startswith("context.")} == {"context.node_config"}


def test_flower_messages_are_known_only_at_the_two_edges() -> None:
    users = {
        str(path)
        for path in python_files("client", "common", "server")
        if any(within(name, "flwr") for name in imported_names(parsed(path)))
    }
    guard = "client/deployment/task.py"
    assert users <= {"client/app.py", guard, "common/wire.py", "server/app.py", "server/cli.py"}


def test_the_site_has_no_other_way_out() -> None:
    found = {str(path): other_ways_out(parsed(path)) for path in python_files("client")}
    assert {path: names for path, names in found.items() if names} == {path: found[path] for path in LOCAL_SOCKETS}
    assert {name.partition(".")[0] for path in LOCAL_SOCKETS for name in found[path]} == {"socket"}


def test_the_site_opens_sockets_on_its_own_machine_only() -> None:
    found = {ast.unparse(call) for path in LOCAL_SOCKETS for call in _calls(parsed(Path(path)), "socket.socket")}
    assert found == {"socket.socket()", "socket.socket(socket.AF_UNIX)"}
    bound = [ast.unparse(call) for call in _calls(parsed(Path("client/deployment/join.py")), "trial.bind")]
    assert len(bound) == 2
    assert all(place.startswith("trial.bind(('127.0.0.1', ") for place in bound)


@pytest.mark.parametrize("source", ["import socket", "from urllib.request import urlopen", "from os import system"])
def test_another_way_out_is_found(source: str) -> None:
    assert other_ways_out(ast.parse(source))
