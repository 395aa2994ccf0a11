"""The server optimizer: a torch.optim optimizer on the averaged update, state in, state out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from common.config import ServerOptimizerConfig
from server.state import Arrays

_ADAM_DECAY = 0.9

Build = Callable[[Iterable[torch.Tensor], ServerOptimizerConfig], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Build] = {
    "sgd": lambda tensors, config: torch.optim.SGD(tensors, lr=config.lr, momentum=config.momentum),
    "adam": lambda tensors, config: torch.optim.Adam(
        tensors, lr=config.lr, betas=(config.momentum or _ADAM_DECAY, 0.99), eps=1e-6
    ),
    "adagrad": lambda tensors, config: torch.optim.Adagrad(tensors, lr=config.lr, eps=1e-6),
}


def optimize(weights: Arrays, update: Arrays, state: Arrays, config: ServerOptimizerConfig) -> tuple[Arrays, Arrays]:
    """Move the weights along the averaged update; blocks without an update stay, and so does their state.

    The update takes the place of the negative gradient (Reddi et al. 2021, arXiv:2003.00295, algorithm 2), so that
    SGD with lr 1 is FedAvg, momentum is FedAvgM and Adam is FedAdam.
    """
    names = sorted(update)
    tensors = [torch.from_numpy(weights[name].copy()).requires_grad_() for name in names]
    optimizer = OPTIMIZERS[config.kind](tensors, config)
    for name, tensor in zip(names, tensors, strict=True):
        tensor.grad = torch.from_numpy(-update[name].astype(np.float32))
        for key, value in _of_block(state, name).items():
            optimizer.state[tensor][key] = torch.from_numpy(value.copy())
    optimizer.step()
    moved = {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}
    kept = {
        f"{key}@{name}": value.numpy()
        for name, tensor in zip(names, tensors, strict=True)
        for key, value in optimizer.state[tensor].items()
        if isinstance(value, torch.Tensor)
    }
    return {**weights, **moved}, {**state, **kept}


def _of_block(state: Arrays, block: str) -> Arrays:
    pairs = (key.split("@", 1) for key in state)
    return {key: state[f"{key}@{name}"] for key, name in pairs if name == block}
