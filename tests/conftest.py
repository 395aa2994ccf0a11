"""What every test starts from: Flower silent and away from home, one thread a process, test noise allowed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Before anything imports torch, numpy or flwr: they read these once. Children inherit them.
os.environ |= {
    "FEDMOSAIC_TESTING": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MPLBACKEND": "svg",
    # As client.arithmetic asks for it: MKL reads it once, and in these processes a test may come before the first site.
    "MKL_CBWR": "AUTO,STRICT",
}

# Two shared cores make any deadline a coin toss; what is found is printed so that it can be replayed.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")

_homes = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Give Flower and matplotlib an empty home of their own, so that no test reads or changes the user's."""
    home = tempfile.mkdtemp(prefix="fedmosaic-tests-")
    os.environ |= {"FLWR_HOME": f"{home}/flwr", "MPLCONFIGDIR": f"{home}/matplotlib"}
    config.stash[_homes] = home


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that home again."""
    shutil.rmtree(config.stash[_homes], ignore_errors=True)


@pytest.fixture(scope="session")
def written_backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny pretrained networks of every kind, one folder each."""
    from tests.tiny_backbones import write_all  # noqa: PLC0415  (seconds: only where a test asks for them)

    root = tmp_path_factory.mktemp("backbones")
    write_all(root)
    return root


@pytest.fixture
def pretrained(written_backbones: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, where a configuration looks for them."""
    monkeypatch.setenv("FEDMOSAIC_BACKBONES", str(written_backbones))
    return written_backbones
