"""The house as files and syntax trees: what the architecture tests look at."""

from __future__ import annotations

import ast
import os
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("server", "client", "common", "simulations")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def project_files() -> tuple[Path, ...]:
    """Every file that git keeps or would keep, relative to the root; without git (an unpacked archive) every file."""
    if not (ROOT / ".git").exists():
        return tuple(sorted(path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()))
    # safe.directory: in a container the checkout often belongs to another user than the one who tests.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    names = sorted(Path(os.fsdecode(name)) for name in listed.split(b"\0") if name)
    return tuple(path for path in names if (ROOT / path).is_file())


def python_files(*rooms: str) -> tuple[Path, ...]:
    """The Python files of some top-level folders, relative to the root."""
    return tuple(path for path in project_files() if path.suffix == ".py" and path.parts[0] in rooms)


def parsed(path: Path) -> ast.Module:
    """The syntax tree of one file, given relative to the root."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imported_names(tree: ast.Module) -> set[str]:
    """Every import of a file, wherever it stands, as dotted names: `from a.b import c` gives `a.b.c`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of `packages`, or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)
