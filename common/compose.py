"""From YAML choices and overrides to one frozen configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TypeGuard, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from common.config import Config
from common.consistent import ConfigError, check_together
from common.curriculum import with_rounds

__all__ = ["CONFIGS", "ConfigError", "compose", "explain", "sweep", "validate"]
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


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
        raise ConfigError(_sentence(error, text)) from error
    check_together(config)
    return config


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


def _sentence(error: ValidationError, text: str) -> str:
    first = error.errors()[0]
    given = json.loads(text) if first["loc"] else None  # without a place in it, it may be no JSON at all
    key = ".".join(_as_written(first["loc"], given)) or "config"
    say = _SENTENCES.get(first["type"])
    if say:
        return f"{key}{say(first)}"
    message = first["msg"].removeprefix("Value error, ")
    return message if key == "config" else f"{key}: {message[0].lower()}{message[1:]}, got {first['input']!r}"


def _as_written(loc: Sequence[int | str], given: object) -> Iterator[str]:
    """Leave out the kinds that pydantic puts between the keys that somebody wrote."""
    for part in loc:
        if isinstance(given, dict) and part not in given and given.get("kind") == part:
            continue
        yield str(part)
        if isinstance(given, dict):
            given = given.get(part)
        elif isinstance(given, list) and isinstance(part, int):
            given = given[part]


_SENTENCES: dict[str, Callable[[ErrorDetails], str]] = {
    "extra_forbidden": lambda _fault: ": unknown key",
    "missing": lambda _fault: ": missing, and it has no default",
    "union_tag_not_found": lambda _fault: ".kind: missing, and it has no default",
    "union_tag_invalid": lambda fault: (
        f".kind: {fault['ctx']['tag']!r} is none of {fault['ctx']['expected_tags'].replace(chr(39), '')}"
    ),
}


def _first_line(error: Exception) -> str:
    if type(error).__name__ == "MissingMandatoryValue":
        return f"{getattr(error, 'full_key', 'a key')}: missing, and it has no default"
    cause = str(error).strip().splitlines()
    more = [line for line in str(error.__cause__ or "").splitlines() if line]
    return " ".join(dict.fromkeys([cause[0], *more[:1]]))
