"""A site at every stage of a round, and requests that nobody should get away with: for fuzzing and tampering."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message
from hypothesis import strategies as st

from client.gate import answer
from client.site import Site
from common.messages import Reply, Request, pack, unpack
from common.wire import from_records
from server.app import GridLink, settings_of
from server.loop import run_federation
from simulations.engine import InProcessGrid
from simulations.run import _run_config
from tests.federation_run import prepare_toy

STAGES = ("Enrol", "Task", "ShareRequest", "MaskRequest", "CheckRequest", "RevealRequest", "Settle")
OVERRIDES = ("data.normalisation=none", "audit.attributes=[]", "rounds=1")
VICTIM = "site-1"


@dataclass(frozen=True)
class Scene:
    """A site right before it answers an honest request, and the request; `play` never changes the scene itself."""

    site: Site
    kept: Path
    request: Request

    def play(self, body: bytes) -> Reply:
        """Answer these bytes from where the honest request would have been answered."""
        shutil.rmtree(self.site.state, ignore_errors=True)
        shutil.copytree(self.kept, self.site.state)
        return answer(self.site, lambda: unpack(body))

    def reason(self) -> str:
        """The site's own log of what it refused last."""
        return (self.site.state / "log.jsonl").read_text()[-3000:]


class _Filming(InProcessGrid):
    """A grid that keeps the state of one site before each kind of request, and the request."""

    scenes: dict[str, Scene]
    place: Path

    def _answer(self, message: Message) -> Message:
        site, request = self._sites[message.metadata.dst_node_id], from_records(message.content)
        kind = type(request).__name__
        if site.name == VICTIM and kind not in self.scenes:
            kept = self.place / kind
            shutil.copytree(site.state, kept)
            self.scenes[kind] = Scene(site, kept, request)  # type: ignore[arg-type]  # a server sends requests
        return super()._answer(message)


def film(place: Path, *overrides: str) -> dict[str, Scene]:
    """One scene for every kind of request, from a run of four toy sites."""
    prepared = prepare_toy(place, *OVERRIDES, *overrides)
    grid = _Filming(prepared.sites)
    grid.scenes, grid.place = {}, place / "scenes"
    run_federation(GridLink(grid, timeout_seconds=60), settings_of(_run_config(prepared), prepared.folder.path))
    return grid.scenes


WORDS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["site-0", "site-1", "fusion", "training", "audit", "..", "../../x", "\0", "a" * 300]),
)
NUMBERS = st.one_of(st.integers(-3, 9), st.sampled_from([2**31, 2**32, 2**63, 2**64, 2**70, -(2**70), 10**6]))
BLOBS = st.binary(max_size=80)


@st.composite
def changed_bytes(draw: st.DrawFn, body: bytes) -> bytes:
    """Flip a bit, cut, extend, repeat or replace."""
    at = draw(st.integers(0, max(len(body) - 1, 0)))
    flipped = body[:at] + bytes(octet ^ (1 << draw(st.integers(0, 7))) for octet in body[at : at + 1]) + body[at + 1 :]
    other = draw(BLOBS)
    return draw(st.sampled_from([flipped, body[:at], body[:at] + other + body[at:], body + body[:at], other]))


@st.composite
def changed_value(draw: st.DrawFn, value: Any) -> Any:  # noqa: ANN401
    """Another value of the same type."""
    if isinstance(value, bytes):
        return draw(changed_bytes(value))
    if isinstance(value, str):
        return draw(WORDS)
    if isinstance(value, int):
        return draw(NUMBERS)
    if isinstance(value, dict):
        return draw(changed_arrays(value))
    return draw(changed_list(list(value)))


@st.composite
def changed_list(draw: st.DrawFn, items: list[Any]) -> list[Any]:
    """One item more, one less, two exchanged, or one changed."""
    if not items:
        return [draw(BLOBS)]
    at = draw(st.integers(0, len(items) - 1))
    changed = draw(changed_value(items[at]))
    other = draw(st.integers(0, len(items) - 1))
    exchanged = [
        items[at] if place == other else items[other] if place == at else item for place, item in enumerate(items)
    ]
    choices = ([*items, changed], items[:at] + items[at + 1 :], exchanged, [*items[:at], changed, *items[at + 1 :]])
    return draw(st.sampled_from(choices))


@st.composite
def changed_arrays(draw: st.DrawFn, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of other names, types or shapes; their numbers are not touched, for those a server may choose."""
    if not arrays:
        return {draw(WORDS): np.zeros(draw(st.integers(0, 3)), dtype=np.int64)}
    name = draw(st.sampled_from(sorted(arrays)))
    rest = {other: array for other, array in arrays.items() if other != name}
    vector = arrays[name]
    options: list[Any] = [None, vector[:-1], vector[:0], vector.astype(np.float64), vector.reshape(1, -1)]
    chosen = draw(st.sampled_from(range(len(options) + 1)))
    if chosen == len(options):
        return {**rest, draw(WORDS): vector}
    return rest if options[chosen] is None else {**rest, name: options[chosen]}


@st.composite
def changed_request(draw: st.DrawFn, request: Request) -> Request:
    """The same request with one or two of its fields changed."""
    names = [item.name for item in fields(request)]
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
        request = replace(request, **{name: draw(changed_value(getattr(request, name)))})
    return request


def encoded(request: Request) -> bytes | None:
    """The bytes of a request; None where it cannot be written at all (a lone surrogate)."""
    try:
        return pack(request)
    except (UnicodeEncodeError, ValueError, TypeError):
        return None
