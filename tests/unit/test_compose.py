"""Configuration: what is unknown, missing, mistyped or out of range is refused by name."""

from __future__ import annotations

import json
import re

import pytest

from common.compose import ConfigError, compose, explain, sweep, validate


@pytest.mark.parametrize("experiment", ["heart", "heart_flamby"])
def test_every_experiment_composes(experiment: str) -> None:
    config = compose([f"experiment={experiment}"])
    assert config.experiment == experiment
    assert config.privacy.kind == "subject"
    assert config.secagg.kind == "masked"
    assert config.hash() == compose([f"experiment={experiment}"]).hash()
    assert config.hash() != compose([f"experiment={experiment}", "seed=1"]).hash()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("privacy.clip_norm=-1", "privacy.clip_norm"),
        ("privacy.clip_norm=much", "privacy.clip_norm"),
        ("privacy.clip_norm='1.0'", "privacy.clip_norm"),
        ("privacy.delta=0", "privacy.delta"),
        ("privacy.epsilon=.nan", "privacy.epsilon"),
        ("+privacy.typo=2", "privacy.typo"),
        ("privacy.typo=2", "typo"),
        ("+typo=2", "typo"),
        ("rounds=1.5", "rounds"),
        ("rounds=0", "rounds"),
        ("objective.task=null", "objective.task"),
        ("privacy=nothing", "privacy"),
        ("fusion=middle", "fusion"),
        ("model.heads=3", "model.heads"),
        ("drop=[cleveland]", "drop"),
        ("federation.aggregator=median", "federation.aggregator"),
        ("experiment=nowhere", "nowhere"),
        ("secagg.post_quantum=1", "secagg.post_quantum"),
    ],
)
def test_a_bad_key_is_named(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        compose([override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "needed"),
    [
        ("secagg=none", "secagg.kind=masked"),
        ("privacy.sampling_rate=0.5", "privacy.sampling_rate=1.0"),
        ("privacy.steps_per_round=2", "privacy.steps_per_round=1"),
        ("federation.personal=[head]", "federation.personal=()"),
    ],
)
def test_noise_is_shared_out_only_where_it_protects_all_that_there_is(override: str, needed: str) -> None:
    assert compose(["privacy=distributed"]).privacy.kind == "distributed"
    with pytest.raises(ConfigError, match=re.escape(f"privacy=distributed needs {needed}, because")):
        compose(["privacy=distributed", override])


def test_a_median_is_allowed_where_updates_are_not_hidden() -> None:
    assert compose(["secagg=none", "federation.aggregator=median"]).federation.aggregator == "median"


def test_post_quantum_is_off_by_default_is_explained_and_needs_masks() -> None:
    assert not compose([]).secagg.post_quantum
    assert compose(["secagg.post_quantum=true"]).secagg.post_quantum
    assert "ML-KEM-768" in explain("secagg.post_quantum")
    with pytest.raises(ConfigError, match=r"secagg\.post_quantum"):
        compose(["secagg=none", "secagg.post_quantum=true"])


def test_folders_need_a_root() -> None:
    with pytest.raises(ConfigError, match=r"data\.root"):
        compose(["experiment=folders", "objective.task=icu"])


def test_a_configuration_survives_its_json() -> None:
    config = compose(["privacy.epsilon=3", "drop=[va@2]"])
    assert validate(config.model_dump_json()) == config


def test_a_sweep_becomes_one_run_per_combination() -> None:
    runs = list(sweep(["experiment=heart", "seed=range(0,3)", "privacy.epsilon=1,8"]))
    assert len(runs) == 6
    assert {compose(run).seed for run in runs} == {0, 1, 2}


def test_a_key_is_explained_with_its_default_and_bounds() -> None:
    text = explain("privacy.clip_norm")
    assert "L2 bound" in text
    assert "1.0" in text
    assert "privacy.delta" in explain("privacy")
    with pytest.raises(ConfigError, match="clip_norm"):
        explain("privacy.clip")


def test_no_choice_names_code() -> None:
    assert "_target_" not in json.dumps(json.loads(compose([]).model_dump_json()))


def test_an_encoder_is_chosen_by_the_modalitys_name_without_a_plus() -> None:
    chosen = compose(["model.encoders.voice.kind=mel", "model.encoders.voice.mels=32"]).model.encoders["voice"]
    assert chosen.model_dump(include={"kind", "mels"}) == {"kind": "mel", "mels": 32}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "model.encoders.voice.kind=nose",
            r"^model\.encoders\.voice\.kind: 'nose' is none of linear, bytes, .*torchvision$",
        ),
        ("model.encoders.voice.mels=32", r"^model\.encoders\.voice\.kind: missing"),
        (
            "model.encoders.voice={kind: minilm, adapter: {kind: arms}}",
            r"^model\.encoders\.voice\.adapter\.kind: 'arms' is none of lora, bottleneck$",
        ),
        ("model.encoders.voice={kind: mel, melody: 3}", r"^model\.encoders\.voice\.melody: unknown key$"),
        ("objective.parts=[{kind: guess}]", r"^objective\.parts\.0\.kind: 'guess' is none of task, anchor, "),
    ],
)
def test_a_kind_that_is_none_is_told_the_kinds_and_keys_stand_as_they_were_written(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compose([override])


def test_a_configuration_that_is_no_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="JSON"):
        validate("{")
