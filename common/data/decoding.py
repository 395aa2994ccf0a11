"""Many files at once: worker processes decode what would take long, and a caller is told how far they are."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import current_process, get_context

import numpy as np

from common.data.error import wrong
from common.data.modalities import ModalitySpec
from common.data.readers.cell import Cell
from common.data.records import Records, decode_cell, gathered

_PATIENCE_SECONDS = 1.0
_AT_ONCE = 8  # cells that a worker gets together
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Decoder:
    """How cells become records.

    Attributes:
        workers: processes beside this one; 0: none; None: as many as there are cores, as soon as this process has
            worked for a second and sees more than another one before it.
        report: told the column, how many of its cells are decoded, and how many there are.

    Guarantees:
        wherever: a record is the same, bit for bit, whoever decodes it and however many others there are.
    """

    workers: int | None = None
    report: Callable[[str, int, int], None] | None = field(default=None, compare=False)

    def __call__(self, cells: Sequence[Cell], spec: ModalitySpec) -> Records:
        """Decode all cells, or none.

        Raises:
            DataError: the first cell, in the manifest's order, that cannot be read.
        """
        return gathered(self._watched(cells, spec), len(cells), spec)

    def _watched(self, cells: Sequence[Cell], spec: ModalitySpec) -> Iterator[np.ndarray]:
        for done, record in enumerate(self._decoded(cells, spec), start=1):
            yield record
            if self.report is not None:
                self.report(cells[0].column, done, len(cells))

    def _decoded(self, cells: Sequence[Cell], spec: ModalitySpec) -> Iterator[np.ndarray]:
        workers = _cores() if self.workers is None else self.workers
        if workers < 1 or (self.workers is None and workers == 1) or current_process().daemon:
            workers = 0
        started, done = time.monotonic(), 0
        while done < len(cells) and not (workers and self._takes_long(time.monotonic() - started, done, len(cells))):
            yield decode_cell(cells[done], spec)
            done += 1
        if done < len(cells):
            yield from _decode_beside(cells[done:], spec, workers)

    def _takes_long(self, seconds: float, done: int, of: int) -> bool:
        if self.workers is not None:
            return True
        return seconds > _PATIENCE_SECONDS and seconds / done * (of - done) > _PATIENCE_SECONDS


def _decode_beside(cells: Sequence[Cell], spec: ModalitySpec, workers: int) -> Iterator[np.ndarray]:
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        yield from pool.map(partial(decode_cell, spec=spec), cells, chunksize=_AT_ONCE)
    except BrokenProcessPool as error:
        problem = "a process that decoded these files died: one of them may have crashed its library, or memory ran out"
        raise wrong(cells[0].manifest, problem, column=cells[0].column) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One thread a process, whatever library computes; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(dict.fromkeys(_THREADS, "1"))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
