"""The running sums of a round: all the vectors that a server ever holds, however many sites there are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from server.unmask import Routing

_MESSAGE_BYTES, _BYTES_A_BLOCK = 4096, 1024


class Accumulator:
    """The running sums: one vector per block, to which each arriving vector is added and then dropped."""

    def __init__(self, routing: Routing) -> None:
        """Begin with zeros for every block that a site of the round holds."""
        table = routing.view.table
        lengths = {block.name: block.length for advert in table.adverts for block in advert.blocks}
        self.routing = routing
        self.totals = {name: np.zeros(length, dtype=np.uint32) for name, length in sorted(lengths.items())}
        self._added: list[str] = []

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites whose vectors are in the sums, sorted."""
        return tuple(sorted(self._added))

    @property
    def largest_bytes(self) -> int:
        """No message with a site's vectors is larger: 4 bytes a coordinate, and room for the names."""
        blocks = len(self.totals)
        return sum(total.nbytes for total in self.totals.values()) + _MESSAGE_BYTES + blocks * _BYTES_A_BLOCK

    def add(self, site: str, vectors: Mapping[str, np.ndarray]) -> bool:
        """Add all vectors of a site, or none: False where they are not what the site advertised, or came before."""
        if site not in self.routing.senders or site in self._added:
            return False
        advert = self.routing.view.table.advert(site)
        if set(vectors) != set(advert.block_names):
            return False
        for block in advert.blocks:
            if vectors[block.name].dtype != np.uint32 or vectors[block.name].shape != (block.length,):
                return False
        for name, vector in vectors.items():
            np.add(self.totals[name], vector, out=self.totals[name])
        self._added.append(site)
        return True
