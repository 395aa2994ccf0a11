"""What server and sites say to each other in a large sum; `common.messages` has the rest, and the byte form of all.

Sites stand in these messages by their places on the roster, and sets of sites as bitmaps over it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ChooseRequest:
    """Server to site, stage 1: who takes part, how many neighbours to choose, how many of them open a secret."""

    run: str
    round: int
    purpose: str
    present: bytes
    degree: int
    threshold: int


@dataclass(frozen=True)
class Chosen:
    """Site to server: the neighbours that it chose."""

    places: list[int]


@dataclass(frozen=True)
class LargeShareRequest:
    """Server to site, stage 2: the adverts of the neighbours that it chose, in their order."""

    run: str
    round: int
    purpose: str
    adverts: list[bytes]


@dataclass(frozen=True)
class LargeShares:
    """Site to server: one sealed box for each of the neighbours that it chose."""

    boxes: list[bytes]


@dataclass(frozen=True)
class LargeMaskRequest:
    """Server to site, stage 3: who shared, and what those that chose this site sent it."""

    run: str
    round: int
    purpose: str
    senders: bytes
    dealers: list[int]
    adverts: list[bytes]
    boxes: list[bytes]


@dataclass(frozen=True)
class LargeMasked:
    """Site to server: one masked uint32 vector per block; one tag for each neighbour that it chose and that shared."""

    vectors: Arrays
    tags: list[bytes]


@dataclass(frozen=True)
class LargeCheckRequest:
    """Server to site, stage 4: who survived, and the tags of the survivors that chose this site."""

    run: str
    round: int
    purpose: str
    survivors: bytes
    dealers: list[int]
    tags: list[bytes]


@dataclass(frozen=True)
class LargeRevealRequest:
    """Server to site, stage 5: the signatures of those of its chosen neighbours that saw the same."""

    run: str
    round: int
    purpose: str
    signers: list[int]
    signatures: list[bytes]


LargeStageRequest = ChooseRequest | LargeShareRequest | LargeMaskRequest | LargeCheckRequest | LargeRevealRequest
LargeReply = Chosen | LargeShares | LargeMasked
