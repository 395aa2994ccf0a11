"""What is trained inside a frozen network: small linear maps beside or behind its own."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.models.backbones.options import BottleneckOptions, LoraOptions


class Bottleneck(nn.Module):
    """A linear map whose output is led through a narrow layer, which is added to it. It starts by adding nothing.

    Source: Houlsby et al. 2019, arXiv:1902.00751.
    """

    def __init__(self, inner: nn.Linear, width: int) -> None:
        """Put the narrow layer behind a frozen linear map."""
        super().__init__()
        self.inner = inner
        self.bottleneck_down = nn.Linear(inner.out_features, width)
        self.bottleneck_up = nn.Linear(width, inner.out_features)

    def forward(self, values: Tensor) -> Tensor:
        """Map [batch, ..., feature] to [batch, ..., feature]."""
        said = self.inner(values)
        return torch.add(said, self.bottleneck_up(functional.gelu(self.bottleneck_down(said))))


def add_adapter(network: nn.Module, options: LoraOptions | BottleneckOptions) -> None:
    """Put adapters into a frozen network, in place; nothing else in it becomes trainable.

    Raises:
        ValueError: no linear map of the network is a target, or a package is missing.
    """
    named = {name: part for name, part in network.named_modules() if isinstance(part, nn.Linear)}
    targets = [name for name in named if any(f".{name}".endswith(f".{end}") for end in options.targets)]
    if not targets:
        ends = ", ".join(sorted({name.rpartition(".")[2] for name in named})) or "none"
        raise ValueError(f"adapter.targets: no linear map ends in {', '.join(options.targets)}; there are {ends}")
    _ADD[options.kind](network, options, targets)


def starts_at_zero(parameter_name: str) -> bool:
    """Tell whether a parameter is what an adapter adds with: at zero, the network says what it said before."""
    return "bottleneck_up" in parameter_name or "lora_B" in parameter_name


def _add_lora(network: nn.Module, options: LoraOptions | BottleneckOptions, targets: list[str]) -> None:
    if not isinstance(options, LoraOptions):
        raise TypeError(f"expected lora, got {options.kind}")
    if find_spec("peft") is None:
        raise ValueError("adapter.kind=lora needs the package peft: pip install fedmosaic[pretrained]")
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415  (seconds)

    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=targets, lora_dropout=0.0, bias="none")
    inject_adapter_in_model(config, network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_B" in name or ("lora_A" in name and not options.freeze_a))


def _add_bottleneck(network: nn.Module, options: LoraOptions | BottleneckOptions, targets: list[str]) -> None:
    if not isinstance(options, BottleneckOptions):
        raise TypeError(f"expected bottleneck, got {options.kind}")
    for name in targets:
        inner = network.get_submodule(name)
        if isinstance(inner, nn.Linear):
            network.set_submodule(name, Bottleneck(inner, options.width))


_ADD: dict[str, Callable[[nn.Module, LoraOptions | BottleneckOptions, list[str]], None]] = {
    "lora": _add_lora,
    "bottleneck": _add_bottleneck,
}
