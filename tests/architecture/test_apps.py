from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, parsed, project_files


def plain_apps(tree: ast.Module, kind: str) -> int:
    """Count `app = KIND()`: at module level, unannotated, without arguments, as Flower's loader wants it."""
    wanted = ast.dump(ast.parse(f"app = {kind}()").body[0])
    return sum(ast.dump(node) == wanted for node in tree.body)


@pytest.mark.parametrize(("path", "kind"), [("server/app.py", "ServerApp"), ("client/app.py", "ClientApp")])
def test_the_app_is_a_plain_assignment(path: str, kind: str) -> None:
    assert plain_apps(parsed(Path(path)), kind) == 1


@pytest.mark.parametrize(
    "source", ["app: ServerApp = ServerApp()", "if True:\n    app = ServerApp()", "app = ServerApp(x=1)"]
)
def test_an_assignment_that_flower_would_miss_is_found(source: str) -> None:
    assert plain_apps(ast.parse(source), "ServerApp") == 0


def test_no_configuration_file_names_code() -> None:
    files = [path for path in project_files() if path.parts[0] == "configs" and path.suffix in {".yaml", ".yml"}]
    assert files, "configs/ holds no YAML"
    assert [str(path) for path in files if "_target_" in (ROOT / path).read_text(encoding="utf-8")] == []


def test_configs_hold_yaml_and_nothing_else() -> None:
    assert [str(path) for path in project_files() if path.parts[0] == "configs" and path.suffix != ".yaml"] == []
