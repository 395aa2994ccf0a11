"""Sound files become one channel at one rate; what they claim is held against what they hold."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.data.error import DataError
from common.data.records import decode_cell
from tests.files_of_every_kind import SOUND, cell, write_sound


def tone(seconds: float, rate: int, hertz: float = 50) -> np.ndarray:
    return np.asarray(0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate))


@pytest.mark.parametrize(("name", "tolerance"), [("a.wav", 1e-3), ("a.flac", 1e-3), ("a.ogg", 0.05)])
def test_a_tone_is_the_same_tone_at_another_rate(tmp_path: Path, name: str, tolerance: float) -> None:
    found = decode_cell(cell(write_sound(tmp_path / name)), SOUND)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[20:-20], tone(0.2, 1000)[20:-20], atol=tolerance)


def test_what_is_faster_than_the_new_rate_can_hold_does_not_come_back_as_something_else(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.4, 2000, hertz=900), 2000)
    assert np.abs(decode_cell(cell(tmp_path / "a.wav"), SOUND)[20:-20]).max() < 0.01


def test_channels_are_mixed_and_a_short_sound_keeps_its_length(tmp_path: Path) -> None:
    left = tone(0.1, 1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, -left], axis=1), 1000)
    found = decode_cell(cell(tmp_path / "a.wav"), SOUND)
    assert found.shape == (100,)
    assert np.abs(found).max() < 1e-4


def damaged(path: Path, change: bytes, at: int) -> Path:
    body = bytearray(path.read_bytes())
    body[at : at + len(change)] = change
    path.write_bytes(body)
    return path


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFFFF, 5000])
def test_a_wav_that_claims_more_than_it_holds_is_refused_at_once(tmp_path: Path, claimed: int) -> None:
    path = damaged(write_sound(tmp_path / "a.wav"), struct.pack("<I", claimed), 40)
    says = rf"manifest\.csv, row 2, column file: 'a\.wav': the file is truncated: its header claims {claimed} bytes"
    with pytest.raises(DataError, match=says):
        decode_cell(cell(path), SOUND)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_sound_that_was_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    path = write_sound(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"row 2, column file: 'a\."):
        decode_cell(cell(path), SOUND.model_copy(update={"seconds": 5.0}))


def test_a_sound_without_samples_and_one_of_no_numbers_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 1000)
    with pytest.raises(DataError, match="holds no samples"):
        decode_cell(cell(tmp_path / "a.wav"), SOUND)
    soundfile.write(tmp_path / "b.wav", np.array([0.1, np.nan, 0.2]), 1000, subtype="FLOAT")
    with pytest.raises(DataError, match="no finite number"):
        decode_cell(cell(tmp_path / "b.wav"), SOUND)


def test_another_kind_of_file_under_the_name_is_not_tried(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b".snd" + b"\0" * 100)  # libsndfile would read it
    with pytest.raises(DataError, match="neither WAV, FLAC nor OGG"):
        decode_cell(cell(tmp_path / "a.wav"), SOUND)


def test_of_a_long_sound_only_what_is_kept_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.tile(tone(1, 2000), 60), 2000)
    asked: list[int] = []
    read = soundfile.SoundFile.read

    def noted(file: soundfile.SoundFile, frames: int, **options: object) -> object:
        asked.append(frames)
        return read(file, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", noted)
    assert len(decode_cell(cell(path), SOUND)) == 200
    assert asked == [asked[0]]
    assert asked[0] < 3000
