"""What a site's files were decoded to: kept at the site, looked up by the files' own bytes, gone when they are gone.

A record is found by a hash of its files' contents, of the modality's description, of the code and the libraries that
decoded it, and of whether a file may name its patient. So nothing that could change a value is passed over. One file a
modality holds exactly the records that were asked for last; one that is damaged is written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex

import numpy as np

from client.bundle import bundle_hash
from common.data.decoding import Decoder
from common.data.modalities import ModalitySpec, TextSpec
from common.data.readers.cell import Cell
from common.data.records import Records, no_records, with_companions

_LIBRARIES = ("numpy", "scipy", "pillow", "soundfile", "pydicom", "nibabel", "wfdb", "pyedflib")
_HASH_BYTES = 32


@dataclass(frozen=True)
class Shelf:
    """Where decoded records lie; whoever uses it is `alone` in its folder."""

    folder: Path
    decoder: Decoder

    def __call__(self, cells: Sequence[Cell], spec: ModalitySpec) -> Records:
        """Give the cells' records: those that lie here, and the others decoded, which then lie here too.

        Raises:
            DataError: a cell cannot be read.
        """
        if isinstance(spec, TextSpec):
            return self.decoder(cells, spec)
        keys = [_key_of(cell, spec) for cell in cells]
        kept = self._read(spec)
        missing = [place for place, key in enumerate(keys) if key not in kept]
        decoded = self.decoder([cells[place] for place in missing], spec)
        fresh = {keys[place]: number for number, place in enumerate(missing)}
        values, lengths = no_records(spec, len(cells)).values, np.zeros(len(cells), dtype=np.int64)
        for place, key in enumerate(keys):
            if key in fresh:
                values[place], lengths[place] = decoded.values[fresh[key]], decoded.lengths[fresh[key]]
            else:
                values[place], lengths[place] = kept[key]["values"], kept[key]["length"]
        found = Records(values, lengths)
        if any(_key_of(cells[place], spec) != keys[place] for place in missing):
            self.path(spec).unlink(missing_ok=True)  # a file changed between its hash and its decoding: whose is what?
        elif missing or set(keys) != set(kept) or not self.path(spec).exists():
            self._write(spec, keys, found)
        return found

    def path(self, spec: ModalitySpec) -> Path:
        """The file of one modality's records."""
        return self.folder / f"{hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]}.npy"

    def tidy(self, specs: Sequence[ModalitySpec]) -> None:
        """Remove what belongs to none of these modalities, and what a killed process left half written."""
        wanted = {self.path(spec) for spec in specs}
        for path in (*self.folder.glob("*.npy"), *self.folder.glob(".*.draft")):
            if path not in wanted:
                path.unlink()

    def _read(self, spec: ModalitySpec) -> dict[bytes, np.void]:
        """Map the file's sound records by their keys; none where it is missing or foreign.

        A file with anything else in it is removed: that may be of somebody who left, and nobody could tell.
        """
        sound: dict[bytes, np.void] = {}
        try:
            rows = np.lib.format.open_memmap(self.path(spec), mode="r")
            if rows.dtype == _row_type(spec) and rows.ndim == 1:
                sound = {row["key"].tobytes(): row for row in rows if row["checksum"] == _checksum(row)}
            whole = len(sound) == len(rows)
        except (OSError, ValueError, SyntaxError, OverflowError):
            whole = False
        if not whole:
            self.path(spec).unlink(missing_ok=True)
        return sound

    def _write(self, spec: ModalitySpec, keys: Sequence[bytes], records: Records) -> None:
        """Replace the file, whole or not at all; its owner alone may read it."""
        path, unique = self.path(spec), {key: place for place, key in enumerate(keys)}
        if not unique:
            path.unlink(missing_ok=True)
            return
        draft = path.with_name(f".{path.name}.{token_hex(8)}.draft")
        try:
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            rows = np.lib.format.open_memmap(draft, mode="w+", dtype=_row_type(spec), shape=(len(unique),))
            for row, (key, place) in zip(rows, unique.items(), strict=True):
                row["key"] = np.frombuffer(key, dtype=np.uint8)
                row["length"], row["values"] = records.lengths[place], records.values[place]
                row["checksum"] = _checksum(row)
            rows.flush()
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _row_type(spec: ModalitySpec) -> np.dtype[np.void]:
    values = no_records(spec, 0).values
    fields = [
        ("key", np.uint8, (_HASH_BYTES,)),
        ("length", np.int64),
        ("checksum", np.uint32),
        ("values", values.dtype, values.shape[1:]),
    ]
    return np.dtype(fields, align=True)


def _checksum(row: np.void) -> int:
    """Find damage, not malice: whoever can write here can write the records themselves."""
    return zlib.crc32(row["values"].tobytes(), zlib.crc32(row["key"].tobytes() + row["length"].tobytes()))


def _key_of(cell: Cell, spec: ModalitySpec) -> bytes:
    digest = hashlib.sha256(json.dumps([_code(), spec.model_dump_json(), cell.text, cell.identified]).encode())
    for path in with_companions(cell.manifest.parent, cell.path()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()


@cache
def _code() -> tuple[str, ...]:
    return (bundle_hash(), *(_version(name) for name in _LIBRARIES))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
