"""What of a configuration can be told only from several parts of it together, and from what the data look like."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from common.augmentation import Augmentation
from common.config import Config
from common.data.modalities import SignalSpec
from common.data.schema import Schema
from common.models.backbones.files import refuse_other_bytes
from common.models.backbones.options import BackboneOptions
from common.models.encoders.options import EncoderOptions
from common.objectives import Part, named_modalities, read_modalities


class ConfigError(ValueError):
    """A configuration that cannot be: one sentence that names the key."""


def check_together(config: Config) -> None:
    """Check what no single key shows.

    Raises:
        ConfigError: two parts contradict each other, or the data; the sentence names the key.
        ValueError: no model can be built from it.
    """
    if config.federation.personal and config.data_schema is not None:
        _check_personal(config)
    if config.model.encoders and config.data_schema is not None:
        _check_encoders(config.model.encoders, config.data_schema)
    if config.model.frozen and config.data_schema is not None:
        _check_frozen(config.model.frozen, tuple(config.data_schema.modalities))
    if config.data_schema is not None:
        _check_parts(config.objective.parts, config.data_schema)
        _check_bounds(config.data_schema)
        for augment in (config.objective.augment, *(stage.augment for stage in config.stages)):
            _check_augment(config, augment or config.objective.augment, config.data_schema)
    if config.stages and config.data_schema is not None:
        _check_stages(config, config.data_schema)
    _check_networks(config.objective.parts, config.model.encoders)


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


def _check_bounds(schema: Schema) -> None:
    """A number is cut before a model sees it: where, is for whoever knows the column to say, and not for a default."""
    for name, table in schema.tables.items():
        for column in table.columns:
            if column not in table.bounds:
                raise ConfigError(
                    f"dataset.yaml, modality {name}, column {column}: it has no public bounds, as bounds: {{{column}: "
                    "[low, high]}; what lies beyond them is cut, and what lies within is scaled by them"
                )


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
