"""Flower's SecAgg+ as installed: the functions of its client's stages, and its server's steps without the messages.

What ours does besides and it does not: adverts signed by the institutions of a roster, a transcript that all sign
twice, commitments to all shares so that a wrong one has a name, one self-mask a block, masks from a cipher (its masks
are MT19937 under a seed of 32 bits), rounding from the privacy noise's source (its rounding is NumPy's global
generator). All of that is in our times. What it does and ours does not: its keys are on P-384, ours on X25519.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import ConfigRecord
from flwr.app.typing import ConfigRecordValues
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from common.secagg.roster import threshold_of

BOUND = 8.0  # Flower's default, and ours
_TARGET_RANGE, _MOD_RANGE, _MAX_WEIGHT = 1 << 22, 1 << 32, 1000.0  # its defaults
Arrays = list[np.ndarray]


@dataclass(frozen=True)
class FlowerSum:
    """The sites of one sum after the setup, numbered from 1; all are neighbours of all."""

    states: Mapping[int, SecAggPlusState]
    public_keys: Mapping[int, tuple[bytes, bytes]]

    def share(self, nid: int) -> Mapping[int, bytes]:
        """The share-keys stage of one site: a ciphertext for each of the others."""
        keys = ConfigRecord({str(peer): list(pair) for peer, pair in self.public_keys.items()})
        reply = _share_keys(self.states[nid], keys)
        return _by_site(reply[Key.DESTINATION_LIST], reply[Key.CIPHERTEXT_LIST])

    def mask(self, nid: int, ciphertexts: Mapping[int, bytes], vector: np.ndarray) -> list[bytes]:
        """The collect-masked-vectors stage of one site whose weight is the largest."""
        configs = ConfigRecord({Key.SOURCE_LIST: list(ciphertexts), Key.CIPHERTEXT_LIST: list(ciphertexts.values())})
        reply = _collect_masked_vectors(self.states[nid], configs, int(_MAX_WEIGHT), ndarrays_to_parameters([vector]))
        return cast("list[bytes]", reply[Key.MASKED_PARAMETERS])

    def reveal(self, nid: int, active: Sequence[int], dead: Sequence[int]) -> Mapping[int, bytes]:
        """The unmask stage of one site: a share of a secret of each of the others."""
        configs = ConfigRecord({Key.ACTIVE_NODE_ID_LIST: list(active), Key.DEAD_NODE_ID_LIST: list(dead)})
        reply = _unmask(self.states[nid], configs)
        return _by_site(reply[Key.NODE_ID_LIST], reply[Key.SHARE_LIST])

    def serve(self, masked: Sequence[list[bytes]], shares: Mapping[int, list[bytes]], active: Sequence[int]) -> Arrays:
        """The server's sum and unmasking (secaggplus_workflow.py): the weighted mean of the active sites' vectors."""
        total = [bytes_to_ndarray(body) for body in masked[0]]
        for bodies in masked[1:]:
            total = parameters_addition(total, [bytes_to_ndarray(body) for body in bodies])
        total = parameters_mod(total, _MOD_RANGE)
        for nid, held in shares.items():
            secret = combine_shares(held)
            if nid in active:
                total = parameters_subtraction(total, pseudo_rand_gen(secret, _MOD_RANGE, get_parameters_shape(total)))
            else:
                total = self._without(total, nid, secret)
        factor, sums = factor_extract(parameters_mod(total, _MOD_RANGE))
        means = dequantize(sums, BOUND, _TARGET_RANGE)
        for mean in means:
            np.add(mean, -(len(active) - 1) * BOUND, out=mean)
            np.multiply(mean, _TARGET_RANGE / factor, out=mean)
        return means

    def _without(self, total: Arrays, nid: int, secret: bytes) -> Arrays:
        """Take off the masks of a site that dropped out: with all its neighbours, as installed, dropped or not."""
        for peer in self.states:
            if peer == nid:
                continue
            key = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(self.public_keys[peer][0]))
            change = parameters_addition if nid > peer else parameters_subtraction
            total = change(total, pseudo_rand_gen(key, _MOD_RANGE, get_parameters_shape(total)))
        return total


def set_up(num_sites: int) -> FlowerSum:
    """The setup stage of all sites."""
    setup: dict[str, ConfigRecordValues] = {
        Key.SAMPLE_NUMBER: num_sites,
        Key.SHARE_NUMBER: num_sites,
        Key.THRESHOLD: threshold_of(num_sites),
        Key.CLIPPING_RANGE: BOUND,
        Key.TARGET_RANGE: _TARGET_RANGE,
        Key.MOD_RANGE: _MOD_RANGE,
        Key.MAX_WEIGHT: _MAX_WEIGHT,
    }
    states, keys = {}, {}
    for nid in range(1, num_sites + 1):
        states[nid] = SecAggPlusState()
        states[nid].nid = nid
        reply = _setup(states[nid], ConfigRecord(setup))
        keys[nid] = (cast("bytes", reply[Key.PUBLIC_KEY_1]), cast("bytes", reply[Key.PUBLIC_KEY_2]))
    return FlowerSum(states, keys)


def _by_site(sites: ConfigRecordValues, values: ConfigRecordValues) -> Mapping[int, bytes]:
    return dict(zip(cast("list[int]", sites), cast("list[bytes]", values), strict=True))
