"""Whole runs for tests: toy site folders, the real configuration, the real engine; nothing is stood in for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from common.compose import compose
from common.config import Config
from common.reports.record import RunRecord
from server.folder import RunFolder
from server.state import ServerState, load_state
from simulations.run import Prepared, begin, run
from tests.toy_federation import write_toy_sites

SMALL = (
    *("experiment=folders", "objective.task=sick", "rounds=3", "model.width=8", "model.feedforward=8"),
    *("privacy.delta=1e-3", "privacy.declared_subjects=40", "audit.attributes=[sex]", "objective.learning_rate=1.0"),
)
REPEATABLE = "privacy.test_noise_seed=5"


def silent(_folder: RunFolder, _config: Config) -> AbstractContextManager[None]:
    """Watch nothing."""
    return nullcontext()


def toy_root(place: Path, *, lacking: Mapping[str, tuple[str, ...]] | None = None) -> Path:
    """Four toy sites below `place`/data."""
    root = place / "data"
    if not root.exists():
        write_toy_sites(root, lacking=lacking)
    return root


def prepare_toy(place: Path, *overrides: str) -> Prepared:
    """Begin a run over the toy sites below `place`."""
    return begin(compose((*SMALL, f"data.root={toy_root(place)}", *overrides)), place / "runs")


def run_toy(place: Path, *overrides: str) -> tuple[Prepared, RunRecord, ServerState]:
    """Run to the end over the toy sites below `place`."""
    prepared = prepare_toy(place, *overrides)
    record = run(prepared, silent)
    return prepared, record, state_of(prepared)


def state_of(prepared: Prepared) -> ServerState:
    """The server's last state."""
    state = load_state(prepared.folder.path / "state" / "server.safetensors")
    if state is None:
        raise ValueError("no round has ended")
    return state


def same_weights(one: ServerState, other: ServerState) -> bool:
    """Tell whether two models are the same, to the bit."""
    same: Callable[[str], bool] = lambda name: one.weights[name].tobytes() == other.weights[name].tobytes()  # noqa: E731
    return one.weights.keys() == other.weights.keys() and all(map(same, one.weights))


def files_below(folder: Path) -> Iterable[Path]:
    """All files below a folder."""
    return (path for path in folder.rglob("*") if path.is_file())
