"""What augmentation promises: one draw a record for all its modalities, and no record that touches another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.augment import Altering, Uniforms, alter
from client.dp import Clipping
from common.augmentation import Augmentation
from common.compose import ConfigError, compose, validate
from common.config import Config
from common.data.batch import Batch, example_values, masked, take
from common.data.readings import steps_per_second
from common.data.schema import Schema
from common.models.model import build_model
from common.releases import schema_of
from tests.reference_gradients import clipped_vector, one_subject

AXES = {"channels": ["x", "y", "z"], "bounds": {"x": [-2, 2], "y": [-2, 2], "z": [-2, 2]}}
SCHEMA = Schema.model_validate(
    {
        "modalities": {
            "arm": {"kind": "signal", "column": "a", "sample_rate": 50, "seconds": 2, **AXES},
            "leg": {"kind": "signal", "column": "l", "sample_rate": 20, "seconds": 2, **AXES},
            "voice": {"kind": "audio", "column": "v", "sample_rate": 1000, "seconds": 0.5},
            "scan": {"kind": "image", "column": "s", "size": [9, 12], "channels": 3},
            "note": {"kind": "text", "column": "n", "max_tokens": 12},
            "labs": {"kind": "tabular", "columns": ["crp"], "bounds": {"crp": [-4, 4]}},
        },
        "tasks": {"sick": {"kind": "binary", "column": "sick"}},
        "attributes": {},
    }
)
EVERYTHING: dict[str, object] = {
    **{"shift_seconds": 0.4, "speed": 0.2, "silence_seconds": 0.5, "gain": 0.3, "noise": 0.1, "bands": 0.3},
    **{"rotation_degrees": 40.0, "rotated": ("arm", "leg")},
    **{"image_shift": 0.2, "image_zoom": 0.2, "image_brightness": 0.3, "image_flip": True},
}
RECORDINGS = ("arm", "leg", "voice")


def altering_of(**options: object) -> Altering:
    return Altering(Augmentation.model_validate(options), SCHEMA.modalities)


def uniforms_of(seed: int) -> Uniforms:
    """Draws that a label and a number name, row by row."""
    return lambda label, size: np.random.default_rng([seed, *label.encode()]).random(size)


def batch_of(rows: int, *, seed: int = 0, start: float = 0.0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    values, mask, seconds = {}, {}, {}
    for name, spec in SCHEMA.modalities.items():
        there = torch.rand(rows, 1, generator=random) < 0.8
        mask[name] = there & (torch.arange(spec.num_steps) < max(1, spec.num_steps - 3))
        values[name] = masked(example_values(spec, rows, random), mask[name])
        when = torch.arange(spec.num_steps) / steps_per_second(spec)
        seconds[name] = (when + (start if name == "leg" else 0.0)).repeat(rows, 1)
    labels = {"sick": torch.randint(2, (rows,), generator=random)}
    return Batch(values, mask, seconds, labels, {}, torch.arange(rows) // 2)


def same(one: Batch, other: Batch, names: tuple[str, ...] = tuple(SCHEMA.modalities)) -> bool:
    return all(
        torch.equal(one.values[name], other.values[name]) and torch.equal(one.mask[name], other.mask[name])
        for name in names
    )


@contextmanager
def clock_in_place_of_values(batch: Batch) -> Iterator[Batch]:
    """Every recording says what time it is, on the record's own clock."""
    when = {name: masked(batch.seconds[name] + 1, batch.mask[name]) for name in RECORDINGS}  # zero is silence
    tripled = {name: value if name == "voice" else value.unsqueeze(2).repeat(1, 1, 3) for name, value in when.items()}
    yield Batch(batch.values | tripled, batch.mask, batch.seconds, batch.labels, {}, batch.subjects)


def clocks(batch: Batch, name: str) -> Tensor:
    value = batch.values[name] if name == "voice" else batch.values[name][:, :, 0]
    return (value - 1).masked_fill(~batch.mask[name], math.nan)


@given(seed=st.integers(0, 2**31), start=st.sampled_from([0.0, 0.3, 3600.0]), speed=st.sampled_from([0.0, 0.3]))
def test_all_streams_of_a_record_move_and_stretch_by_the_same_seconds(seed: int, start: float, speed: float) -> None:
    altering = altering_of(shift_seconds=0.4, speed=speed)
    with clock_in_place_of_values(batch_of(6, start=start)) as batch:
        found = alter(batch, altering, uniforms_of(seed))
    for row in range(len(batch)):
        points = []
        for name in RECORDINGS:
            when, told = batch.seconds[name][row].double() - start, clocks(found, name)[row].double() - start
            points.append(torch.stack([when, told], dim=1)[~told.isnan()])
        when, told = torch.cat(points).numpy().T
        if len(when) < 2 or np.ptp(when) == 0:
            continue
        slope, begin = np.polyfit(when, told, 1) if speed else (1.0, float(np.mean(told - when)))
        # Where nothing is stretched each stream moves by whole steps; an hour in, single precision is coarse.
        assert np.abs(begin + slope * when - told).max() <= (3e-3 if speed else 1 / 20)
        assert 0.7 - 1e-3 <= slope <= 1.3 + 1e-3 or np.ptp(when) < 0.1


@given(seed=st.integers(0, 2**31))
def test_one_stretch_of_time_is_silent_in_every_stream(seed: int) -> None:
    batch = batch_of(8)
    found = alter(batch, altering_of(silence_seconds=1.5), uniforms_of(seed))
    for row in range(len(batch)):
        gone = [batch.seconds[n][row][batch.mask[n][row] & ~found.mask[n][row]] for n in RECORDINGS]
        kept = torch.cat([batch.seconds[n][row][found.mask[n][row]] for n in RECORDINGS])
        silent = torch.cat(gone)
        if len(silent):
            assert not bool(((kept >= silent.min()) & (kept <= silent.max())).any())
            assert float(silent.max() - silent.min()) <= 1.5
    assert all(bool((found.values[n][~found.mask[n]] == 0).all()) for n in RECORDINGS)


def _draws_of_row(seed: int, row: int, rows: int, label: str, size: int) -> np.ndarray:
    found: np.ndarray = uniforms_of(seed)(label, size * rows).reshape(rows, size)[row]
    return found


@given(seed=st.integers(0, 2**31))
@settings(max_examples=8)
def test_what_becomes_of_a_row_depends_on_that_row_and_its_draws_only(seed: int) -> None:
    batch, altering = batch_of(9), altering_of(**EVERYTHING)
    whole = alter(batch, altering, uniforms_of(seed))
    for row in range(len(batch)):
        own = partial(_draws_of_row, seed, row, len(batch))
        alone = alter(take(batch, torch.tensor([row])), altering, own)
        assert same(alone, take(whole, torch.tensor([row])))  # to the bit


def test_a_record_that_spoils_itself_spoils_no_other() -> None:
    batch, altering = batch_of(5), altering_of(**EVERYTHING)
    good = alter(batch, altering, uniforms_of(0))
    for name in ("arm", "voice", "scan"):
        batch.values[name][2] = math.inf
    bad = alter(batch, altering, uniforms_of(0))
    others = torch.tensor([0, 1, 3, 4])
    assert same(take(good, others), take(bad, others))


def test_every_option_alters_something_and_texts_and_tables_stay() -> None:
    batch = batch_of(8)
    for name, option in EVERYTHING.items():
        both = {"rotation_degrees": 40.0, "rotated": ("arm", "leg")}
        options = both if name in both else {name: option}
        found = alter(batch, altering_of(**options), uniforms_of(1))
        assert not same(found, batch), name
        assert same(found, batch, ("note", "labs"))
        assert same(found, batch, ("scan",) if not name.startswith("image") else RECORDINGS)
    assert same(alter(batch, altering_of(), uniforms_of(1)), batch)


def test_what_a_record_lacks_it_lacks_afterwards() -> None:
    batch = batch_of(40)
    found = alter(batch, altering_of(**EVERYTHING), uniforms_of(2))
    for name, seen in batch.mask.items():
        lacking = ~seen.any(dim=1)
        assert bool(lacking.any())
        assert not bool(found.mask[name][lacking].any())
        assert not bool(found.values[name][lacking].any())


def test_signals_turn_together_and_keep_their_size() -> None:
    batch = batch_of(30)
    batch.values["leg"][:, 0], batch.mask["leg"][:, 0], batch.mask["arm"][:, 0] = batch.values["arm"][:, 0], True, True
    found = alter(batch, altering_of(rotation_degrees=40.0, rotated=("arm", "leg")), uniforms_of(3))
    before, after = batch.values["arm"], found.values["arm"]
    torch.testing.assert_close(after.norm(dim=2), before.norm(dim=2))
    torch.testing.assert_close(found.values["leg"][:, 0], after[:, 0])
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=2)[before.norm(dim=2) > 0]
    assert math.cos(math.radians(40.0)) - 1e-4 <= float(cosine.min()) < 0.99


def test_images_are_mirrored_only_where_that_was_asked_for() -> None:
    batch = batch_of(40)
    mirrored = {name: value.flip(-1) for name, value in batch.values.items() if name == "scan"}["scan"]
    asked = alter(batch, altering_of(image_flip=True), uniforms_of(4)).values["scan"]
    kept, turned = (((asked - other).abs().amax(dim=(1, 2, 3, 4)) < 1e-5) for other in (batch.values["scan"], mirrored))
    assert bool((kept | turned).all())
    assert 5 < int((turned & batch.mask["scan"][:, 0]).sum()) < 35
    still = altering_of(image_brightness=1e-9, image_shift=1e-9, image_zoom=1e-9)
    torch.testing.assert_close(alter(batch, still, uniforms_of(4)).values["scan"], batch.values["scan"])


def _config(*overrides: str) -> Config:
    asked = compose(["experiment=folders", "data.root=here", "objective.task=sick", "model.width=8", *overrides])
    return asked.model_copy(update={"data_schema": SCHEMA})


@pytest.mark.parametrize("engine", ["bookkeeping", "opacus"])
def test_a_subjects_gradient_is_that_of_its_altered_records_alone(engine: str) -> None:
    config = _config()
    model = build_model(config, schema_of(config), seed=0)
    shown = alter(batch_of(8), altering_of(**EVERYTHING), uniforms_of(5))
    clipping = Clipping("sick", 0.3, 0.05, engine=engine)  # type: ignore[arg-type]
    single = torch.stack([one_subject(model, shown, subject, clipping) for subject in range(4)])
    assert bool((single.norm(dim=1) <= 0.05 * (1 + 1e-5)).all())
    torch.testing.assert_close(clipped_vector(model, shown, clipping), single.sum(dim=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["objective.augment.gain=1.5"], "objective.augment.gain"),
        (["objective.augment.rotation_degrees=20"], "rotated"),
        (["objective.augment={rotation_degrees: 20, rotated: [voice]}"], "voice must be a signal"),
        (["objective.augment={rotation_degrees: 20, rotated: [leg, foot]}"], "foot must be a signal"),
        (["objective.augment.gain=0.1", "model.frozen=[encoder/voice]"], "alters voice"),
        (["objective.augment.image_flip=true", "model.frozen=[encoder]"], "alters scan"),
    ],
)
def test_an_augmentation_that_could_not_be_coherent_is_refused(overrides: list[str], named: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=named):
        validate(_config(*overrides).model_dump_json())


def test_frozen_texts_and_unaltered_images_may_stand_beside_augmentation() -> None:
    validate(_config("objective.augment.gain=0.1", "model.frozen=[encoder/scan,encoder/note]").model_dump_json())
