"""What frozen encoders and pretrained networks say of a site's records: computed once a record, and kept at the site.

A record's features are looked up by a hash of the very numbers that its encoder would read, after scaling, and of
whether they are there. So another value, another scaling, another schema or another way of reading a file is another
record. Beside that stand a hash of the encoder's weights, of what it was built from and of its code, and how many rows
were computed together: any change throws all of it away. A file holds exactly the records of one cohort that were asked
for last: who has left the folder is gone from it with the next round, or table, that reads this cohort, and the file is
gone with the next one that does not freeze its encoder. Until then it stays, also after the run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from client.bundle import bundle_hash
from client.evaluate import MOST_ROWS
from client.policy import read_policy
from client.site import Site
from client.stages import alone, write_durably
from common.blocks import is_named, module_key
from common.config import Config
from common.data.batch import Batch, nobodys_row, parts_of, take
from common.files import write_whole
from common.models.backbones.options import BackboneOptions
from common.models.model import build_model
from common.objectives import read_modalities
from common.releases import schema_of
from common.secagg.errors import ProtocolError
from common.secagg.keys import KEY_BYTES, seal, unseal

_HASH_BYTES = 32


@dataclass(frozen=True)
class Shelf:
    """Where one encoder's features of one cohort lie, and the key that they are encrypted with; None: they are not."""

    folder: Path
    modality: str
    cohort: str
    encoder: str
    key: bytes | None

    @property
    def path(self) -> Path:
        """The file: one for each modality and cohort."""
        name = hashlib.sha256(json.dumps([self.modality, self.cohort]).encode()).hexdigest()[:16]
        return self.folder / f"{name}.features"

    def read(self) -> dict[bytes, Tensor]:
        """Read the features by record, [token, width] each; none where the file is missing, damaged or foreign."""
        try:
            body = self.path.read_bytes()
            kept = load(body if self.key is None else unseal(self.key, body, self.encoder.encode()))
            said, records, tokens = (kept[name] for name in ("encoder", "records", "tokens"))
            if bytes(said.numpy()).hex() != self.encoder or len(records) != len(tokens):
                return {}
            checked = _checksum(records, tokens)
            if not torch.equal(kept["checksum"], checked):
                return {}
        except (OSError, ValueError, TypeError, KeyError, ProtocolError, SafetensorError):
            return {}
        return dict(zip((bytes(record.numpy()) for record in records), tokens, strict=True))

    def write(self, features: dict[bytes, Tensor]) -> None:
        """Write the features, whole or not at all; what was there before is gone."""
        records = torch.from_numpy(np.frombuffer(b"".join(features), dtype=np.uint8).copy().reshape(-1, _HASH_BYTES))
        tokens = torch.stack(list(features.values()))
        said = torch.from_numpy(np.frombuffer(bytes.fromhex(self.encoder), dtype=np.uint8).copy())
        kept = {"encoder": said, "records": records, "tokens": tokens, "checksum": _checksum(records, tokens)}
        body = save(kept)
        write_whole(self.path, body if self.key is None else seal(self.key, body, self.encoder.encode()))


def with_features(site: Site, config: Config, batch: Batch, cohort: str, *, rows: int = 0) -> Batch:
    """Give a batch what the run's frozen encoders say of its rows; an unfrozen one computes in the model, as ever.

    Args:
        site: where the features are kept.
        config: which encoders are frozen, and their weights, by its seed.
        batch: rows of one cohort.
        cohort: its name.
        rows: how many rows this machine may compute together in an encoder from scratch; 0: MOST_ROWS.

    Guarantees:
        the same bits: with or without what was kept, and wherever a row stands, its features are the same: rows go
            through an encoder in parts of one shape, through a pretrained network one by one.
        once: a record goes through an encoder once, for as long as nothing that its features depend on changes.
    """
    read = read_modalities(config.objective.parts, batch.values)
    frozen = {name: part for name in read if (part := frozen_part(config, name)) is not None}
    for name in set(batch.values) - set(frozen):  # whoever left since would stay in it
        Shelf(site.features_path, name, cohort, "", None).path.unlink(missing_ok=True)
    if not frozen:
        return batch
    schema = schema_of(config)
    model = build_model(config, schema, seed=config.seed).eval()
    encoded = {}
    for name, part in frozen.items():
        # A pretrained network computes each record alone: then no other record can be in its numbers.
        at_once = 1 if part.startswith("backbones.") else min(rows or MOST_ROWS, MOST_ROWS)
        encoder, options = model.get_submodule(part), config.model.encoders.get(name)
        built_from = [schema.modalities[name].model_dump_json(), options.model_dump_json() if options else "", at_once]
        shelf = Shelf(site.features_path, name, cohort, _hash_of(encoder, built_from), _key_of(site))
        with alone(site.features_path):
            for draft in site.features_path.glob(".*.draft"):  # of a process that was killed
                draft.unlink()
            encoded[name] = _features(shelf, encoder, batch, at_once)
    return replace(batch, encoded=encoded)


def frozen_part(config: Config, modality: str) -> str | None:
    """Name the module of a run's model whose answer to a record of this modality never changes; None: there is none."""
    options = config.model.encoders.get(modality)
    if isinstance(options, BackboneOptions):
        return f"backbones.{module_key(modality)}" if options.adapter is None else None
    frozen = is_named(f"encoder/{modality}", config.model.frozen)
    return f"encoders.{module_key(modality)}" if frozen else None


def _features(shelf: Shelf, encoder: nn.Module, batch: Batch, at_once: int) -> Tensor:
    """Look the rows' features up, compute those that are missing, and keep exactly these rows'."""
    if not len(batch):
        shelf.path.unlink(missing_ok=True)
        return encode(encoder, batch, shelf.modality, at_once)
    records, kept = _records(batch, shelf.modality), shelf.read()
    missing = [place for place, record in enumerate(records) if record not in kept]
    if missing:
        computed = encode(encoder, take(batch, torch.tensor(missing)), shelf.modality, at_once)
        kept |= {records[place]: tokens for place, tokens in zip(missing, computed, strict=True)}
    if missing or set(kept) != set(records):
        shelf.write({record: kept[record] for record in sorted(set(records))})
    return torch.stack([kept[record] for record in records])


def encode(encoder: nn.Module, batch: Batch, modality: str, at_once: int) -> Tensor:
    """Run an encoder over all rows in parts of one shape: float32 [row, token, width]."""
    with torch.no_grad():  # the model will train on what comes of it
        parts = parts_of(batch, at_once) if len(batch) else [nobodys_row(batch)]
        found = [encoder(part.values[modality], part.mask[modality])[0] for part in parts]
        return torch.cat(found)[: len(batch)].clone()


def _records(batch: Batch, modality: str) -> list[bytes]:
    values, mask = batch.values[modality].numpy(), batch.mask[modality].numpy()
    shape = repr((values.shape[1:], mask.shape[1:], str(values.dtype))).encode()
    return [
        hashlib.sha256(shape + row.tobytes() + seen.tobytes()).digest() for row, seen in zip(values, mask, strict=True)
    ]


def _hash_of(encoder: nn.Module, built_from: Sequence[object]) -> str:
    """Name an encoder by its weights, its code, and what else it depends on."""
    digest = hashlib.sha256(json.dumps([bundle_hash(), torch.__version__, *built_from]).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _checksum(records: Tensor, tokens: Tensor) -> Tensor:
    digest = hashlib.sha256(records.numpy().tobytes() + tokens.contiguous().numpy().tobytes()).digest()
    return torch.from_numpy(np.frombuffer(digest, dtype=np.uint8).copy())


def _key_of(site: Site) -> bytes | None:
    """The key of this site's features, made once, where its policy wants them encrypted."""
    if not read_policy(site.policy_path).encrypt_features:
        return None
    path = site.features_path / "features.key"
    with alone(site.features_path):
        if path.exists() and path.stat().st_size != KEY_BYTES:  # damaged: what it locked is computed anew
            path.unlink()
        if not path.exists():
            write_durably(path, os.urandom(KEY_BYTES))
    return path.read_bytes()
