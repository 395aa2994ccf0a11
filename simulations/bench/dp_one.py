"""One measured way of a step, alone in its process: `python -m simulations.bench.dp_one WORKLOAD VARIANT STEPS`."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from simulations.bench.dp_models import WORKLOADS, Workload
from simulations.bench.dp_steps import VARIANTS, quiet, step

_SECONDS = 0.3  # the first steps of a process, of whatever kind, are several times slower than those in a round


@dataclass(frozen=True)
class Measured:
    """Processor time of a step in seconds, and the most memory that the process ever held, in MB."""

    cpu_seconds: float
    peak_megabytes: float


def workload(name: str) -> Workload:
    """Build a workload, the same in every process."""
    torch.manual_seed(0)
    build, shape = WORKLOADS[name]
    return build(shape)


def measure(name: str, variant: str, steps: int) -> Measured:
    """Take so many steps, or more where they are done in no time, and give the median but for the first quarter."""
    torch.set_num_threads(1)
    work = workload(name)
    seconds: list[float] = []
    total = 0.0
    with quiet(), VARIANTS[variant](work) as found:
        while len(seconds) <= steps or total < _SECONDS:
            started = time.process_time()
            step(work, found, private=variant != "non-private")
            seconds.append(time.process_time() - started)
            total += seconds[-1]
    return Measured(statistics.median(seconds[max(1, len(seconds) // 4) :]), _peak_megabytes())


def _peak_megabytes() -> float:
    """This process's own high-water mark; getrusage's starts at that of whoever started the process."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024.0


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))) + "\n")
