"""A rule per layer: from what went in and the gradient of what came out to one weight gradient an element of a call.

Every rule's numbers for one element depend on that element and on the call's shape only. An exact type is asked for,
since a subclass may compute anything. nn.MultiheadAttention has no rule, and neither has anything that mixes elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional, grad

from common.bookkeeping.memory import buffer

Gradients = dict[str, Tensor]
_CONVOLVED_TOGETHER = 8


class Tokens(nn.Module):
    """Learnt tokens [token, width], the same for every row: the place for what would be a bare parameter."""

    def __init__(self, *shape: int) -> None:
        """Start at zero."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self, rows: int) -> Tensor:
        """Give every row the tokens: [row, token, width]."""
        return self.weight.expand(rows, *self.weight.shape)


@dataclass(frozen=True)
class Layer:
    """A module with trainable parameters: `own` gives, by its own name for each, the model's."""

    name: str
    module: nn.Module
    own: dict[str, str]


def is_free(module: nn.Module, seen: Tensor) -> bool:
    """Whether an element's weight gradient is an outer product of two vectors: a linear map of one token."""
    return isinstance(module, nn.Linear) and seen.shape[1:-1].numel() == 1


def is_lent(module: nn.Module, seen: Tensor) -> bool:
    """Whether an element's gradients are kept in the very tensors that the model and autograd have."""
    return isinstance(module, Tokens) or is_free(module, seen)


def element_gradients(module: nn.Module, seen: Tensor, above: Tensor) -> Gradients:
    """Give the gradients of each element of one call, by the parameter's name in the module: [element, *parameter].

    Args:
        module: a layer with a rule.
        seen: its input, of the call's fixed shape.
        above: the gradient of its output.
    """
    exact = torch.float64 if above.dtype == torch.float64 else torch.float32
    if seen.is_floating_point():
        seen = seen.to(exact)
    return RULES[type(module)](module, seen, above.to(exact))


def _linear(_module: nn.Module, seen: Tensor, above: Tensor) -> Gradients:
    seen, above = (part.reshape(len(part), -1, part.shape[-1]) for part in (seen, above))
    weight = buffer((len(seen), above.shape[2], seen.shape[2]), seen.dtype)
    return {"weight": torch.bmm(above.transpose(1, 2), seen, out=weight), "bias": above.sum(dim=1)}


def _convolution(module: nn.Module, seen: Tensor, above: Tensor) -> Gradients:
    """A few elements side by side are one convolution's groups, whose weight gradient is one an element."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        raise TypeError(f"expected a convolution, got {type(module).__name__}")
    around = module.padding
    if isinstance(around, str) or module.padding_mode != "zeros":
        mode = module.padding_mode if module.padding_mode != "zeros" else "constant"
        seen = functional.pad(seen, module._reversed_padding_repeated_twice, mode=mode)
        around = (0,) * len(module.kernel_size)
    gradient_of: Callable[..., Tensor] = grad.conv1d_weight if isinstance(module, nn.Conv1d) else grad.conv2d_weight
    weight = buffer((len(seen), *module.weight.shape), seen.dtype)
    together = math.gcd(len(seen), _CONVOLVED_TOGETHER)  # so few fit into the cache; equally many, for one shape
    sizes = (together * len(module.weight), *module.weight.shape[1:])
    for start in range(0, len(seen), together):
        some = slice(start, start + together)
        left, right = (part[some].reshape(1, -1, *part.shape[2:]) for part in (seen, above))
        found = gradient_of(left, sizes, right, module.stride, around, module.dilation, together * module.groups)
        weight[some] = found.view(weight[some].shape)
    return {"weight": weight, "bias": above.flatten(2).sum(dim=2)}


def _layer_norm(module: nn.Module, seen: Tensor, above: Tensor) -> Gradients:
    if not isinstance(module, nn.LayerNorm):
        raise TypeError(f"expected a LayerNorm, got {type(module).__name__}")
    normed = functional.layer_norm(seen, module.normalized_shape, eps=module.eps)
    return _over_tokens(module.normalized_shape, normed, above)


def _rms_norm(module: nn.Module, seen: Tensor, above: Tensor) -> Gradients:
    if not isinstance(module, nn.RMSNorm):
        raise TypeError(f"expected an RMSNorm, got {type(module).__name__}")
    return _over_tokens(
        module.normalized_shape, functional.rms_norm(seen, list(module.normalized_shape), eps=module.eps), above
    )


def _over_tokens(shape: tuple[int, ...], normed: Tensor, above: Tensor) -> Gradients:
    scaled, plain = ((part.reshape(len(part), -1, math.prod(shape))) for part in (normed * above, above))
    return {"weight": scaled.sum(dim=1).view(-1, *shape), "bias": plain.sum(dim=1).view(-1, *shape)}


def _group_norm(module: nn.Module, seen: Tensor, above: Tensor) -> Gradients:
    if not isinstance(module, nn.GroupNorm):
        raise TypeError(f"expected a GroupNorm, got {type(module).__name__}")
    normed = functional.group_norm(seen, module.num_groups, eps=module.eps)
    scaled, plain = (part.reshape(*part.shape[:2], -1) for part in (normed * above, above))
    return {"weight": scaled.sum(dim=2), "bias": plain.sum(dim=2)}


def _embedding(module: nn.Module, seen: Tensor, above: Tensor) -> Gradients:
    if not isinstance(module, nn.Embedding):
        raise TypeError(f"expected an Embedding, got {type(module).__name__}")
    elements, (words, width) = len(seen), module.weight.shape
    ids = seen.reshape(elements, -1) + words * torch.arange(elements, device=seen.device).unsqueeze(1)
    found = above.new_zeros(elements * words, width).index_add_(0, ids.ravel(), above.reshape(-1, width))
    found = found.view(elements, words, width)
    if module.padding_idx is not None:
        found[:, module.padding_idx] = 0
    return {"weight": found}


def _tokens(_module: nn.Module, _seen: Tensor, above: Tensor) -> Gradients:
    return {"weight": above}


RULES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], Gradients]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    Tokens: _tokens,
}


def layers_of(model: nn.Module) -> tuple[list[Layer], dict[str, nn.Parameter]]:
    """Find the layers that have trainable parameters, and these parameters by the model's name for them.

    Raises:
        ValueError: a module mixes rows, is compiled, or has a trainable parameter that no rule covers; it is named.
    """
    layers: list[Layer] = []
    trainable: dict[str, nn.Parameter] = {}
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        own = {key: part for key, part in module._parameters.items() if part is not None and part.requires_grad}
        problem = _problem(module, own)
        if problem:
            raise ValueError(problem.format(f"{path or 'the model'} ({type(module).__name__})"))
        if own:
            named = {key: names.setdefault(id(part), f"{path}.{key}" if path else key) for key, part in own.items()}
            trainable.update(zip(named.values(), own.values(), strict=True))
            layers.append(Layer(path, module, named))
    return layers, trainable


def _problem(module: nn.Module, own: dict[str, nn.Parameter]) -> str:
    """Why a module has no exact per-row gradients, with a place for its name; empty where it has."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "{} mixes the rows of a batch"
    if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
        return "{} is compiled, which hides its layers: give the model itself"
    if own and (type(module) not in RULES or not own.keys() <= {"weight", "bias"}):
        kinds = ", ".join(kind.__name__ for kind in RULES)
        return f"parameter {next(iter(own))!r} of {{}} has no exact per-row gradient: use one of {kinds}"
    return _problem_of_own(module, own) if own else ""


def _problem_of_own(module: nn.Module, own: dict[str, nn.Parameter]) -> str:
    hooked = [key for key, parameter in own.items() if parameter._backward_hooks]
    if hooked:
        return f"parameter {hooked[0]!r} of {{}} has a hook, which would change the gradient of all rows together"
    if "forward" in vars(module):
        return "{} has a forward of its own: it may compute anything"
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.sparse or module.scale_grad_by_freq):
        return "{} has no exact per-row gradient with max_norm, sparse or scale_grad_by_freq"
    return ""
