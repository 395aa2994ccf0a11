"""Personal blocks: the parts of the model that stay at the site, a file per round, so that a repeat finds its start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from safetensors.numpy import load, save
from torch import nn

from client.site import Site
from client.stages import write_durably
from common.blocks import blocks_of, flatten, is_personal
from common.messages import Task


def load_personal(site: Site, task: Task) -> dict[str, np.ndarray]:
    """The personal blocks as the latest round before this one left them; none before the first."""
    folder = site.run_folder(task.run) / "personal"
    found = folder.glob("*.safetensors")
    earlier = [path for path in found if task.purpose != "training" or int(path.stem) < task.round]
    if not earlier:
        return {}
    return dict(load(max(earlier, key=lambda path: int(path.stem)).read_bytes()))


def save_personal(site: Site, task: Task, model: nn.Module, personal: Sequence[str]) -> None:
    """Keep the personal blocks after a round; a repeated round writes the same again."""
    names = tuple(block for block in blocks_of(model) if is_personal(block, personal))
    if not names:
        return
    path = site.run_folder(task.run) / "personal" / f"{task.round}.safetensors"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    write_durably(path, save(flatten(model, names)))
