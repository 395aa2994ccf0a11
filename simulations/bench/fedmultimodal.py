"""An experiment's records as files for FedMultimodal's trainer (Feng et al. 2023, KDD), and its figures beside ours.

Source of the format: the trainer's own loader, github.com/usc-sail/fed-multimodal (Apache 2.0). Of a data set it reads
`feature/MODALITY/.../CLIENT.pkl`: a list of [key, path, label, float32 [time, feature]], one list a client, and two
that are called dev and test. The partition file beside them lists the same keys. Number of classes and width of
features are constants of its code, by data set: an experiment's records are written as one of those that fit.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional

from client.site import site_data
from common.compose import ConfigError, compose
from common.config import Config
from common.data.batch import Batch, assemble
from common.data.modalities import AudioSpec, ImageSpec, ModalitySpec, SignalSpec
from common.data.normalise import from_bounds
from common.data.schema import Schema
from common.models.encoders.audio_mel import LogMel
from common.models.encoders.options import MelOptions
from simulations.bench.runs import Spread, records, spread
from simulations.federation import prepare

_BANDS, _PIXELS, _AXES = 80, 1280, 3
_DEV_EVERY = 5  # its own partition tools take a fifth of the training records for dev
_FOLDS = 5
Record = list[object]  # [key, path, label, features]: what its loader indexes


@dataclass(frozen=True)
class _Form:
    """How records look to the trainer: the data set's name there, its classes, where features of either modality go.

    `folds`: there is a folder a fold, all alike here, since who is held out is the experiment's own choice.
    """

    name: str
    classes: int
    kinds: tuple[type[ModalitySpec], type[ModalitySpec]]
    places: tuple[str, str]
    folds: bool

    def folders(self, place: str) -> tuple[str, ...]:
        """Below `feature/`, where one modality's files go."""
        inner = tuple(f"fold{number + 1}" for number in range(_FOLDS)) if self.folds else ("alpha10",)
        return tuple(f"{place}/{self.name}/{folder}" for folder in inner)


_FORMS = (
    _Form("ku-har", 8, (SignalSpec, SignalSpec), ("acc", "gyro"), folds=True),
    _Form("mit10", 10, (AudioSpec, ImageSpec), ("audio/mfcc", "video/mobilenet_v2"), folds=False),
)


@dataclass(frozen=True)
class Exported:
    """What was written: the data set's name in the trainer, which modality is which there, records by client."""

    dataset: str
    modalities: tuple[str, str]
    records: dict[str, int]


@dataclass(frozen=True)
class Compared:
    """Accuracy on the same held-out records; theirs is the mean over its five repetitions.

    Its model is the one of the round that was best on dev, a fifth of the training records; ours is the last, trained
    on all of them.
    """

    ours: Spread
    theirs: float


def export(base: Sequence[str], out: Path) -> Exported:
    """Write an experiment's records below `out`.

    Args:
        base: overrides, the experiment first.
        out: the trainer's --data_dir.

    Raises:
        ConfigError: the records do not fit into any form that the trainer reads, or are an institution's own.
    """
    config = compose(base)
    if config.data.kind == "folders":
        raise ConfigError("fedmultimodal writes records into files that anybody may read: not those of data=folders")
    with tempfile.TemporaryDirectory(prefix="fedmosaic-bench-") as place:
        federation = prepare(config, Path(place), Path(place))
        config, schema = federation.described.resolve(config), federation.schema
        form, names = _form_of(config, schema)
        batches = {}
        for site in federation.sites:
            data = site_data(site, config.data.split_seed)
            for split in ("train", "test"):
                rows = np.flatnonzero(data.split[data.row_subject] == split)
                batches[site.name, split] = assemble(data, schema, from_bounds(schema), rows)
        each = [dict(_clients(batches, config.objective.task, name, schema)) for name in names]
    for place, found in zip(form.places, each, strict=True):
        for folder in form.folders(place):
            _write(out / "feature" / folder, found)
    listed = {client: [record[:3] for record in found] for client, found in each[0].items()}
    partition = out / "partition" / form.name
    partition.mkdir(parents=True, exist_ok=True)
    (partition / "partition.json").write_text(json.dumps(listed, indent=1) + "\n")
    return Exported(form.name, names, {client: len(found) for client, found in listed.items()})


def compare(base: Sequence[str], exported: Exported, out: Path, checkout: Path, *, seeds: int) -> Compared:
    """Run its trainer on what was written, and ours on the experiment, for as many rounds and with all clients in each.

    Raises:
        ConfigError: the checkout is not its source tree.
        RuntimeError: its trainer failed, or left no result; the log has what it said.
    """
    config = compose(base)
    theirs = _run_trainer(exported.dataset, config.rounds, out.resolve(), checkout.resolve())
    found = [record.test.pooled_accuracy for record in records(base, range(seeds)) if record.test is not None]
    return Compared(spread([accuracy for accuracy in found if accuracy is not None]), theirs)


def _form_of(config: Config, schema: Schema) -> tuple[_Form, tuple[str, str]]:
    task = schema.tasks[config.objective.task]
    for form in _FORMS:
        first, second = (
            [name for name, spec in schema.modalities.items() if type(spec) is kind and _fits(spec)]
            for kind in form.kinds
        )
        second = [name for name in second if name not in first[:1]]
        fitting = task.kind in ("binary", "multiclass") and len(task.classes) <= form.classes
        if first and second and fitting:
            return form, (first[0], second[0])
    raise ConfigError(
        "fedmultimodal: records need two signals of three channels (experiment=watch), or a sound and an image of at"
        f" most {_PIXELS} pixels (digits, synthetic), and a task of at most 10 classes"
    )


def _fits(spec: ModalitySpec) -> bool:
    if isinstance(spec, SignalSpec):
        return len(spec.channels) == _AXES
    return not isinstance(spec, ImageSpec) or spec.channels * spec.size[0] * spec.size[1] <= _PIXELS


def _clients(
    batches: dict[tuple[str, str], Batch], task: str, name: str, schema: Schema
) -> Iterator[tuple[str, list[Record]]]:
    """One modality's records: a list a site, and those that all sites set aside and hold out."""
    dev: list[Record] = []
    test: list[Record] = []
    for (site, split), batch in batches.items():
        features = _FEATURES[schema.modalities[name].kind](
            batch.values[name], batch.mask[name], schema.modalities[name]
        )
        known = [row for row in range(len(batch)) if int(batch.labels[task][row]) >= 0]
        found: list[Record] = [
            [key := f"{site}/{split}-{row}", key, int(batch.labels[task][row]), features(row)] for row in known
        ]
        if split == "test":
            test += found
            continue
        dev += found[_DEV_EVERY - 1 :: _DEV_EVERY]
        yield site, [record for place, record in enumerate(found) if (place + 1) % _DEV_EVERY]
    yield "dev", dev
    yield "test", test


Features = Callable[[int], np.ndarray | None]


def _signal(values: Tensor, mask: Tensor, _spec: ModalitySpec) -> Features:
    """Samples as they are."""
    return lambda row: values[row][mask[row]].numpy() if mask[row].any() else None


def _image(values: Tensor, mask: Tensor, _spec: ModalitySpec) -> Features:
    """One frame: the pixels, filled up with zeros."""
    pixels = values.flatten(2)
    frames = functional.pad(pixels, (0, _PIXELS - pixels.shape[2]))
    return lambda row: frames[row].numpy() if mask[row].any() else None


def _sound(values: Tensor, mask: Tensor, spec: ModalitySpec) -> Features:
    """A log-mel spectrum of as many bands as its MFCC features are wide."""
    if not isinstance(spec, AudioSpec):
        raise TypeError(f"a sound was expected, got {spec.kind}")
    front = LogMel(spec.sample_rate, MelOptions(mels=_BANDS))

    def features(row: int) -> np.ndarray | None:
        length = int(mask[row].sum())
        if not length:
            return None
        own = slice(row, row + 1), slice(0, length)
        return np.asarray(front(values[own], mask[own])[0].T.contiguous().numpy())

    return features


_FEATURES: dict[str, Callable[[Tensor, Tensor, ModalitySpec], Features]] = {
    "signal": _signal,
    "image": _image,
    "audio": _sound,
}


def _write(folder: Path, clients: dict[str, list[Record]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for client, found in clients.items():
        with (folder / f"{client}.pkl").open("wb") as file:
            pickle.dump(found, file, protocol=4)  # its loader reads nothing else; ours reads no pickle


def _run_trainer(dataset: str, rounds: int, out: Path, checkout: Path) -> float:
    trainer = checkout / "fed_multimodal" / "experiment" / dataset / "train.py"
    if not trainer.is_file():
        raise ConfigError(f"--checkout: {checkout} is not FedMultimodal's source tree: there is no {trainer}")
    own = checkout / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    command = [python, str(trainer), "--data_dir", str(out), "--sample_rate", "1.0", "--num_epochs", str(rounds)]
    started, log = time.time(), out / "fedmultimodal.log"
    with log.open("w") as file:
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        done = subprocess.run(command, cwd=checkout, env=environment, stdout=file, stderr=file, check=False)  # noqa: S603
    results = [path for path in checkout.rglob("result.json") if dataset in path.parts]
    newest = max(results, key=lambda path: path.stat().st_mtime, default=None)
    if done.returncode or newest is None or newest.stat().st_mtime < started - 1:
        raise RuntimeError(f"FedMultimodal's trainer ended with code {done.returncode} and no result: see {log}")
    return float(json.loads(newest.read_text())["average"]["acc"]) / 100  # it says per cent
