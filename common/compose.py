"""From YAML choices and overrides to one frozen configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TypeGuard, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from common.augmentation import Augmentation
from common.config import Config
from common.curriculum import with_rounds
from common.data.modalities import SignalSpec
from common.data.schema import Schema
from common.models.backbones.files import refuse_other_bytes
from common.models.backbones.options import BackboneOptions
from common.models.encoders.options import EncoderOptions
from common.objectives import Part, named_modalities, read_modalities

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class ConfigError(ValueError):
    """A configuration that cannot be: one sentence that names the key."""


def compose(overrides: Sequence[str]) -> Config:
    """Compose `configs/` with `overrides` (Hydra's grammar) and check every key.

    Raises:
        ConfigError: a key is unknown, missing, mistyped or out of range, also when it came with a `+`.
    """
    from hydra import compose as hydra_compose  # noqa: PLC0415  (0.4 s: only where a run is configured)
    from hydra import initialize_config_dir  # noqa: PLC0415
    from hydra.errors import HydraException  # noqa: PLC0415
    from omegaconf import OmegaConf  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra_compose("config", overrides=[_settable(item) for item in overrides])
            plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_first_line(error)) from error
    return validate(json.dumps(with_rounds(plain)))


def validate(text: str) -> Config:
    """Build the configuration from its JSON.

    Raises:
        ConfigError: the JSON does not describe a configuration; the sentence names the first bad key.
        ValueError: no model can be built from it.
    """
    try:
        config = Config.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from error
    if config.federation.personal and config.data_schema is not None:
        _check_personal(config)
    if config.model.encoders and config.data_schema is not None:
        _check_encoders(config.model.encoders, config.data_schema)
    if config.model.frozen and config.data_schema is not None:
        _check_frozen(config.model.frozen, tuple(config.data_schema.modalities))
    if config.data_schema is not None:
        _check_parts(config.objective.parts, config.data_schema)
        for augment in (config.objective.augment, *(stage.augment for stage in config.stages)):
            _check_augment(config, augment or config.objective.augment, config.data_schema)
    if config.stages and config.data_schema is not None:
        _check_stages(config, config.data_schema)
    _check_networks(config.objective.parts, config.model.encoders)
    return config


def _check_parts(parts: tuple[Part, ...], schema: Schema) -> None:
    for part in parts:
        for name in named_modalities(part):
            if name not in schema.modalities:
                raise ConfigError(
                    f"objective.parts: the site folders have {sorted(schema.modalities)}, {part.kind} names {name!r}"
                )
            if part.kind == "caption" and schema.modalities[name].kind != "text":
                raise ConfigError(
                    f"objective.parts: a caption tells a text, and {name} is {schema.modalities[name].kind}"
                )
    read_modalities(parts, schema.modalities)


def _check_networks(parts: tuple[Part, ...], encoders: Mapping[str, EncoderOptions]) -> None:
    """An adapter trains what an anchor needs fixed; a network without one has read, before, what would be hidden."""
    for part in parts:
        for name in named_modalities(part):
            network = encoders.get(name)
            if not isinstance(network, BackboneOptions):
                continue
            if part.kind == "anchor" and name == part.target and network.adapter is not None:
                raise ConfigError(f"objective.parts: anchor needs {name} fixed, and model.encoders trains its adapter")
            if part.kind == "masked_tokens" and network.adapter is None:
                raise ConfigError(
                    f"objective.parts: masked_tokens hides pieces of {name}, and its network reads records once, whole"
                )


def _check_augment(config: Config, augment: Augmentation, schema: Schema) -> None:
    """What turns has three equal axes, and what is altered is read in the step: a frozen encoder has read it before."""
    from common.blocks import is_named  # noqa: PLC0415  (numpy: not before a configuration is checked)

    for name in augment.rotated:
        spec = schema.modalities.get(name)
        bounds = {*spec.bounds.values()} if isinstance(spec, SignalSpec) and len(spec.bounds) == len("xyz") else set()
        if not isinstance(spec, SignalSpec) or len(spec.channels) != len("xyz") or len(bounds) != 1 or sum(*bounds):
            raise ConfigError(f"augment.rotated: {name} must be a signal of three channels with bounds [-b, b], one b")
    altered = {"audio": augment.in_time, "signal": augment.in_time, "image": augment.in_images}
    for name, spec in schema.modalities.items():
        options = config.model.encoders.get(name)
        frozen = is_named(f"encoder/{name}", config.model.frozen)
        fixed = options.adapter is None if isinstance(options, BackboneOptions) else frozen
        if fixed and altered.get(spec.kind):
            raise ConfigError(f"augment alters {name}, and its encoder, not trained, reads a record once, as it is")


@lru_cache(maxsize=8)
def _blocks_of(config: str) -> tuple[str, ...]:
    """The blocks of a run's model; a site reads the same configuration again with every request."""
    from common.blocks import blocks_of  # noqa: PLC0415
    from common.models.model import build_model  # noqa: PLC0415  (torch: only where blocks are named)
    from common.releases import schema_of  # noqa: PLC0415

    parsed = Config.model_validate_json(config)
    return tuple(blocks_of(build_model(parsed, schema_of(parsed), seed=parsed.seed)))


def _check_personal(config: Config) -> None:
    """Whoever means to keep a block at the site, and misspells it, would share it."""
    from common.blocks import is_personal  # noqa: PLC0415  (numpy: only where blocks are named)

    blocks = _blocks_of(config.model_dump_json())
    for entry in config.federation.personal:
        if not any(is_personal(block, (entry,)) for block in blocks):
            raise ConfigError(f"federation.personal: the blocks are {', '.join(blocks)}, got {entry!r}")


def _check_stages(config: Config, schema: Schema) -> None:
    """Whoever misspells a block would leave it as it is; and every site must have something to send in every stage."""
    from common.blocks import is_named, is_personal, modality_of  # noqa: PLC0415  (numpy: only where blocks are named)

    blocks = _blocks_of(config.model_dump_json())
    everybodys = [b for b in blocks if modality_of(b) is None and not is_personal(b, config.federation.personal)]
    for stage in config.stages:
        for entry in stage.blocks:
            if not any(is_named(block, (entry,)) for block in blocks):
                raise ConfigError(f"stage {stage.name}: the blocks are {', '.join(blocks)}, got {entry!r}")
        for name in set(stage.modalities) - set(schema.modalities):
            raise ConfigError(f"stage {stage.name}: the modalities are {', '.join(schema.modalities)}, got {name!r}")
        if stage.blocks and not any(is_named(block, stage.blocks) for block in everybodys):
            raise ConfigError(
                f"stage {stage.name}: a site that lacks a modality would have nothing to send; train one of"
                f" {', '.join(everybodys)} too"
            )


def _check_encoders(encoders: Mapping[str, EncoderOptions], schema: Schema) -> None:
    """Each reads what it is given, and a pretrained network is, on this machine too, the one that was agreed on."""
    from common.models.encoders.table import refuse_misfit  # noqa: PLC0415  (torch)

    for name, options in encoders.items():
        if name not in schema.modalities:
            raise ConfigError(f"model.encoders: the modalities are {', '.join(schema.modalities)}, got {name!r}")
        try:
            refuse_misfit(name, schema.modalities[name], options)
            if isinstance(options, BackboneOptions):
                refuse_other_bytes(name, options)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def _check_frozen(frozen: tuple[str, ...], modalities: tuple[str, ...]) -> None:
    """Whoever means to freeze an encoder, and misspells it, would train it."""
    from common.blocks import is_named  # noqa: PLC0415

    encoders = tuple(f"encoder/{name}" for name in modalities)
    for entry in frozen:
        if not any(is_named(block, (entry,)) for block in encoders):
            raise ConfigError(f"model.frozen: the encoders are {', '.join(encoders)}, got {entry!r}")


def sweep(overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Expand Hydra's sweeps (`privacy.epsilon=1,2,4`, `seed=range(0,5)`) into one tuple of overrides per run."""
    from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: PLC0415
    from hydra.errors import HydraException  # noqa: PLC0415

    try:
        parsed = OverridesParser.create().parse_overrides(overrides=list(overrides))
    except HydraException as error:
        raise ConfigError(_first_line(error)) from error
    axes = [
        [f"{item.get_key_element()}={value}" for value in item.sweep_string_iterator()]
        if item.is_sweep_override()
        else [item.input_line or ""]
        for item in parsed
    ]
    yield from product(*axes)


def explain(key: str) -> str:
    """Say what a key means, its type, its bounds and its default.

    Raises:
        ConfigError: there is no such key; the sentence lists the keys beside it.
    """
    model: type[BaseModel] = Config
    *parents, name = key.split(".")
    for depth, parent in enumerate(parents):
        annotation = model.model_fields[parent].annotation if parent in model.model_fields else None
        if not _is_section(annotation):
            raise ConfigError(f"{'.'.join(parents[: depth + 1])} is no section; there are {_names(model)}")
        model = annotation
    if name not in model.model_fields:
        raise ConfigError(f"{key} is no key; beside it there are {_names(model)}")
    return _describe(key, model.model_fields[name])


def _settable(override: str) -> str:
    """Let a documented key be set where no YAML lists it; Hydra alone would ask for a `+` there."""
    key = override.split("=", 1)[0]
    model: type[BaseModel] = Config
    *parents, name = key.split(".")
    for parent in parents:
        annotation = model.model_fields[parent].annotation if parent in model.model_fields else None
        if get_origin(annotation) is dict and "=" in override:  # its names are the user's: no YAML lists them
            return f"++{override}"
        if not _is_section(annotation):
            return override
        model = annotation
    known = name in model.model_fields and not (CONFIGS / key).is_dir() and key in override.split("=", 1)
    return f"++{override}" if known else override


def _describe(key: str, field: FieldInfo) -> str:
    if _is_section(field.annotation):
        lines = [f"{key}: {(field.annotation.__doc__ or '').splitlines()[0]}"]
        lines += [f"  {key}.{name}: {item.description}" for name, item in field.annotation.model_fields.items()]
        return "\n".join(lines)
    written = "dict" if get_origin(field.annotation) is dict else str(field.annotation)
    kind = written.removeprefix("<class '").removesuffix("'>").replace("typing.", "")
    bounds = ", ".join(str(item) for item in field.metadata)
    default = "required" if field.is_required() else f"default {field.get_default()!r}"
    return "\n".join(
        filter(None, [f"{key}: {field.description}", f"  type {kind}", f"  {default}", bounds and f"  {bounds}"])
    )


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _names(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "config"
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if first["type"] == "missing":
        return f"{key}: missing, and it has no default"
    message = first["msg"].removeprefix("Value error, ")
    return message if key == "config" else f"{key}: {message[0].lower()}{message[1:]}, got {first['input']!r}"


def _first_line(error: Exception) -> str:
    if type(error).__name__ == "MissingMandatoryValue":
        return f"{getattr(error, 'full_key', 'a key')}: missing, and it has no default"
    cause = str(error).strip().splitlines()
    more = [line for line in str(error.__cause__ or "").splitlines() if line]
    return " ".join(dict.fromkeys([cause[0], *more[:1]]))
