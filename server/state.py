"""The server's whole state: loading it is resuming. It holds released values and public facts only."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

Arrays = dict[str, np.ndarray]
_GROUPS = ("weights", "optimizer", "average", "released")


@dataclass(frozen=True)
class ServerState:
    """What the next round needs: weights by block, optimizer tensors, the running average, released sums."""

    round: int
    weights: Arrays
    optimizer: Arrays = field(default_factory=dict)
    average: Arrays = field(default_factory=dict)
    averaged: int = 0
    released: Arrays = field(default_factory=dict)

    def with_released(self, purpose: str, total: np.ndarray) -> ServerState:
        """Add a released table."""
        return replace(self, released={**self.released, purpose: total})

    def final_weights(self) -> Arrays:
        """The model that the run ends with: the average of the last rounds' models where one was asked for."""
        if not self.averaged:
            return self.weights
        return {name: (total / self.averaged).astype(np.float32) for name, total in self.average.items()}


def averaged(state: ServerState) -> ServerState:
    """Add the current weights to the running average (post-processing of released models: free)."""
    total = {name: state.average.get(name, 0.0) + value.astype(np.float64) for name, value in state.weights.items()}
    return replace(state, average=total, averaged=state.averaged + 1)


def save_state(state: ServerState, path: Path) -> None:
    """Write the state, whole or not at all."""
    arrays = {
        f"{group}/{name}": np.ascontiguousarray(value)
        for group in _GROUPS
        for name, value in getattr(state, group).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    facts = json.dumps({"version": 1, "round": state.round, "averaged": state.averaged})
    save_file(arrays, draft, metadata={"state": facts})
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def load_state(path: Path) -> ServerState | None:
    """Read the state back; None where no round has ended yet.

    Raises:
        ValueError: the file was written by another version.
    """
    if not path.exists():
        return None
    groups: dict[str, Arrays] = {group: {} for group in _GROUPS}
    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["state"])
        if facts["version"] != 1:
            raise ValueError(f"{path} has state version {facts['version']}, this release reads version 1")
        for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
            group, name = key.split("/", 1)
            groups[group][name] = file.get_tensor(key)
    return ServerState(round=facts["round"], averaged=facts["averaged"], **groups)
