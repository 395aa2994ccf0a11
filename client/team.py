"""Several processes of one site that add up gradients side by side, joined to their parent by pipes and nothing else.

What they send is not noised yet, so no port is opened for it, not even to this machine's other users: which is why this
is not torch.distributed, whose processes meet over TCP. They have no part in the noise: a `NoiseSource` works only in
the process that made it, and they are not given one. They are started anew, never forked, and end with their parent.
"""

from __future__ import annotations

import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import torch
from torch import Tensor, nn

from common.data.batch import Batch

Gradients = dict[str, Tensor]
Sums = Callable[[Batch], Gradients]
Opened = Callable[[nn.Module], AbstractContextManager[Sums]]


def threads_each(processes: int) -> int:
    """The threads of one of so many processes that share this one's."""
    return max(1, torch.get_num_threads() // processes)


@contextmanager
def side_by_side(model: nn.Module, opened: Opened, processes: int) -> Iterator[Callable[[Sequence[Batch]], Gradients]]:
    """Start processes, each with a copy of the model, that add up shares of a step's subjects.

    Args:
        model: its trainable weights at the time of asking are the copies'.
        opened: gives, in each process, what adds up one share; it has to be known by an import.
        processes: how many; each has an equal part of this one's threads.

    Yields:
        What adds up shares, one for each process. Their sums are added in the order of the processes, so that the same
        shares give the same bits.

    Guarantees:
        no noise: nothing random is drawn in these processes that the shares and the model do not carry with them.
        whole or not at all: if a process dies or fails, so does the sum.
        nothing stays: at the end, whatever it is, and also if this process is killed, they are gone.
    """
    context, team = get_context("spawn"), list[tuple[SpawnProcess, Connection]]()
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            team.append((process, ours))
        for _, pipe in team:
            _send(pipe, (model, opened, threads_each(processes)))

        def add_up(shares: Sequence[Batch]) -> Gradients:
            weights = {name: part.detach() for name, part in model.named_parameters() if part.requires_grad}
            for (_, pipe), share in zip(team, shares, strict=True):
                _send(pipe, (weights, share))
            total, *others = [_received(pipe) for _, pipe in team]
            for other in others:
                for name, part in other.items():
                    total[name].add_(part)
            return total

        yield add_up
    finally:
        for process, pipe in team:
            pipe.close()
            process.kill()
            process.join()


def _serve(pipe: Connection) -> None:
    """Answer share by share, until the parent is gone; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model, opened, threads = pipe.recv()
        torch.set_num_threads(threads)
        trained = {name: part for name, part in model.named_parameters() if part.requires_grad}
        with opened(model) as add_up:
            while True:
                weights, share = pipe.recv()
                with torch.no_grad():
                    for name, part in trained.items():
                        part.copy_(weights[name])
                _send(pipe, add_up(share))
    except (EOFError, ConnectionError):
        return
    except Exception:
        _send(pipe, traceback.format_exc())


def _send(pipe: Connection, item: object) -> None:
    try:
        pipe.send_bytes(pickle.dumps(item))  # `send` would put tensors into shared memory, of which there may be little
    except ConnectionError as error:
        raise RuntimeError("a training process is gone") from error


def _received(pipe: Connection) -> Gradients:
    try:
        found = pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise RuntimeError("a training process is gone") from error
    if isinstance(found, str):
        raise RuntimeError(f"a training process failed:\n{found}")
    return dict(found)
