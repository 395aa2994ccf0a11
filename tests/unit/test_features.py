"""Frozen encoders run once a record: the same bits, found again only where nothing changed, for the owner alone."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client import features
from client.contribute import Work
from client.enrolment import agreement_of
from client.features import Shelf, with_features
from client.policy import read_policy
from client.site import Site
from common.blocks import blocks_of
from common.compose import ConfigError, compose
from common.config import Config
from common.data.batch import Batch, hide, take
from common.messages import Task
from common.models.model import build_model, first_weights
from common.releases import schema_of
from simulations.run import Prepared, run
from tests.federation_run import REPEATABLE, SMALL, prepare_toy, same_weights, silent, state_of

FROZEN = "model.frozen=[encoder/labs,encoder/vitals]"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_toy(tmp_path_factory.mktemp("frozen"), FROZEN, REPEATABLE)


@dataclass(frozen=True)
class Desk:
    """A site with a batch of its training rows, and a count of how many rows its encoders were given."""

    site: Site
    config: Config
    batch: Batch
    rows: list[int]

    def encoded(self, batch: Batch | None = None, config: Config | None = None) -> dict[str, torch.Tensor]:
        return with_features(self.site, config or self.config, self.batch if batch is None else batch, "train").encoded

    def computed(self, act: Callable[[], object]) -> int:
        before = len(self.rows)
        act()
        return sum(self.rows[before:])


@pytest.fixture
def desk(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    site = prepared.sites[0]
    work = Work(site, agreement_of(site, prepared.folder.name), Task(prepared.folder.name, 0, "normalisation"), 1)
    config = prepared.config.model_copy(
        update={"data": prepared.config.data.model_copy(update={"normalisation": "none"})}
    )
    plain = config.model_copy(update={"model": config.model.model_copy(update={"frozen": ()})})
    agreement = replace(work.agreement, config=plain)
    batch = replace(work, agreement=agreement).batch("train")
    own = Site(site.name, site.folder, tmp_path / "state")
    own.state.mkdir()
    own.policy_path.write_bytes(site.policy_path.read_bytes())
    rows: list[int] = []
    whole = features.encode

    def counted(encoder: torch.nn.Module, some: Batch, modality: str, at_once: int) -> torch.Tensor:
        rows.append(len(some))
        return whole(encoder, some, modality, at_once)

    monkeypatch.setattr(features, "encode", counted)
    return Desk(own, config, batch, rows)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_record_is_encoded_once_and_read_back_the_same_to_the_bit(desk: Desk) -> None:
    first = desk.encoded()
    assert set(first) == {"labs", "vitals"}
    assert desk.computed(desk.encoded) == 0
    assert same(desk.encoded(), first)
    assert sum(desk.rows) == 2 * len(desk.batch)


def test_features_do_not_depend_on_where_a_row_stands_or_who_else_is_there(desk: Desk) -> None:
    whole = desk.encoded()
    order = torch.randperm(len(desk.batch), generator=torch.Generator().manual_seed(1))[: len(desk.batch) // 3]
    for path in desk.site.features_path.glob("*.features"):
        path.unlink()
    some = desk.encoded(take(desk.batch, order))
    assert all(torch.equal(some[name], whole[name][order]) for name in whole)


def test_what_the_model_says_is_what_it_would_say_without_features(desk: Desk) -> None:
    model = build_model(desk.config, schema_of(desk.config), seed=desk.config.seed).eval()
    with_them = with_features(desk.site, desk.config, desk.batch, "train")
    for keep in (tuple(desk.batch.values), ("labs",), ("ward",), ()):
        assert torch.allclose(model(hide(with_them, keep)).logits, model(hide(desk.batch, keep)).logits, atol=1e-6)


CHANGES: dict[str, Callable[[Desk], tuple[Batch, Config]]] = {
    "a value": lambda desk: (_changed(desk.batch, "values"), desk.config),
    "a value that is missing": lambda desk: (_changed(desk.batch, "mask"), desk.config),
    "another scaling": lambda desk: (
        replace(desk.batch, values={name: value * 1.001 for name, value in desk.batch.values.items()}),
        desk.config,
    ),
    "other weights": lambda desk: (desk.batch, desk.config.model_copy(update={"seed": 7})),
}


def _changed(batch: Batch, what: str) -> Batch:
    found = {name: tensor.clone() for name, tensor in getattr(batch, what).items()}
    found["labs"][3, 0] = found["labs"][3, 0] + 1.0 if what == "values" else ~found["labs"][3, 0]
    return replace(batch, values=found) if what == "values" else replace(batch, mask=found)


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_is_computed_anew(desk: Desk, name: str) -> None:
    desk.encoded()
    batch, config = CHANGES[name](desk)
    changed = desk.computed(lambda: desk.encoded(batch, config))
    if name.startswith("a value"):
        assert changed == 1
    else:  # where a modality is missing there is nothing to scale: such rows are all one record
        assert changed >= 0.8 * 2 * len(desk.batch)


def test_other_code_is_computed_anew(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.encoded()
    monkeypatch.setattr(features, "bundle_hash", lambda: "0" * 64)
    assert desk.computed(desk.encoded) == 2 * len(desk.batch)


def test_who_left_is_gone_from_the_file(desk: Desk) -> None:
    desk.encoded()
    before = {path.name: path.stat().st_size for path in desk.site.features_path.glob("*.features")}
    desk.encoded(take(desk.batch, torch.arange(len(desk.batch) // 2)))
    after = {path.name: path.stat().st_size for path in desk.site.features_path.glob("*.features")}
    assert before.keys() == after.keys()
    assert all(after[name] < 0.7 * before[name] for name in before)
    assert desk.computed(desk.encoded) > 0


def test_an_encoder_that_is_trained_again_leaves_no_features(desk: Desk) -> None:
    desk.encoded()
    assert len(list(desk.site.features_path.glob("*.features"))) == 2
    frozen = desk.config.model.model_copy(update={"frozen": ("encoder/labs",)})
    desk.encoded(config=desk.config.model_copy(update={"model": frozen}))
    assert len(list(desk.site.features_path.glob("*.features"))) == 1


def test_nobody_leaves_no_features(desk: Desk) -> None:
    desk.encoded()
    assert desk.encoded(take(desk.batch, torch.arange(0)))["labs"].shape[0] == 0
    assert not list(desk.site.features_path.glob("*.features"))


@pytest.mark.parametrize("encrypted", [False, True])
def test_only_the_owner_may_read_and_a_key_hides_the_rest(desk: Desk, *, encrypted: bool) -> None:
    if encrypted:
        text = desk.site.policy_path.read_text().replace("encrypt_features: false", "encrypt_features: true")
        desk.site.policy_path.write_text(text)
    assert read_policy(desk.site.policy_path).encrypt_features is encrypted
    tokens = desk.encoded()["labs"]
    assert desk.site.features_path.stat().st_mode & 0o777 == 0o700
    files = [path for path in desk.site.features_path.iterdir() if path.name != "lock"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    bodies = b"".join(path.read_bytes() for path in files)
    present = tokens[tokens.abs().sum(dim=(1, 2)) > 0][0].numpy().tobytes()
    assert (present in bodies) is not encrypted
    assert desk.computed(desk.encoded) == 0


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda body: body[: len(body) // 2],
    "empty": lambda _: b"",
    "one bit": lambda body: body[:-5] + bytes([body[-5] ^ 1]) + body[-4:],
    "another file": lambda _: b"\xff" * 100,
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_damaged_file_is_computed_anew_and_never_trusted(desk: Desk, name: str, *, encrypted: bool) -> None:
    if encrypted:
        text = desk.site.policy_path.read_text().replace("encrypt_features: false", "encrypt_features: true")
        desk.site.policy_path.write_text(text)
    first = desk.encoded()
    for path in desk.site.features_path.glob("*.features"):
        path.write_bytes(DAMAGES[name](path.read_bytes()))
    assert same(desk.encoded(), first)
    assert desk.computed(desk.encoded) == 0


def test_an_encoders_features_are_not_taken_for_another_ones(desk: Desk) -> None:
    shelf = Shelf(desk.site.features_path, "labs", "train", "00" * 32, None)
    desk.site.features_path.mkdir(mode=0o700)
    shelf.write({b"r" * 32: torch.ones(1, 8)})
    assert shelf.read()
    assert replace(shelf, encoder="11" * 32).read() == {}


def _fill(desk: Desk, seconds: float) -> None:
    time.sleep(max(0.0, seconds - time.time()))
    desk.encoded()


def test_two_processes_at_once_leave_one_sound_file(desk: Desk) -> None:
    first = desk.encoded()
    for path in desk.site.features_path.glob("*.features"):
        path.unlink()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_fill, args=(desk, time.time() + 0.2)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert desk.computed(desk.encoded) == 0
    assert same(desk.encoded(), first)


def test_frozen_blocks_are_not_trained_not_noised_and_do_not_travel(prepared: Prepared) -> None:
    blocks = blocks_of(build_model(prepared.config, schema_of(prepared.config), seed=0))
    assert "encoder/ward" in blocks
    assert not {"encoder/labs", "encoder/vitals"} & set(blocks)
    assert set(first_weights(prepared.config)) == set(blocks)


@pytest.mark.slow
def test_a_run_with_features_is_the_run_without_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states, rows = [], []
    whole = features.encode

    def counted(encoder: torch.nn.Module, some: Batch, modality: str, at_once: int) -> torch.Tensor:
        rows.append(len(some))
        return whole(encoder, some, modality, at_once)

    monkeypatch.setattr(features, "encode", counted)
    for number in range(2):
        if number:
            monkeypatch.setattr(Shelf, "read", lambda _: {})  # as if nothing had been kept
        prepared = prepare_toy(tmp_path / str(number), FROZEN, REPEATABLE, "audit.attributes=[]")
        run(prepared, silent)
        states.append(state_of(prepared))
        rows.append(-1)
    assert same_weights(*states)
    np.testing.assert_array_equal(states[0].released["evaluation"], states[1].released["evaluation"])
    once, again = sum(rows[: rows.index(-1)]), sum(rows[rows.index(-1) + 1 : -1])
    assert again > 2 * once  # three rounds and an evaluation


@pytest.mark.parametrize("entry", ["encoder/lab", "fusion", "labs"])
def test_a_misspelt_encoder_is_refused(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.frozen: the encoders are encoder/labs"):
        prepare_toy(tmp_path, f"model.frozen=[{entry}]")


def test_a_model_without_encoders_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs model=transformer"):
        compose((*SMALL, "data.root=x", "model=additive", "model.frozen=[encoder]"))
