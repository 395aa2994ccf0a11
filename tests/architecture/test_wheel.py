"""The wheel that an institution installs: whole rooms, templates too, and the configuration where the code looks."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.architecture.tree import ROOMS, ROOT, project_files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    return zipfile.ZipFile(next(iter(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))))


def test_the_wheel_holds_every_file_of_the_rooms_and_the_configs(wheel: zipfile.ZipFile) -> None:
    wanted = {path.as_posix() for path in project_files() if path.parts[0] in {*ROOMS, "configs"}}
    assert wanted - set(wheel.namelist()) == set()


def test_the_wheel_holds_no_test_and_names_the_command(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert tops == {*ROOMS, "configs"}
    entry_points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "fedmosaic = simulations.cli:main" in wheel.read(entry_points).decode()


def test_an_installed_wheel_composes_its_own_configuration(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    program = "from common import compose; print(compose.CONFIGS); compose.compose(['experiment=heart'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "configs"
