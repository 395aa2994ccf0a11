"""Named parts of the model: the unit of aggregation, cohort, secure sum, and of what stays at a site.

A parameter's name says its block: `encoders.<labs>.project.weight` belongs to `encoder/labs`. The model's families of
modules are listed in one table; a parameter of no family is an error, not a block of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

# Attribute of the model -> (block, is there one per modality?). A family of modules (nn.ModuleDict) has one per name.
_FAMILIES = {
    "encoders": "encoder",
    "backbones": "backbone",
    "auxiliary": "auxiliary",
    "logits": "logit",
    "heads": "head",
    "projections": "projection",
    "tellers": "teller",
    "restorers": "restorer",
}
_SINGLE = {"fusion": "fusion", "bias": "bias"}
_BY_MODALITY = ("encoder", "backbone", "adapter", "auxiliary", "logit", "projection", "teller", "restorer")
# What is trained inside a frozen backbone is a block of its own: these parts of a parameter's name say so.
_ADAPTERS = {"lora_A", "lora_B", "bottleneck_down", "bottleneck_up"}


def module_key(name: str) -> str:
    """Give the key of a modality or task in an nn.ModuleDict: brackets keep it off the module's own attributes."""
    return f"<{name}>"


def block_of(parameter_name: str) -> str:
    """Name the block of a parameter: encoder/labs, backbone/note, adapter/note, head/disease, fusion and others.

    Raises:
        ValueError: the name belongs to no family of blocks.
    """
    family, _, rest = parameter_name.removeprefix("parts.").partition(".")
    if family in _SINGLE and rest:
        return _SINGLE[family]
    name, closed, _ = rest.partition(">.")
    if family in _FAMILIES and closed and name.startswith("<"):
        inside = family == "backbones" and not _ADAPTERS.isdisjoint(rest.split("."))
        return f"{'adapter' if inside else _FAMILIES[family]}/{name[1:]}"
    raise ValueError(f"parameter {parameter_name!r} belongs to no block")


def blocks_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """List the trainable parameters by block; blocks and the names within each are sorted."""
    found: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(block_of(name), []).append(name)
    return {block: tuple(sorted(found[block])) for block in sorted(found)}


def modality_of(block: str) -> str | None:
    """Name the modality that a block belongs to; None for what all share (fusion, heads, bias)."""
    family, _, name = block.partition("/")
    return name if family in _BY_MODALITY and name else None


def held_blocks(blocks: Iterable[str], held_modalities: Iterable[str]) -> tuple[str, ...]:
    """Keep the blocks that a site with these modalities trains: its own modalities' and the shared ones."""
    held = set(held_modalities)
    return tuple(block for block in blocks if modality_of(block) is None or modality_of(block) in held)


def is_named(block: str, entries: Sequence[str]) -> bool:
    """Tell whether entries name a block: itself, or the family that it stands under (`head`: head/disease)."""
    return any(block == entry or block.startswith(f"{entry.rstrip('/')}/") for entry in entries)


@contextmanager
def standing_still(model: nn.Module, trained: Sequence[str]) -> Iterator[None]:
    """Train, within it, only the blocks that entries name; without entries, all. Afterwards the model is as it was."""
    still = [
        parameter
        for name, parameter in model.named_parameters()
        if trained and parameter.requires_grad and not is_named(block_of(name), trained)
    ]
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)


def is_personal(block: str, personal: Sequence[str]) -> bool:
    """Tell whether a block stays at the site."""
    return is_named(block, personal)


def flatten(model: nn.Module, blocks: Iterable[str]) -> dict[str, np.ndarray]:
    """Copy blocks out of the model: one float32 vector [parameter] each, in the order of `blocks_of`.

    Raises:
        ValueError: the model has no such block.
    """
    table, parameters = blocks_of(model), dict(model.named_parameters())
    return {
        block: np.concatenate(
            [parameters[name].detach().cpu().numpy().ravel() for name in _names(table, block)]
        ).astype(np.float32)
        for block in blocks
    }


def load(model: nn.Module, vectors: Mapping[str, np.ndarray]) -> None:
    """Copy blocks into the model; blocks that are not given stay as they are.

    Raises:
        ValueError: a block is not the model's, or its vector has another length; the model is then unchanged.
    """
    import torch  # noqa: PLC0415  (whoever has a model has it loaded already)

    table, parameters = blocks_of(model), dict(model.named_parameters())
    for block, vector in vectors.items():
        length = sum(parameters[name].numel() for name in _names(table, block))
        if vector.shape != (length,):
            raise ValueError(f"block {block} has {length} parameters, got an array of shape {vector.shape}")
    with torch.no_grad():
        for block, vector in vectors.items():
            start = 0
            for name in table[block]:
                target = parameters[name]
                part = np.ascontiguousarray(vector[start : start + target.numel()], dtype=np.float32)
                target.copy_(torch.from_numpy(part.copy()).view_as(target))
                start += target.numel()


def _names(table: Mapping[str, tuple[str, ...]], block: str) -> tuple[str, ...]:
    if block not in table:
        raise ValueError(f"the model has no block {block!r}; it has {', '.join(table)}")
    return table[block]
