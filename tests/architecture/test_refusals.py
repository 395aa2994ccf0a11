"""The words that a refusal may carry are a closed set, written down once, and each of them is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.gate import answer
from client.policy import Refused
from client.site import Site
from common.messages import Refusal, Request
from common.refusals import CODES
from common.secagg.errors import ProtocolError
from tests.architecture.tree import parsed, python_files

ERRORS = {"Refused", "ProtocolError", "Refusal"}


def words(tree: ast.Module) -> Iterator[str]:
    """The first argument of every error that is built; what is no text in the source is given as source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ERRORS:
            yield _word(node.args[0] if node.args else node)
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & ERRORS:
            calls = (part for part in ast.walk(node) if isinstance(part, ast.Call))
            yield from (_word(call.args[0]) for call in calls if ast.unparse(call.func) == "super().__init__")


def _word(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return f"<{ast.unparse(node)}>"


def found() -> set[str]:
    files = [path for path in python_files("client", "common") if path.parts[0] == "client" or "secagg" in path.parts]
    return {word for path in files for word in words(parsed(path))}


def test_every_refusal_in_the_source_is_one_of_the_set() -> None:
    looked_up = "<refusal.code if refusal.code in CODES else 'failed'>"  # by the gate, whatever the error says
    # The policy's lists are held in one loop, whose words are in a table of their own, which mypy holds to the type.
    assert found() - set(CODES) == {"<code>", looked_up}
    assert len(set(CODES)) == len(CODES)


def test_no_word_of_the_set_is_never_said() -> None:
    listed = {"task", "attribute", "modality", "normalisation", "peer", "bundle"}
    assert set(CODES) - found() - listed == set()


@pytest.mark.parametrize(
    "source", ["raise Refused(f'{count}', 'x')", "raise ProtocolError('many', 'x')", "Refusal(str(count))"]
)
def test_a_word_that_tells_more_is_found(source: str) -> None:
    assert set(words(ast.parse(source))) - set(CODES)


@pytest.mark.parametrize("error", [Refused("23 subjects", "x"), ProtocolError("a", "x"), ProtocolError("", "x")])  # type: ignore[arg-type]
def test_whatever_word_an_error_has_the_door_says_none_but_those(tmp_path: Path, error: Exception) -> None:
    def read() -> Request:
        raise error

    assert answer(Site("site", tmp_path, tmp_path), read) == Refusal("failed")
