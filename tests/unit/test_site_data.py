"""A site's folder is read once for as long as none of its files changes, and what it was decoded to is kept there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from client import site as module
from client.decoded import Shelf
from client.policy import Policy, write_policy
from client.site import Site, site_data
from common.data.decoding import Decoder
from common.data.error import DataError
from common.data.folder import SiteData, read_site
from common.data.readers.cell import Cell
from tests.every_modality import write_every_modality
from tests.files_of_every_kind import SIGNAL, WAVES, write_dicom, write_wfdb

FILES = ("xray", "voice", "ppg")
FOR_TWO = ("one.hea", "two.hea")


@dataclass
class Watch:
    """Counts how often a cell was decoded."""

    seen: list[str] = field(default_factory=list)

    def __call__(self, column: str, done: int, of: int) -> None:
        assert done <= of
        self.seen.append(column)


def set_policy(site: Site, **keys: object) -> None:
    site.policy_path.unlink(missing_ok=True)
    write_policy(site.policy_path, Policy.model_validate({"lifetime_epsilon": 8.0, "lifetime_delta": 1e-3, **keys}))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = write_every_modality(tmp_path / "data", sites=1, subjects=8)[0]
    found = Site("site-0", folder, tmp_path / "state")
    found.state.mkdir(mode=0o700)
    set_policy(found)
    return found


def read(site: Site) -> tuple[SiteData, list[str]]:
    """Read as a process that has just begun would; say what it decoded."""
    module._newest.cache_clear()
    watch = Watch()
    return site_data(site, 0, Decoder(workers=0, report=watch)), watch.seen


def same(one: SiteData, other: SiteData) -> None:
    assert one.subjects == other.subjects
    for name, readings in one.readings.items():
        np.testing.assert_array_equal(readings.values, other.readings[name].values)
        np.testing.assert_array_equal(readings.lengths, other.readings[name].lengths)
        np.testing.assert_array_equal(readings.starts, other.readings[name].starts)


def kept(site: Site) -> list[Path]:
    return sorted(site.decoded_path.glob("*.npy"))


def table_of(site: Site) -> str:
    return (site.folder / "manifest.csv").read_text()


def first_file(site: Site, part: str) -> Path:
    return next(path for path in sorted((site.folder / part).rglob("*.*")) if path.name in table_of(site))


def test_a_second_process_decodes_nothing_and_reads_the_same_bits(site: Site) -> None:
    first, decoded = read(site)
    assert {"xray_path", "wav_path", "ppg_path"} <= set(decoded)
    again, decoded = read(site)
    assert set(decoded) == {"note"}, "texts take no time to decode"
    same(first, again)
    same(first, read_site(site.folder, split_seed=0))


def test_only_its_owner_may_read_what_is_kept(site: Site) -> None:
    old = os.umask(0)
    try:
        read(site)
    finally:
        os.umask(old)
    assert site.decoded_path.stat().st_mode & 0o777 == 0o700
    assert len(kept(site)) == len(FILES)
    assert {path.stat().st_mode & 0o777 for path in site.decoded_path.iterdir()} == {0o600}


def test_a_changed_file_in_a_subfolder_is_noticed_and_alone_decoded_anew(site: Site) -> None:
    before = site_data(site, 0)
    assert site_data(site, 0) is before
    victim = next(path for path in (site.folder / "signals/ppg").glob("*.npy") if path.name in table_of(site))
    facts, other = victim.stat(), bytearray(victim.read_bytes())
    other[-2] ^= 32
    victim.write_bytes(other)
    os.utime(victim, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as a copy that keeps times would leave it
    assert victim.stat().st_size == facts.st_size
    after = site_data(site, 0)
    assert after is not before
    assert not np.array_equal(after.readings["ppg"].values, before.readings["ppg"].values)
    other[-2] ^= 48
    victim.write_bytes(other)
    assert read(site)[1].count("ppg_path") == 1


def test_a_file_that_a_header_names_is_watched_too(site: Site) -> None:
    victim = first_file(site, "signals/ppg").relative_to(site.folder)
    write_wfdb(site.folder / "one.hea", ("infrared", "red"))
    (site.folder / "one.dat").rename(
        site.folder / "signals/ppg/one.dat"
    )  # not beside the table, which is watched anyway
    (site.folder / "one.hea").rename(site.folder / "signals/ppg/one.hea")
    table = site.folder / "manifest.csv"
    table.write_text(table.read_text().replace(str(victim), "signals/ppg/one.hea"))
    before = site_data(site, 0).readings["ppg"].values
    data = site.folder / "signals/ppg/one.dat"
    data.write_bytes((np.frombuffer(data.read_bytes(), dtype="<i2") // 2).astype("<i2").tobytes())
    change = np.abs(site_data(site, 0).readings["ppg"].values - before).max()
    assert change == pytest.approx(np.abs(WAVES).max() / 2, abs=0.1)


def test_a_missing_file_is_said_and_forgotten_once_it_is_back(site: Site) -> None:
    before, victim = site_data(site, 0), first_file(site, "images")
    victim.rename(victim.with_suffix(".gone"))
    with pytest.raises(DataError, match=r"manifest\.csv, row \d+, column xray_path: .*no such file"):
        site_data(site, 0)
    victim.with_suffix(".gone").rename(victim)
    same(site_data(site, 0), before)


def test_who_left_the_folder_leaves_what_is_kept(site: Site) -> None:
    read(site)
    sizes = [path.stat().st_size for path in kept(site)]
    lines = (site.folder / "manifest.csv").read_text().splitlines()
    (site.folder / "manifest.csv").write_text("\n".join(lines[:6]))
    fewer, decoded = read(site)
    assert set(decoded) == {"note"}
    assert len(fewer.row_subject) == 5
    assert all(now < then for now, then in zip([path.stat().st_size for path in kept(site)], sizes, strict=True))
    spec = site.folder / "dataset.yaml"
    spec.write_text(spec.read_text().replace("seconds: 2\n", "seconds: 1\n"))
    read(site)
    assert len(kept(site)) == len(FILES), "the file of the old description is gone"


def flipped(body: bytes) -> bytes:
    return body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]


@pytest.mark.parametrize(
    "harm",
    [flipped, lambda body: body[:-40], lambda _: b"", lambda _: b"\x93NUMPY junk"],
    ids=["flip", "cut", "no", "x"],
)
def test_what_is_damaged_is_decoded_anew(site: Site, harm: Callable[[bytes], bytes]) -> None:
    first, _ = read(site)
    for path in kept(site):
        path.write_bytes(harm(path.read_bytes()))
    again, decoded = read(site)
    assert {"xray_path", "wav_path", "ppg_path"} <= set(decoded)
    same(first, again)
    assert set(read(site)[1]) == {"note"}


def test_a_damaged_record_of_somebody_who_left_does_not_stay(tmp_path: Path) -> None:
    cells = [Cell(tmp_path / "manifest.csv", 2, "file", write_wfdb(tmp_path / name).name) for name in FOR_TWO]
    shelf = Shelf(tmp_path / "decoded", Decoder(workers=0))
    shelf.folder.mkdir()
    for left in (cells[:1], []):
        shelf(cells, SIGNAL)
        rows = np.lib.format.open_memmap(shelf.path(SIGNAL), mode="r+")
        rows["values"][len(left) :] += 1  # what says whose it was is sound, what it says is not
        rows.flush()
        shelf(left, SIGNAL)
        assert not shelf.path(SIGNAL).exists() or len(np.load(shelf.path(SIGNAL))) == len(left)
    assert not shelf.path(SIGNAL).exists()


def test_a_file_that_changes_while_it_is_read_is_not_kept_as_what_it_was(tmp_path: Path) -> None:
    one, two = (write_wfdb(tmp_path / name) for name in FOR_TWO)
    cells, data = (
        [Cell(tmp_path / "manifest.csv", 2, "file", path.name) for path in (one, two)],
        two.with_suffix(".dat"),
    )
    before, folder = data.read_bytes(), tmp_path / "decoded"
    folder.mkdir()

    def meanwhile(_column: str, done: int, _of: int) -> None:
        if done == 1:  # before the second is decoded
            data.write_bytes(bytes(len(before)))

    Shelf(folder, Decoder(workers=0, report=meanwhile))(cells, SIGNAL)
    data.write_bytes(before)
    again = Shelf(folder, Decoder(workers=0))(cells, SIGNAL)
    np.testing.assert_array_equal(again.values, Decoder(workers=0)(cells, SIGNAL).values)


def test_what_a_killed_process_left_half_written_is_removed(site: Site) -> None:
    read(site)
    draft = site.decoded_path / f".{kept(site)[0].name}.0123.draft"
    draft.write_bytes(b"half")
    read(site)
    assert not draft.exists()


def test_where_features_are_encrypted_nothing_decoded_is_kept(site: Site) -> None:
    first, _ = read(site)
    set_policy(site, encrypt_features=True)
    for _ in range(2):
        again, decoded = read(site)
        assert {"xray_path", "wav_path", "ppg_path"} <= set(decoded)
        same(first, again)
        assert kept(site) == []


def test_whether_a_file_may_name_its_patient_is_the_policys_to_say(site: Site) -> None:
    victim = first_file(site, "images")
    write_dicom(victim.with_suffix(".dcm"), tags={"PatientName": "Doe^Jane"})
    table = site.folder / "manifest.csv"
    table.write_text(table.read_text().replace(victim.name, f"{victim.stem}.dcm"))
    with pytest.raises(DataError, match="PatientName is not empty"):
        read(site)
    set_policy(site, allow_identified_files=True)
    read(site)
    set_policy(site)
    for _ in range(2):  # also where it was decoded meanwhile
        with pytest.raises(DataError, match="PatientName is not empty"):
            site_data(site, 0)


@pytest.mark.slow
def test_worker_processes_read_the_same_bits_and_say_the_same_error(site: Site) -> None:
    here = read_site(site.folder, split_seed=0)
    watch = Watch()
    same(here, read_site(site.folder, split_seed=0, decode=Decoder(workers=2, report=watch)))
    assert set(watch.seen) == {"xray_path", "wav_path", "ppg_path", "note"}
    for path in (site.folder / "images").iterdir():
        path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(DataError) as one:
        read_site(site.folder, split_seed=0)
    with pytest.raises(DataError) as other:
        read_site(site.folder, split_seed=0, decode=Decoder(workers=2))
    assert str(one.value) == str(other.value)


@pytest.mark.slow
def test_a_worker_that_dies_is_a_sentence_and_no_hang(site: Site) -> None:
    path = first_file(site, "images")
    cells = [Cell(path.parent / "manifest.csv", row, "xray_path", path.name) for row in range(2000)]

    def kill(_column: str, _done: int, _of: int) -> None:
        for child in active_children():
            child.kill()

    spec = site.spec().modalities["xray"]
    with pytest.raises(DataError, match="column xray_path: a process that decoded these files died"):
        Decoder(workers=1, report=kill)(cells, spec)
    assert active_children() == []


@pytest.mark.parametrize("named", ["/dev/zero", "pipe.dat"])
def test_a_header_cannot_make_a_site_wait_for_a_device_or_a_pipe(tmp_path: Path, named: str) -> None:
    path = write_wfdb(tmp_path / "one.hea")
    path.write_text(path.read_text().replace("one.dat", named))
    os.mkfifo(tmp_path / "pipe.dat")
    cell = Cell(tmp_path / "manifest.csv", 2, "file", "one.hea")
    with pytest.raises(DataError, match="which is not beside it"):
        Shelf(tmp_path, Decoder(workers=0))([cell], SIGNAL)
