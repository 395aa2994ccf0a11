"""The roster: which institutions there are and their identity keys, signed by the consortium, pinned by all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from common.secagg.identity import Identity, verify
from common.secagg.layout import join, read_name, split

_CONTEXT = b"fedmosaic/roster/1"
_KEY_BYTES = 32
_FIXED_FIELDS = 3
LARGEST_COMPLETE = 100  # up to here every site masks with every other; beyond, with neighbours of its own choice
COLLUDERS = Fraction(1, 5)  # the share of a larger roster that may work with the server


@dataclass(frozen=True)
class Roster:
    """Institutions with their Ed25519 public keys, sorted by name, and the consortium's signature.

    The signature is checked against the key that the roster itself names: whoever pins the file pins that key too.
    A site that knows the consortium's key from elsewhere compares `consortium_public_key` with it.
    """

    entries: tuple[tuple[str, bytes], ...]
    consortium_public_key: bytes
    signature: bytes

    @property
    def keys(self) -> dict[str, bytes]:
        """Each institution's public key."""
        return dict(self.entries)

    def to_bytes(self) -> bytes:
        """Write the roster; the same roster always gives the same bytes."""
        return join([_CONTEXT, self.consortium_public_key, self.signature, _body(self.entries)])

    @staticmethod
    def from_bytes(body: bytes) -> Roster:
        """Read a roster and check it.

        Raises:
            ValueError: the bytes are no roster, its entries are not sorted and unique, or the signature is wrong.
        """
        fields = split(body)
        if len(fields) != _FIXED_FIELDS + 1 or fields[0] != _CONTEXT:
            raise ValueError("these bytes are no roster of this protocol")
        pairs = split(fields[_FIXED_FIELDS])
        if len(pairs) % 2:
            raise ValueError("the roster has a name without a key")
        entries = tuple((read_name(name), key) for name, key in zip(pairs[::2], pairs[1::2], strict=True))
        roster = Roster(entries, fields[1], fields[2])
        check_roster(roster)
        return roster


def sign_roster(keys: Mapping[str, bytes], consortium: Identity) -> Roster:
    """Make a roster of institutions and their public keys.

    Raises:
        ValueError: there is no institution, two share a key, or a name or key is malformed.
    """
    entries = tuple(sorted(keys.items()))
    roster = Roster(entries, consortium.public_key, consortium.sign(join([_CONTEXT, _body(entries)])))
    check_roster(roster)
    return roster


def check_roster(roster: Roster) -> None:
    """Check that the entries are sorted, that names and keys are unique and well formed, and the signature.

    Raises:
        ValueError: one of them is not.
    """
    names = [read_name(name.encode()) for name, _ in roster.entries]
    keys = [key for _, key in roster.entries]
    if not names or names != sorted(set(names)):
        raise ValueError("the roster's institutions must be at least one, sorted, and named once each")
    if len(set(keys)) != len(keys) or any(len(key) != _KEY_BYTES for key in keys):
        raise ValueError("the roster's keys must be 32 bytes each and belong to one institution each")
    verify(roster.consortium_public_key, join([_CONTEXT, _body(roster.entries)]), roster.signature)


def threshold_of(num_sites: int) -> int:
    """Count the sites that must remain: floor(2n/3) + 1 of the n sites that finished training.

    Not promised: the server decides who finished training. What n may come down to is bounded by the sites' `k_min`
    only, so a site that fears c colluders must ask for a `k_min` from which on c < 2t - n for every n.
    """
    return 2 * num_sites // 3 + 1


def too_many_colluders(num_sites: int) -> int:
    """Count the colluding sites from which on a roster's sums are not promised to anyone: what it bears is one fewer.

    The server decides who finishes training, at least `threshold_of(num_sites)` of the roster: of the n sites that did,
    t(n) must remain, and a sum is safe against fewer than 2 t(n) - n of them. The worst such n counts. Beyond
    LARGEST_COMPLETE sites it is a fifth of the roster (docs/scale.md).
    """
    if num_sites > LARGEST_COMPLETE:
        return math.floor(COLLUDERS * num_sites) + 1
    return min(2 * threshold_of(left) - left for left in range(threshold_of(num_sites), num_sites + 1))


def guaranteed_honest(num_sites: int) -> int:
    """Count the sites that are honest in every sum over at least `threshold_of(num_sites)` sites of a roster.

    All of them but those that may collude, one fewer than `too_many_colluders`. Beyond LARGEST_COMPLETE sites a sum has
    more than half of the honest sites that took part, and may be over no more than these (docs/scale.md).
    """
    honest = threshold_of(num_sites) - too_many_colluders(num_sites) + 1
    return honest // 2 + 1 if num_sites > LARGEST_COMPLETE else honest


def _body(entries: tuple[tuple[str, bytes], ...]) -> bytes:
    return join(field for name, key in entries for field in (name.encode(), key))
