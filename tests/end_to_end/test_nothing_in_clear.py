"""Every reply of a whole run, as it is on the wire, searched for everything that a site keeps to itself."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load

from client.site import Site, site_data
from client.site_round import SiteRound
from common.messages import Plain, Reply, pack
from common.secagg.identity import load_identity
from common.wire import from_records
from server.app import GridLink, settings_of
from server.loop import run_federation
from simulations.engine import InProcessGrid
from simulations.run import _run_config
from tests.federation_run import prepare_toy

WINDOW = 12  # bytes: three coordinates, or most of a subject's name


class _Searching(InProcessGrid):
    """A grid that keeps every reply and, by site, whatever was in its secret files at any time."""

    replies: list[tuple[str, Reply]]
    secrets: dict[str, dict[str, bytes]]

    def _answer(self, message: Message) -> Message:
        site = self._sites[message.metadata.dst_node_id]
        answer = super()._answer(message)
        self.replies.append((site.name, from_records(answer.content)))  # type: ignore[arg-type]
        self.secrets.setdefault(site.name, {}).update(kept_by(site))
        return answer


def kept_by(site: Site) -> dict[str, bytes]:
    """What lies in a site's secret files now: private keys, seeds, shares that were dealt to it, encoded updates."""
    found = {"identity": load_identity(site.identity_path).private_key}
    for path in site.state.rglob("*.secret"):
        where = f"{path.parent.name}/{path.stem}"
        if path.stem == "update":
            found |= {f"{where}/{name}": vector.tobytes() for name, vector in load(path.read_bytes()).items()}
        elif path.stem in {"advertised", "shared", "masked"}:
            state = SiteRound.from_bytes(path.read_bytes())
            keys = state.secrets
            found |= {f"{where}/{n}": key for n, key in vars(keys).items() if isinstance(key, bytes)}
            found |= {f"{where}/seed {n}": seed for n, seed in enumerate(keys.seeds)}
    return found


def on_the_wire(reply: Reply) -> bytes:
    """The message as it is sent, and its byte fields without their base64."""
    parts = [pack(reply)]
    for item in fields(reply):
        value = getattr(reply, item.name)
        parts += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, bytes)]
    return b"|".join(parts)


def windows(secret: bytes) -> list[bytes]:
    """Pieces of a secret that could not be anywhere by chance."""
    pieces = [secret[at : at + WINDOW] for at in range(0, len(secret) - WINDOW + 1, WINDOW)]
    return [piece for piece in pieces if len(set(piece)) > WINDOW // 2]


def leaks(grid: _Searching, texts: dict[str, list[bytes]]) -> list[str]:
    found = []
    for site, reply in grid.replies:
        wire = on_the_wire(reply)
        found += [f"{type(reply).__name__}: {text!r}" for text in texts[site] if text in wire]
        for name, secret in grid.secrets[site].items():
            found += [f"{type(reply).__name__}: {name}" for piece in windows(secret) if piece in wire]
    return found


def searched(place: Path, *overrides: str) -> tuple[_Searching, dict[str, list[bytes]]]:
    prepared = prepare_toy(place, "rounds=2", *overrides)
    grid = _Searching(prepared.sites)
    grid.replies, grid.secrets = [], {}
    run_federation(GridLink(grid, timeout_seconds=60), settings_of(_run_config(prepared), prepared.folder.path))
    texts = {}
    for site in prepared.sites:
        subjects = site_data(site, 0).subjects
        texts[site.name] = [name.encode() for name in map(str, subjects)] + [b"num_examples", b"loss", b"accuracy"]
    return grid, texts


def test_no_reply_holds_a_piece_of_an_update_a_key_a_seed_or_a_subjects_name(tmp_path: Path) -> None:
    grid, texts = searched(tmp_path)
    assert len(grid.replies) > 4 * 5 * 4
    kept = {name.split("/")[-1] for secrets in grid.secrets.values() for name in secrets}
    assert kept >= {"identity", "signing_key", "sharing_key", "masking_key", "seed 0", "fusion", "evaluation"}
    assert all(len(names) > 50 for names in texts.values())
    assert leaks(grid, texts) == []


def test_the_search_finds_an_update_that_is_not_masked(tmp_path: Path) -> None:
    """The negative control: what a masked run keeps to itself, searched for in replies that carry it."""
    grid, texts = searched(tmp_path)
    site, secrets = next(iter(grid.secrets.items()))
    name, secret = next((name, secret) for name, secret in secrets.items() if name.endswith("update/fusion"))
    vector = np.frombuffer(secret, dtype=np.uint32)
    grid.replies = [(site, Plain(site, {"fusion": vector}))]
    assert any(name in found for found in leaks(grid, texts))


@pytest.mark.parametrize("word", ["identity", "seed"])
def test_the_search_finds_a_key_in_base64(tmp_path: Path, word: str) -> None:
    from common.messages import Revealed  # noqa: PLC0415

    grid, texts = searched(tmp_path)
    site, secrets = next(iter(grid.secrets.items()))
    secret = next(secret for name, secret in secrets.items() if word in name)
    grid.replies = [(site, Revealed(b"so many bytes" + secret))]
    assert leaks(grid, texts)
