from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import ROOMS, ROOT, Function, parsed, project_files, python_files

MOST_LINES = 300
MOST_FUNCTION_LINES = 40
VAGUE_FILES = {"utils", "util", "helpers", "helper", "misc", "base", "manager"}
EVERYWHERE = (*ROOMS, "tests")


def code_lines(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def long_functions(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, Function) and code_lines(node) > MOST_FUNCTION_LINES:
            yield f"{node.name} ({code_lines(node)} lines)"


def vague_classes(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and (node.name.endswith("Manager") or node.name.startswith("Base")):
            yield node.name


def is_one_docstring(tree: ast.Module) -> bool:
    return len(tree.body) == 1 and ast.get_docstring(tree) is not None


def test_a_file_is_one_idea_of_fewer_than_300_lines() -> None:
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in python_files(*EVERYWHERE)}
    assert {str(path): lines for path, lines in lengths.items() if lines >= MOST_LINES} == {}


@pytest.mark.parametrize("room", EVERYWHERE)
def test_a_function_fits_a_screen(room: str) -> None:
    found = {str(path): list(long_functions(parsed(path))) for path in python_files(room)}
    assert {path: names for path, names in found.items() if names} == {}


def test_a_long_function_is_found() -> None:
    body = "\n".join(f"    x{line} = {line}" for line in range(MOST_FUNCTION_LINES))
    assert list(long_functions(ast.parse(f'def f():\n    """Doc."""\n{body}'))) == ["f (41 lines)"]
    shorter = body.rsplit("\n", maxsplit=1)[0]
    assert list(long_functions(ast.parse(f'def f():\n    """Doc."""\n{shorter}'))) == []


def test_nothing_has_a_vague_name() -> None:
    files = [str(path) for path in python_files(*EVERYWHERE) if path.stem in VAGUE_FILES]
    classes = [f"{path}: {name}" for path in python_files(*EVERYWHERE) for name in vague_classes(parsed(path))]
    assert files + classes == []


def test_a_vague_class_is_found() -> None:
    assert list(vague_classes(ast.parse("class BaseSite: ...\nclass RunManager: ...\nclass Manage: ..."))) == [
        "BaseSite",
        "RunManager",
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_every_package_file_is_one_docstring_and_imports_nothing(room: str) -> None:
    folders = {path.parent for path in python_files(room)}
    missing = [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()]
    fuller = [
        str(path) for path in python_files(room) if path.name == "__init__.py" and not is_one_docstring(parsed(path))
    ]
    assert missing + fuller == []


def test_an_import_in_a_package_file_is_found() -> None:
    assert is_one_docstring(ast.parse('"""A room."""\n'))
    assert not is_one_docstring(ast.parse('"""A room."""\nimport torch\n'))
    assert not is_one_docstring(ast.parse(""))


def test_tests_live_by_kind_under_names_of_their_own() -> None:
    kinds = {"unit", "property", "statistical", "golden", "end_to_end", "architecture"}
    tests = [path for path in python_files("tests") if path.name.startswith("test_")]
    assert [str(path) for path in tests if path.parts[1] not in kinds] == []
    assert [name for name, times in Counter(path.name for path in tests).items() if times > 1] == []


def test_no_test_hides_where_a_bundle_would_drop_a_file() -> None:
    odd = [path for path in python_files(*ROOMS) if path.stem.startswith("test_") or path.stem.endswith("_test")]
    assert odd == []


def test_no_top_level_folder_that_a_bundle_drops() -> None:
    dropped = {"build", "lib", "lib64", "env", "venv", "ENV", "eggs", "parts"}
    assert {path.parts[0] for path in project_files() if len(path.parts) > 1} & dropped == set()


def test_the_top_level_is_the_one_that_was_given() -> None:
    folders = {path.parts[0] for path in project_files() if len(path.parts) > 1 and not path.parts[0].startswith(".")}
    assert folders <= {*ROOMS, "tests", "configs", "docs"}
    assert {Path("README.md"), Path("pyproject.toml"), Path("LICENSE")} <= set(project_files())
