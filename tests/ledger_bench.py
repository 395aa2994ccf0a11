"""A ledger in a folder of its own, with a key that other processes can load, for the tests of client/ledger.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.ledger import Ledger
from common.privacy.plan import Charge, Event
from common.secagg.identity import Identity, create_identity, load_identity

DELTA = 1e-3


@dataclass(frozen=True)
class LedgerBench:
    """Where a test's ledger and its key lie."""

    folder: Path
    lifetime_epsilon: float = 20.0
    delta: float = DELTA
    site: str = "cleveland"

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self.folder / "ledger.sqlite"

    def identity(self) -> Identity:
        """The institution's key, made on first use."""
        key = self.folder / "identity.pem"
        return load_identity(key) if key.exists() else create_identity(key)

    def open(self) -> Ledger:
        """Open the ledger as the institution would."""
        identity = self.identity()
        return Ledger.open(
            self.path,
            site=self.site,
            signer=identity.sign,
            public_key=identity.public_key,
            delta=self.delta,
            lifetime_epsilon=self.lifetime_epsilon,
        )


def charges_of(noise: float = 9.0, steps: int = 60, table_noise: float | None = 3.0) -> tuple[Charge, ...]:
    """A run's charges: training, and one table of the test cohort."""
    training = Charge("train", "training", Event("gaussian", noise, 1.0, steps))
    if table_noise is None:
        return (training,)
    return (training, Charge("test", "evaluation", Event("discrete_gaussian", table_noise, 1.0, 1)))
