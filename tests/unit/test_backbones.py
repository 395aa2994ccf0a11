"""Pretrained networks: frozen to the bit, named by their bytes, and trained only where an adapter was put."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from client.features import encode, frozen_part
from common.blocks import block_of, blocks_of, flatten
from common.bookkeeping.rules import layers_of
from common.data.batch import hide
from common.models.backbones.backbone import Backbone
from common.models.backbones.files import hash_of, recorded
from common.models.backbones.frozen import FixedNorm, freeze
from common.models.backbones.load import load_model
from common.models.backbones.options import (
    EfficientNetOptions,
    HuggingFaceOptions,
    MiniLmOptions,
    TorchvisionOptions,
)
from common.models.backbones.text import text_of
from common.models.model import build_model
from common.releases import schema_of
from tests.encoder_models import (
    ADAPTERS,
    BACKBONE_CASES,
    CASE,
    built_from,
    config_with,
    config_with_backbone,
    mixed_batch,
    schema_with,
    spec_of,
)
from tests.example_models import Recipe

pytestmark = pytest.mark.usefixtures("pretrained")
every_network = pytest.mark.parametrize("network", BACKBONE_CASES)
TEXT, SOUND = BACKBONE_CASES["bert"][0], BACKBONE_CASES["ast"][0]


def loaded(network: str, adapter: str = "frozen") -> Backbone:
    config = config_with_backbone(network, adapter, Recipe())
    model = build_model(config, schema_of(config), seed=0)
    return cast("Backbone", model.get_submodule(f"backbones.<{CASE}>"))


def inputs(network: str, *, presence: float = 0.6) -> tuple[Tensor, Tensor]:
    batch = mixed_batch(schema_with(BACKBONE_CASES[network][0]), (1,) * 6, presence=presence)
    return batch.values[CASE], batch.mask[CASE]


def plain(values: str) -> tuple[Tensor, Tensor]:
    """A text as a model gets it."""
    letters = [letter + 4 for letter in values.encode()]
    row = torch.tensor([letters + [0] * (TEXT.num_steps - len(letters))])
    return row, row > 0


@every_network
def test_nothing_of_a_network_is_trained_but_its_adapters(network: str) -> None:
    for adapter in BACKBONE_CASES[network][1]:
        config = config_with_backbone(network, adapter, Recipe())
        model = build_model(config, schema_of(config), seed=0)
        inside = {"encoder/case"} if adapter == "frozen" else {"encoder/case", "adapter/case"}
        assert {block for block in blocks_of(model) if block.endswith(f"/{CASE}")} == inside | {f"auxiliary/{CASE}"}
        frozen = [name for name, part in model.named_parameters() if not part.requires_grad]
        assert {block_of(name) for name in frozen} <= {"backbone/case", "adapter/case"}


@every_network
def test_a_network_says_the_same_in_training_and_about_each_row_alone(network: str) -> None:
    """Dropout, SpecAugment and BatchNorm would all show here."""
    backbone, (values, mask) = loaded(network), inputs(network)
    features, seen = backbone(values, mask)
    assert seen.tolist() == mask.any(dim=1, keepdim=True).tolist()
    assert torch.isfinite(features).all()
    assert not features[~seen].any()
    backbone.train()
    assert torch.equal(backbone(values, mask)[0], features)
    for row in range(len(values)):
        assert torch.allclose(backbone(values[[row]], mask[[row]])[0][0], features[row], atol=1e-5)


@every_network
def test_a_network_reads_what_is_there_and_nothing_else(network: str) -> None:
    backbone, (values, mask) = loaded(network), inputs(network, presence=1.0)
    hidden = ~mask.view(*mask.shape, *(1,) * (values.dim() - 2))
    assert torch.equal(backbone(values.masked_fill(hidden, 7), mask)[0], backbone(values, mask)[0])
    other = backbone(values.roll(1, dims=0), mask.roll(1, dims=0))[0]
    assert not torch.allclose(other, backbone(values, mask)[0], atol=1e-4)


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "frozen"])
@pytest.mark.parametrize("network", [name for name, (_, fitting) in BACKBONE_CASES.items() if "lora" in fitting])
def test_an_adapter_starts_by_adding_nothing_and_then_adds(network: str, adapter: str) -> None:
    (values, mask), backbone = inputs(network), loaded(network, adapter)
    before = loaded(network)(values, mask)[0]
    assert torch.allclose(backbone(values, mask)[0], before, atol=1e-6)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    assert not torch.allclose(backbone(values, mask)[0], before, atol=1e-3)
    assert torch.equal(loaded(network)(values, mask)[0], before), "who shares the network must not see the adapter"


def test_with_a_frozen_only_b_travels() -> None:
    sizes = {}
    for adapter in ("lora", "lora-b"):
        config = config_with_backbone("bert", adapter, Recipe())
        model = build_model(config, schema_of(config), seed=0)
        names = blocks_of(model)["adapter/case"]
        sizes[adapter] = flatten(model, ["adapter/case"])["adapter/case"].size
        assert any("lora_A" in name for name in names) == (adapter == "lora")
    assert sizes == {"lora": 4 * 2 * (16 + 16), "lora-b": 4 * 2 * 16}  # query and value of two layers, rank 2


def test_a_batch_norm_becomes_what_it_says_in_evaluation(written_backbones: Path) -> None:
    images = torch.randn(5, 3, 24, 24)
    plain_network = load_model(written_backbones / "resnet").eval()
    before = plain_network(pixel_values=images).last_hidden_state
    assert any(isinstance(part, nn.BatchNorm2d) for part in plain_network.modules())
    fixed = freeze(plain_network).train()
    assert any(isinstance(part, FixedNorm) for part in fixed.modules())
    assert torch.allclose(fixed(pixel_values=images).last_hidden_state, before, atol=1e-5)
    layers_of(fixed)
    with pytest.raises(ValueError, match="without running statistics"):
        freeze(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)))


@pytest.mark.parametrize(
    ("network", "parameter"),
    [
        ("wav2vec2", "masked_spec_embed"),
        ("clip image", "embeddings.class_embedding"),
        ("vit", "embeddings.cls_token"),
        ("wav2vec2", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    ],
)
def test_what_has_no_exact_gradient_is_frozen_here_and_refused_if_it_were_not(network: str, parameter: str) -> None:
    backbone = loaded(network, "lora")
    found = next(part for name, part in backbone.named_parameters() if name.endswith(parameter))
    assert not found.requires_grad
    layers_of(backbone)
    found.requires_grad_(True)
    with pytest.raises(ValueError, match="has no exact per-row gradient"):
        layers_of(backbone)


def test_positions_that_all_rows_share_would_be_refused_if_they_were_trained() -> None:
    """BERT looks its positions up once for all rows: an embedding whose call has one row, where the part has more."""
    from client.dp import Clipping  # noqa: PLC0415
    from tests.reference_gradients import gradients_of_rows  # noqa: PLC0415

    case = built_from(config_with_backbone("bert", "lora", Recipe()))
    batch = mixed_batch(case.schema, (1, 1, 1))
    for name, parameter in case.model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name.endswith("position_embeddings.weight"))
    with pytest.raises(ValueError, match=r"position_embeddings: per-row gradients of 3 rows were expected"):
        gradients_of_rows(case.model, batch, Clipping("sick", 0.3, 1.0))


def test_bytes_are_read_as_the_text_that_they_were() -> None:
    letters = torch.tensor([1, *(byte + 4 for byte in "fièvre".encode()), 2, 0]).numpy()
    assert text_of(letters) == "fièvre"
    assert text_of(letters[:4]) == "fi", "a character that was cut in two is left out"


def test_a_text_is_its_words_however_long_the_record() -> None:
    backbone = loaded("bert")
    cough, fever, both = (backbone(*plain(text))[0] for text in ("cough", "fever", "cough fever"))
    assert (cough - fever).abs().max() > 1e-3
    assert (both - fever).abs().max() > 1e-3
    assert torch.equal(backbone(*plain("cough "))[0], cough)


@pytest.mark.parametrize("network", ["bert", "resnet", "ast"])
def test_what_is_kept_of_a_record_is_what_the_model_would_compute(network: str) -> None:
    config = config_with_backbone(network, "frozen", Recipe())
    case, part = built_from(config), frozen_part(config, CASE)
    batch = mixed_batch(case.schema, (1,) * 5)
    assert part is not None
    features = encode(case.model.get_submodule(part), batch, CASE, 4)
    kept = replace(batch, encoded={CASE: features})
    assert torch.allclose(case.model(kept).logits, case.model(batch).logits, atol=1e-5)
    assert torch.allclose(case.model(hide(kept, ["labs"])).logits, case.model(hide(batch, ["labs"])).logits, atol=1e-6)


def test_only_what_never_changes_is_kept() -> None:
    frozen, adapted = (config_with_backbone("bert", adapter, Recipe()) for adapter in ("frozen", "lora-b"))
    scratch = config_with("bytes", Recipe())
    model = scratch.model.model_copy(update={"frozen": ("encoder/case",)})
    assert frozen_part(frozen, CASE) == "backbones.<case>"
    assert frozen_part(adapted, CASE) is None
    assert frozen_part(scratch, CASE) is None
    assert frozen_part(scratch.model_copy(update={"model": model}), CASE) == "encoders.<case>"


def test_an_image_may_have_a_token_for_each_place() -> None:
    config = config_with_backbone("resnet", "frozen", Recipe())
    options = recorded(config.model).encoders[CASE].model_copy(update={"pooled": False})
    backbone = Backbone("x", BACKBONE_CASES["resnet"][0], cast("HuggingFaceOptions", options))
    values, mask = inputs("resnet")
    places, seen = backbone(values, mask)
    assert places.shape[1] == seen.shape[1] > 1
    assert torch.allclose(places.mean(dim=1, keepdim=True), loaded("resnet")(values, mask)[0], atol=1e-5)
    assert torch.equal(backbone.places(mask, torch.zeros(mask.shape))[0], seen)


def test_an_architecture_without_weights_has_the_same_ones_everywhere() -> None:
    options = TorchvisionOptions(architecture="mobilenet_v3_small")
    spec = spec_of({"kind": "image", "column": "x", "size": [32, 32], "channels": 3})
    torch.manual_seed(1)
    one = Backbone("x", spec, options)
    values, mask = torch.randn(2, 1, 3, 32, 32), torch.ones(2, 1, dtype=torch.bool)
    assert one.width == 1024
    assert torch.isfinite(one(values, mask)[0]).all()
    assert one(values, mask)[0].std() > 1e-3


@pytest.mark.slow
def test_the_packaged_minilm_puts_like_sentences_together() -> None:
    spec = spec_of({"kind": "text", "column": "note", "max_tokens": 96})
    backbone = Backbone("note", spec, MiniLmOptions(sha256=hash_of(MiniLmOptions())))
    said = ["The patient has a fever and a cough.", "He coughs, and his temperature is high.", "Stocks fell on Monday."]
    rows = [[byte + 4 for byte in text.encode()] for text in said]
    values = torch.tensor([row + [0] * (96 - len(row)) for row in rows])
    like = nn.functional.normalize(backbone(values, values > 0)[0][:, 0])
    assert backbone.width == 384
    assert like[0] @ like[1] > like[0] @ like[2] + 0.3


@pytest.mark.slow
def test_the_packaged_efficientnet_tells_images_apart() -> None:
    spec = spec_of({"kind": "image", "column": "xray", "size": [64, 64]})
    backbone = Backbone("xray", spec, EfficientNetOptions(sha256=hash_of(EfficientNetOptions())))
    values, mask = torch.zeros(3, 1, 1, 64, 64), torch.ones(3, 1, dtype=torch.bool)
    values[1, :, :, 16:48, 16:48] = 1.0
    values[2] = torch.randn(1, 1, 64, 64)
    features = backbone(values, mask)[0][:, 0]
    assert backbone.width == 1280
    assert torch.cdist(features, features)[~torch.eye(3, dtype=torch.bool)].min() > 1
