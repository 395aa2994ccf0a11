"""One measured training, alone in its process: `python -m simulations.bench.one VARIANT EXPERIMENT ROUNDS`, in JSON."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from client.contribute import Work, local_training
from client.train import train_round
from common.blocks import blocks_of, flatten, load
from common.compose import compose
from common.messages import Task
from common.models.model import build_model
from common.releases import schema_of
from server.aggregate import BlockSum, mean_by_block
from server.optimizer import optimize
from server.state import Arrays
from simulations.run import ENGINES, Prepared, begin

# What stays of the whole: every variant trains the same model on the same batches.
OVERRIDES: dict[str, tuple[str, ...]] = {
    "whole": (),
    "without secure aggregation": ("secagg=none",),
    "without privacy": ("privacy=none",),
    "bare loop, with privacy": (),
    "bare loop": ("privacy=none",),
}


def measure_one(variant: str, experiment: str, rounds: int) -> dict[str, float]:
    """Train some rounds and say the median seconds of a round and the peak of the process's memory in MB."""
    torch.set_num_threads(1)
    common = (f"experiment={experiment}", f"rounds={rounds}", "data.normalisation=none", "audit.attributes=[]")
    with tempfile.TemporaryDirectory(prefix="fedmosaic-bench-") as place:
        prepared = begin(compose([*common, *OVERRIDES[variant]]), Path(place))
        run: Callable[[Prepared], list[float]] = _bare if variant.startswith("bare") else _whole
        seconds = statistics.median(run(prepared))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    return {"seconds_a_round": seconds, "peak_megabytes": peak}


def _whole(prepared: Prepared) -> list[float]:
    ENGINES["inprocess"](prepared)
    return [float(event.facts["seconds"]) for event in prepared.folder.journal.events("round")]


def _bare(prepared: Prepared) -> list[float]:
    """The same local steps, mean and server optimizer, as plain function calls on arrays."""
    from client.enrolment import agreement_of  # noqa: PLC0415

    config = prepared.config
    model = build_model(config, schema_of(config), seed=config.seed)
    weights, state = flatten(model, blocks_of(model)), Arrays()
    seconds: list[float] = []
    agreements = [(site, agreement_of(site, prepared.folder.name)) for site in prepared.sites]
    batches = [Work(site, agreement, Task("", 0, "training"), 1).batch("train") for site, agreement in agreements]
    for number in range(1, config.rounds + 1):
        started = time.perf_counter()
        updates = []
        for (site, agreement), batch in zip(agreements, batches, strict=True):
            work = Work(site, agreement, Task("", number, "training"), 1)
            load(model, weights)
            updates.append(train_round(model, batch, local_training(work), work.noise()))
        totals = {name: np.sum([update[name] for update in updates], axis=0) for name in weights}
        sums = {name: BlockSum(total, len(updates), ()) for name, total in totals.items()}
        weights, state = optimize(weights, mean_by_block(sums), state, config.federation.server_optimizer)
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_one(sys.argv[1], sys.argv[2], int(sys.argv[3]))) + "\n")
