"""What a run folder's configuration is refused for: somebody's change, or another release."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.compose import ConfigError, compose
from server.folder import RunFolder, create_run_folder, run_folder_of


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    config = compose(["experiment=heart", "objective.learning_rate=1e-7"])
    made = create_run_folder(config, tmp_path)
    made.save(config, None)
    return made


def change(folder: RunFolder, *, sealed: bool, **values: object) -> None:
    path = folder.path / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    stored["config"].update(values)
    if sealed:
        del stored["seal"]
    path.write_text(yaml.safe_dump(stored, sort_keys=False))


def test_what_was_saved_is_read_back(folder: RunFolder) -> None:
    config, plan = folder.load()
    assert config == compose(["experiment=heart", "objective.learning_rate=1e-7"])
    assert plan is None


def test_a_change_by_hand_is_named_as_one(folder: RunFolder) -> None:
    change(folder, sealed=False, rounds=7)
    with pytest.raises(ConfigError, match="was changed after the run began"):
        folder.load()


@pytest.mark.parametrize("values", [{"rounds": 7}, {"a_setting_of_tomorrow": 1}])
def test_what_another_release_wrote_is_named_as_such(folder: RunFolder, values: dict[str, object]) -> None:
    change(folder, sealed=True, **values)
    with pytest.raises(ConfigError, match="another release"):
        folder.load()


def test_a_run_is_found_by_its_name_and_by_no_other(folder: RunFolder, tmp_path: Path) -> None:
    assert run_folder_of(tmp_path, folder.name).path == folder.path
    with pytest.raises(ConfigError, match="there is no run"):
        run_folder_of(tmp_path, f"../{folder.name}")
