"""The experiment's randomness in named streams: adding one never moves another. Privacy noise is not from here."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_SEED_BYTES = 8
_SEED_BITS = 63  # torch takes a signed 64-bit seed


def stream_seed(seed: int, *names: str | int) -> int:
    """Derive the seed of the stream `names` from the experiment's seed: 63 bits of SHA-256 over their JSON.

    Guarantees:
        injective names: ("a", "bc"), ("ab", "c") and ("abc",) are different streams, and so are 1 and "1".
    """
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES], "big") >> (8 * _SEED_BYTES - _SEED_BITS)


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Open the stream as a NumPy generator."""
    return np.random.default_rng(stream_seed(seed, *names))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Open the stream as a torch generator on the CPU."""
    import torch  # noqa: PLC0415  (1 s: who only derives a seed need not pay for it)

    return torch.Generator().manual_seed(stream_seed(seed, *names))
