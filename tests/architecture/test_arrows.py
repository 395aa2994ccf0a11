from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import ROOMS, ROOT

# One line in one file each, and the words of the contract that it breaks.
BROKEN = {
    "client reaches into the server": ("client/policy.py", "import server.link", "server and client never meet"),
    "common reaches up": ("common/seeds.py", "from client import gate", "server and client never meet"),
    "flwr deep in the house": ("server/loop.py", "from flwr.app import Message", "flwr only in"),
    "a second accountant": ("server/state.py", "import dp_accounting", "dp_accounting only in"),
    "a late import hides": ("client/gate.py", "def f():\n    from opacus import grad_sample", "opacus only in"),
    "hydra at a site": ("client/policy.py", "from omegaconf import OmegaConf", "hydra and omegaconf only in"),
    "a second home for keys": ("client/ledger.py", "from cryptography import x509", "cryptography only in"),
    "the engine knows the house": ("common/bookkeeping/rows.py", "import numpy", "common.bookkeeping rests on torch"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "lint-imports"
    command = [str(program), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_follow_the_arrows_of_the_house() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


def test_each_arrow_can_be_broken_and_is_then_reported(tmp_path: Path) -> None:
    for room in (*ROOMS, *(str(path.parent.relative_to(ROOT)) for path in ROOT.glob("common/*/__init__.py"))):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text('"""A room."""\n')
    for path, line, _ in BROKEN.values():
        (tmp_path / path).write_text(f"{line}\n")
    for target in ("server/link.py", "client/gate.py", "common/blocks.py", "common/compose.py", "common/config.py"):
        (tmp_path / target).touch()
    result = lint(tmp_path)
    assert result.returncode == 1, result.stdout
    for case, (_, _, words) in BROKEN.items():
        verdicts = [row for row in result.stdout.splitlines() if words in row and row.rstrip().endswith("BROKEN")]
        assert verdicts, f"{case}: not reported\n{result.stdout}"


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_imported_from_this_repository(room: str) -> None:
    module = __import__(room)
    assert module.__file__ == str(ROOT / room / "__init__.py")
