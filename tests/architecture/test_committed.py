"""What may stand in a committed file: no place of one machine, no registry, nothing huge, no unlocked dependency."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, project_files

MOST_BYTES = 1 << 20
# Spelled in pieces, so that this file passes its own test.
REGISTRIES = re.compile("|".join([r"py" + r"pi\.org", r"python" + r"hosted\.org", r"registry\." + r"npmjs"]))
HOMES = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/[\w.-]+/")
# What a privacy claim rests on: exact in [project].dependencies, since a lock file does not travel in a bundle.
EXACT = {"cryptography", "dp-accounting", "flwr", "numpy", "opacus", "pydantic", "scipy", "sqlalchemy", "torch"}
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def texts() -> dict[Path, str]:
    return {path: (ROOT / path).read_text(encoding="utf-8", errors="replace") for path in project_files()}


def places(text: str) -> list[str]:
    return HOMES.findall(text) + ([str(ROOT)] if f"{ROOT}/" in text else [])


def locked() -> dict[str, set[str]]:
    """Versions by package, as requirements.lock pins them (more than one where they differ by Python or system)."""
    found: dict[str, set[str]] = {}
    for name, pinned in re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", LOCK, flags=re.MULTILINE):
        found.setdefault(name, set()).add(pinned)
    return found


def exact_pins() -> dict[str, str]:
    exact = re.compile(r"([A-Za-z0-9-]+)(?:\[\w+\])?==([\w.]+)")
    matches = [exact.fullmatch(item) for item in PROJECT["project"]["dependencies"]]
    return {match[1].lower(): match[2] for match in matches if match}


def test_no_file_names_a_place_of_one_machine() -> None:
    assert {str(path): places(text) for path, text in texts().items() if places(text)} == {}


def test_no_file_names_a_package_registry() -> None:
    assert [str(path) for path, text in texts().items() if REGISTRIES.search(text)] == []


def test_a_place_and_a_registry_are_found() -> None:
    assert places(f"see {ROOT}/runs")
    assert places("cd /" + "home/ada/code")
    assert not places("runs/home/a/b and client/root/x/")
    assert REGISTRIES.search("files.python" + "hosted.org")


def test_no_file_is_huge() -> None:
    assert [str(path) for path in project_files() if (ROOT / path).stat().st_size > MOST_BYTES] == []


def test_the_lock_names_hashes_and_no_address() -> None:
    entries = re.split(r"\n(?=[a-z])", "\n".join(line for line in LOCK.splitlines() if not line.startswith("#")))
    assert len(entries) > len(EXACT)
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in LOCK
    assert Path("uv.lock") not in project_files()


def test_the_lock_resolves_what_the_project_declares() -> None:
    declared = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    names = {re.split(r"[\[=<>]", item)[0].lower() for item in declared}
    assert names - set(locked()) == set()


@pytest.mark.parametrize("name", sorted(EXACT))
def test_what_privacy_rests_on_is_pinned_alike_everywhere(name: str) -> None:
    pin = exact_pins()[name]
    assert locked()[name] == {pin}
    assert version(name).split("+")[0] == pin


def test_the_wheel_can_not_be_published_by_mistake() -> None:
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]
