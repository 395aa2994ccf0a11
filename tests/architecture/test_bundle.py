"""The Flower App Bundle: what travels to an institution, and what never does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files

from tests.architecture.tree import ROOT, project_files

PAGES = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "pyproject.toml"}
# Pages are written from an installed package, never from a bundle: Flower takes no other suffixes along.
LEFT_BEHIND = {".j2", ".css"}


@pytest.fixture(scope="module")
def bundle() -> zipfile.ZipFile:
    files = {path.as_posix(): ROOT / path for path in project_files()}
    return zipfile.ZipFile(io.BytesIO(build_fab_from_files(files)[0]))


def names(bundle: zipfile.ZipFile) -> set[str]:
    return {name for name in bundle.namelist() if not name.startswith(".info/")}


def test_the_bundle_holds_three_rooms_the_configs_and_a_few_pages(bundle: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in names(bundle) if not name.startswith(".")}
    assert {"client", "common", "server", "configs", "pyproject.toml"} <= tops
    assert tops <= {"client", "common", "server", "configs", "docs"} | PAGES


def test_the_bundle_holds_no_test_and_no_simulation(bundle: zipfile.ZipFile) -> None:
    assert [name for name in names(bundle) if name.startswith(("tests/", "simulations/", "runs/", ".venv/"))] == []


def test_no_file_of_the_three_rooms_is_dropped_silently(bundle: zipfile.ZipFile) -> None:
    wanted = {
        path.as_posix()
        for path in project_files()
        if path.parts[0] in {"client", "common", "server", "configs"} and path.suffix not in LEFT_BEHIND
    }
    assert wanted - names(bundle) == set()


def test_the_bundle_declares_the_run_configuration_that_the_server_reads(bundle: zipfile.ZipFile) -> None:
    declared = tomllib.loads(bundle.read("pyproject.toml").decode())["tool"]["flwr"]["app"]["config"]
    assert set(declared) == {"run", "config", "plan"}


def test_both_apps_load_from_the_bundle_without_the_rest_of_the_repository(
    bundle: zipfile.ZipFile, tmp_path: Path
) -> None:
    bundle.extractall(tmp_path)
    program = (
        "import json, sys\n"
        "import client.app, server.app\n"
        "rooms = {'client', 'common', 'server', 'simulations', 'tests'}\n"
        "print(json.dumps(sorted({str(m.__file__) for n, m in sys.modules.items() if n.split('.')[0] in rooms})))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [file for file in json.loads(done.stdout) if not Path(file).is_relative_to(tmp_path)] == []
