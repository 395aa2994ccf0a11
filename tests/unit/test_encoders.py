"""What every encoder promises: tokens by the modality's description alone, each row by itself, nothing from nobody."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from common.compose import ConfigError, compose, validate
from common.models.backbones.options import BottleneckOptions, LoraOptions
from common.models.encoders.audio_mel import LogMel
from common.models.encoders.options import DEFAULTS, READS, EncoderOptions, MelOptions, VitOptions
from common.models.encoders.projection import patch_places
from common.models.encoders.table import ENCODERS, Encoder, build_encoder
from common.models.model import build_model
from common.models.positions import grid_code
from tests.encoder_models import CASE, ENCODER_CASES, built, config_with, mixed_batch, schema_with, spec_of
from tests.example_models import Recipe

every_encoder = pytest.mark.parametrize("encoder", ENCODER_CASES)
WIDTH = 8


def encoder_and_batch(encoder: str, *, presence: float = 0.6, ragged: bool = True) -> tuple[Encoder, Tensor, Tensor]:
    spec, _ = ENCODER_CASES[encoder]
    batch = mixed_batch(schema_with(spec), (1,) * 6, presence=presence, ragged=ragged)
    model = built(encoder, Recipe()).model
    return cast("Encoder", model.get_submodule(f"encoders.<{CASE}>")), batch.values[CASE], batch.mask[CASE]


def test_every_encoder_is_tried_here_and_reads_a_kind_that_has_a_default() -> None:
    assert set(ENCODER_CASES) == set(ENCODERS)
    assert set(ENCODERS) < set(READS)
    assert all(kind in READS[options.kind] for kind, options in DEFAULTS.items())


@every_encoder
def test_tokens_are_as_many_whatever_the_rows_and_zero_where_nothing_is(encoder: str) -> None:
    model, values, mask = encoder_and_batch(encoder)
    tokens, seen = model(values, mask)
    nobody, unseen = model(torch.zeros_like(values), torch.zeros_like(mask))
    assert tokens.shape == nobody.shape == (len(values), seen.shape[1], WIDTH)
    assert 0 < seen.sum() < seen.numel()
    assert not any(part.any() for part in (unseen, tokens[~seen], nobody))
    assert torch.isfinite(tokens).all()
    assert tokens[seen].abs().amax(dim=1).min() > 0


@every_encoder
def test_a_token_is_there_if_any_of_its_steps_is(encoder: str) -> None:
    model, _, mask = encoder_and_batch(encoder)
    seconds = torch.rand(mask.shape)
    seen, when = model.places(mask, seconds)
    assert torch.equal(seen, model(encoder_and_batch(encoder)[1], mask)[1])
    assert torch.equal(seen.any(dim=1), mask.any(dim=1))
    assert torch.isfinite(when).all()


@every_encoder
def test_a_rows_tokens_are_its_own(encoder: str) -> None:
    model, values, mask = encoder_and_batch(encoder)
    together = model(values, mask)[0]
    for row in range(len(values)):
        alone = model(values[row : row + 1], mask[row : row + 1])[0][0]
        assert torch.allclose(alone, together[row], atol=1e-5)


@every_encoder
def test_steps_that_are_not_there_are_never_read(encoder: str) -> None:
    model, values, mask = encoder_and_batch(encoder)
    hidden = ~mask.view(*mask.shape, *(1,) * (values.dim() - 2))
    assert torch.equal(model(values.masked_fill(hidden, 7), mask)[0], model(values, mask)[0])


@every_encoder
def test_steps_that_are_there_are_read(encoder: str) -> None:
    model, values, mask = encoder_and_batch(encoder, presence=1.0, ragged=False)
    tokens = model(values, mask)[0]
    for step in {0, mask.shape[1] // 2, mask.shape[1] - 1}:
        other = values.clone()
        other[:, step] = values[:, step] + 3
        assert (model(other, mask)[0] - tokens).abs().amax() > 1e-4, step


def test_a_tokens_time_is_the_mean_of_its_steps_that_are_there() -> None:
    mask = torch.tensor([[True, True, True, True, False], [False] * 5])
    seconds = torch.tensor([[1.0, 2.0, 3.0, 6.0, 100.0], [7.0] * 5])
    seen, when = patch_places(mask, seconds, 3)
    assert seen.tolist() == [[True, True], [False, False]]
    assert when.tolist() == [[2.0, 6.0], [0.0, 0.0]]


def test_a_silent_end_and_no_end_are_told_apart_by_the_mask_alone() -> None:
    """A short record and a whole one that is silent at its end have the same values."""
    model, values, mask = encoder_and_batch("mel", presence=1.0, ragged=False)
    short = mask.clone()
    short[:, mask.shape[1] // 2 :] = False
    values = values.masked_fill(~short, 0.0)
    assert not torch.allclose(model(values, mask)[0], model(values, short)[0])


@pytest.mark.parametrize("sample_rate", [100, 8000, 44100, 192_000])
@pytest.mark.parametrize(("mels", "window"), [(8, 0.005), (64, 0.025), (256, 0.005)])
def test_no_band_of_a_spectrum_is_empty(sample_rate: int, mels: int, window: float) -> None:
    spectrum = LogMel(sample_rate, MelOptions(mels=mels, window_seconds=window))
    assert (spectrum.filters.sum(dim=0) > 0).all()


def test_a_tone_lands_in_its_band_and_a_louder_one_is_louder() -> None:
    spectrum = LogMel(8000, MelOptions())
    when = torch.arange(8000) / 8000
    low, high = (torch.sin(2 * math.pi * hertz * when).unsqueeze(0) for hertz in (200.0, 3000.0))
    there = torch.ones(1, 8000, dtype=torch.bool)
    peaks = [int(spectrum(tone, there)[0, :, 50].argmax()) for tone in (low, high)]
    highest = 1127 * math.log1p(4000 / 700)
    expected = [round(1127 * math.log1p(hertz / 700) / highest * 65) - 1 for hertz in (200.0, 3000.0)]
    assert np.abs(np.array(peaks) - expected).max() <= 1
    loud, soft = spectrum(low, there)[0, peaks[0], 50], spectrum(low / 10, there)[0, peaks[0], 50]
    assert float(loud - soft) == pytest.approx(math.log(100) / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("plain", "tokens"),
    [
        ({"kind": "image", "size": [8, 8]}, 16),
        ({"kind": "image", "size": [28, 28]}, 49),
        ({"kind": "image", "size": [128, 96]}, 48),
        ({"kind": "text"}, 32),
        ({"kind": "audio", "sample_rate": 8000, "seconds": 1.0}, 13),
        ({"kind": "signal", "sample_rate": 125.0, "channels": ["a"]}, 63),
        ({"kind": "signal", "sample_rate": 1.0, "channels": ["a"], "seconds": 1.0}, 1),
    ],
    ids=str,
)
def test_defaults_give_a_record_of_any_size_a_few_dozen_tokens(plain: dict[str, object], tokens: int) -> None:
    spec = spec_of({**plain, "column": "x"})
    encoder = cast("Encoder", build_encoder("x", spec, None, WIDTH))
    seen, _ = encoder.places(torch.ones(1, spec.num_steps, dtype=torch.bool), torch.zeros(1, spec.num_steps))
    assert seen.shape == (1, tokens)


def test_places_of_an_image_are_told_apart() -> None:
    code = grid_code(5, 7, 16)
    assert code.shape == (35, 16)
    assert torch.cdist(code, code)[~torch.eye(35, dtype=torch.bool)].min() > 0.1


def test_an_encoder_that_reads_another_kind_is_refused_by_its_key() -> None:
    config = config_with("bytes", Recipe())
    wrong = replace_encoders(config.model_dump_json(), {CASE: {"kind": "vit"}})
    with pytest.raises(ConfigError, match=r"encoders\.case: vit reads image, and case is text; for that there is byt"):
        validate(wrong)
    with pytest.raises(ValueError, match=r"model\.encoders\.case: vit reads image"):
        build_encoder(CASE, ENCODER_CASES["bytes"][0], VitOptions(), WIDTH)


@pytest.mark.parametrize(
    ("encoders", "sentence"),
    [
        ({"smell": {"kind": "bytes"}}, r"model\.encoders: the modalities are case, labs, got 'smell'"),
        ({CASE: {"kind": "bytes", "depth": 3}}, r"model\.encoders\.case\.depth: unknown key"),
        ({CASE: {"kind": "bytes", "width": 9}}, r"heads must divide width, got 2 and 9"),
        ({CASE: {"kind": "cnn", "channels": 10}}, r"model\.encoders\.case\.channels: .*multiple of 4"),
        ({CASE: {"kind": "nose"}}, r"model\.encoders\.case\.kind: 'nose'"),
    ],
    ids=["modality", "key", "heads", "channels", "kind"],
)
def test_what_no_encoder_can_be_is_refused_by_its_key(encoders: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        validate(replace_encoders(config_with("bytes", Recipe()).model_dump_json(), encoders))


def replace_encoders(config: str, encoders: dict[str, object]) -> str:
    plain = json.loads(config)
    plain["model"]["encoders"] = encoders
    return json.dumps(plain)


def test_the_page_says_every_kind_and_key_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
    for section in (*get_args(get_args(EncoderOptions)[0]), LoraOptions, BottleneckOptions):
        kind = section.model_fields["kind"].default
        assert f"`{kind}`" in page
        for name, field in section.model_fields.items():
            default = "must be given" if field.is_required() else f"`{json.dumps(field.get_default())}`"
            row = f"| `{kind}` | `{name}` | {default} | {field.description} |"
            assert row in page or name in ("kind", "sha256", "adapter"), row


def test_a_key_of_an_encoder_is_set_as_any_other() -> None:
    config = compose(["model.encoders.scan.kind=vit", "model.encoders.scan.patch=3"])
    assert config.model.encoders == {"scan": VitOptions(patch=3)}


def test_one_encoders_size_moves_no_other_parts_first_weights() -> None:
    one, two = (
        build_model(config_with(kind, Recipe()), schema_with(ENCODER_CASES[kind][0]), seed=0)
        for kind in ("bytes", "patches")
    )
    left, right = dict(one.named_parameters()), dict(two.named_parameters())
    shared = {name for name in left if f"<{CASE}>" not in name}
    assert len(shared) > 10
    assert all(torch.equal(left[name], right[name]) for name in shared)


@every_encoder
def test_the_whole_model_does_not_read_what_is_hidden(encoder: str) -> None:
    case = built(encoder, Recipe(fusion="early"))
    batch = mixed_batch(case.schema, (1,) * 6)
    later = {name: torch.where(batch.mask[name], when, 1e3) for name, when in batch.seconds.items()}
    assert torch.allclose(case.model(replace(batch, seconds=later)).logits, case.model(batch).logits, atol=1e-6)
