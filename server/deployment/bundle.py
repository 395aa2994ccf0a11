"""The bundle that institutions approve: a manifest without a line of code.

Flower sends a run's bundle to every node. Ours names apps that institutions have installed and reviewed themselves; a
site refuses a bundle that holds anything else (docs/deploy.md).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

from common.compose import ConfigError
from common.deployment.environment import PROGRAMS, environment_of
from common.files import PUBLIC, write_whole
from server.deployment.place import Place

_MANIFEST = """\
[project]
name = "fedmosaic"
version = "{version}"
description = "{consortium}: a run of fedmosaic, as every institution has installed it."
license = "Apache-2.0"
dependencies = ["fedmosaic=={version}", "flwr=={flwr}"]

[tool.flwr.app]
publisher = "fedmosaic"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run = ""
config = ""
plan = "null"
"""
_PAGE = """\
# {consortium}

This bundle holds no code: it names the apps of the package fedmosaic {version}, which every institution installs and
reviews itself. What a run asks for travels beside it, and each institution's own policy decides on it.
"""
_LICENCE = "Apache-2.0: see the package fedmosaic.\n"


def write_bundle(place: Place) -> str:
    """Write the manifest and build the bundle; returns its SHA-256, in hex: the same manifest gives the same.

    Raises:
        ConfigError: Flower cannot build it.
    """
    facts = {"version": version("fedmosaic"), "flwr": version("flwr"), "consortium": place.consortium.name}
    pages = {"pyproject.toml": _MANIFEST, "README.md": _PAGE, "LICENSE": _LICENCE}
    for name, text in pages.items():
        write_whole(place.bundle_folder / name, text.format(**facts), mode=PUBLIC)
    with tempfile.TemporaryDirectory(prefix="fedmosaic-bundle-") as target:
        command = [str(PROGRAMS / "flwr"), "build", "--app", str(place.bundle_folder)]
        home = Path(target) / "home"
        done = subprocess.run(  # noqa: S603
            command, cwd=target, env=environment_of(home), capture_output=True, text=True, check=False
        )
        built = sorted(Path(target).glob("*.fab"))
        if done.returncode or len(built) != 1:
            raise ConfigError(f"flwr build failed: {' '.join((done.stderr or done.stdout).split())[-300:]}")
        shutil.copyfile(built[0], place.bundle_path)
    place.bundle_path.chmod(PUBLIC)
    return hash_of(place.bundle_path)


def hash_of(path: Path) -> str:
    """SHA-256 of a bundle, in hex, as Flower and institutions name it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
