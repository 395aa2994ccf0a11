"""The server optimizer: torch.optim's own step functions on the averaged update, state in, state out.

The functions are those behind torch.optim.SGD, Adam and Adagrad (a test holds them against each other). The classes
would cost every run a second: the first of them imports the compiler.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from common.config import ServerOptimizerConfig
from server.state import Arrays

ADAM_DECAY, ADAM_SECOND_DECAY, SMALLEST_DIVISOR = 0.9, 0.99, 1e-6

State = dict[str, Tensor]


def optimize(weights: Arrays, update: Arrays, state: Arrays, config: ServerOptimizerConfig) -> tuple[Arrays, Arrays]:
    """Move the weights along the averaged update; blocks without an update stay, and so does their state.

    The update takes the place of the negative gradient (Reddi et al. 2021, arXiv:2003.00295, algorithm 2), so that
    SGD with lr 1 is FedAvg, momentum is FedAvgM and Adam is FedAdam.
    """
    moved, kept = dict(weights), dict(state)
    for block in sorted(update):
        weight = torch.from_numpy(weights[block].copy())
        gradient = torch.from_numpy(-update[block].astype(np.float32))
        before = {key: torch.from_numpy(value.copy()) for key, value in _of_block(state, block).items()}
        after = OPTIMIZERS[config.kind](weight, gradient, before, config)
        moved[block] = weight.numpy()
        kept |= {f"{key}@{block}": value.numpy() for key, value in after.items()}
    return moved, kept


def _sgd(weight: Tensor, gradient: Tensor, state: State, config: ServerOptimizerConfig) -> State:
    buffers: list[Tensor | None] = [state.get("momentum")]
    sgd(
        *([weight], [gradient], buffers),
        foreach=False,
        weight_decay=0.0,
        momentum=config.momentum,
        lr=config.lr,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    return {"momentum": buffers[0]} if buffers[0] is not None else {}


def _adam(weight: Tensor, gradient: Tensor, state: State, config: ServerOptimizerConfig) -> State:
    first = state.get("first", torch.zeros_like(weight))
    second = state.get("second", torch.zeros_like(weight))
    step = state.get("step", torch.tensor(0.0))
    adam(
        *([weight], [gradient], [first], [second], [], [step]),
        foreach=False,
        amsgrad=False,
        beta1=config.momentum or ADAM_DECAY,
        beta2=ADAM_SECOND_DECAY,
        lr=config.lr,
        weight_decay=0.0,
        eps=SMALLEST_DIVISOR,
        maximize=False,
    )
    return {"first": first, "second": second, "step": step}


def _adagrad(weight: Tensor, gradient: Tensor, state: State, config: ServerOptimizerConfig) -> State:
    total, step = state.get("total", torch.zeros_like(weight)), state.get("step", torch.tensor(0.0))
    adagrad(
        *([weight], [gradient], [total], [step]),
        foreach=False,
        lr=config.lr,
        weight_decay=0.0,
        lr_decay=0.0,
        eps=SMALLEST_DIVISOR,
        maximize=False,
    )
    return {"total": total, "step": step}


def _of_block(state: Arrays, block: str) -> Arrays:
    pairs = (key.split("@", 1) for key in state)
    return {key: state[f"{key}@{name}"] for key, name in pairs if name == block}


OPTIMIZERS: dict[str, Callable[[Tensor, Tensor, State, ServerOptimizerConfig], State]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adagrad": _adagrad,
}
