"""What every call of a trainable layer saw and what came back to it, from one forward and one backward pass.

Only gradients of the calls' outputs are asked for, so that no weight gradient of the whole batch is computed besides,
and what lies below the first trainable layer is not gone through. That nothing else uses a trainable parameter is
checked in autograd's own graph: a use that no call accounts for would be a part of the gradient that is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from common.bookkeeping.rows import NO_ROW, RowIndex, rows_of_call
from common.bookkeeping.rules import RULES, Tokens


@dataclass(frozen=True)
class Call:
    """One call of a layer: what it saw, and the part's row that each element belongs to (None: all in order)."""

    name: str
    module: nn.Module
    seen: Tensor
    version: int
    rows: Tensor | None
    edge: GradientEdge


def record(model: nn.Module, losses: Callable[[], Tensor], rows: RowIndex) -> Iterator[tuple[Call, Tensor]]:
    """Run the losses [row] once forward and once backward, each row's weighted with its part of its subject's mean.

    Returns:
        Every call that the losses depend on with the gradient of its output, in the order of the calls.

    Raises:
        ValueError: a call's elements are not rows of the part, a layer ran without gradients, what a layer saw was
            overwritten, or something besides the calls uses a trainable parameter.
    """
    calls: list[Call] = []
    names = {
        module: name
        for name, module in model.named_modules()
        if type(module) in RULES and any(part.requires_grad for part in module.parameters(recurse=False))
    }

    def keep(module: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
        seen = output if isinstance(module, Tokens) else (*given, *named.values())[0]
        rows_seen = rows_of_call()
        problem = _problem(module, seen, output, len(rows), rows_seen)
        if problem:
            raise ValueError(f"{names[module]}: {problem}")
        edge = get_gradient_edge(output)
        calls.append(Call(names[module], module, seen.detach(), seen._version, rows_seen, edge))

    # First of all hooks: another hook may give another output in this one's place.
    hooks = [module.register_forward_hook(keep, prepend=True, with_kwargs=True) for module in names]
    try:
        found = losses()
    finally:
        for hook in hooks:
            hook.remove()
    if found.shape != (len(rows),):
        raise ValueError(f"one loss for each of {len(rows)} rows was expected, got a shape of {tuple(found.shape)}")
    if not found.requires_grad:
        return
    nodes, uses = _graph(found)
    calls = [call for call in calls if call.edge.node in nodes]
    _check_uses(model, calls, uses)
    if not calls:
        return
    weights = rows.weights().to(found.dtype)
    above = torch.autograd.grad(found, [call.edge for call in calls], weights, allow_unused=True)
    for call, gradient in zip(calls, above, strict=True):
        if call.seen._version != call.version:
            raise ValueError(f"what {call.name} saw was overwritten after the call")
        if gradient is not None:
            yield call, gradient


def _problem(module: nn.Module, seen: Tensor, output: Tensor, num_rows: int, rows: Tensor | None) -> str:
    """Why a call's elements would not be rows; empty where they are."""
    expected = num_rows if rows is None else len(rows)
    if not output.requires_grad:
        return "it has trainable parameters and ran without gradients: freeze it, or let it have them"
    if seen.dim() == 0 or len(seen) != expected or len(output) != expected:
        return f"per-row gradients of {expected} rows were expected, got {tuple(seen.shape)}; say whose with for_rows"
    if rows is not None and len(rows) and not NO_ROW <= int(rows.min()) <= int(rows.max()) < num_rows:
        return f"for_rows names a row beyond the part's {num_rows}"
    if seen.dim() < _fewest_dimensions(module):
        return f"a batch of rows was expected, got {tuple(seen.shape)}"
    return ""


def _fewest_dimensions(module: nn.Module) -> int:
    """With fewer, the first dimension is none of rows: it would be a channel, a feature, or be normed over."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return len(module.kernel_size) + 2
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return len(module.normalized_shape) + 1
    return 2 if isinstance(module, nn.Linear | nn.GroupNorm) else 1


def _graph(found: Tensor) -> tuple[set[Node], Counter[int]]:
    """All nodes that the losses depend on, and how often each leaf is used, by the leaf's identity."""
    root = get_gradient_edge(found).node
    nodes, waiting, uses = {root}, [root], Counter[int]()
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            leaf = _leaf(node)
            if leaf is not None:
                uses[id(leaf)] += 1
            if node not in nodes:
                nodes.add(node)
                # Mixed precision casts a weight once and uses the cast often: its uses count, not the cast itself.
                if leaf is None or node.name() != "ToCopyBackward0":
                    waiting.append(node)
    return nodes, uses


def _leaf(node: Node) -> Tensor | None:
    """The parameter that a node stands for, cast or not."""
    if node.name() == "ToCopyBackward0" and len(node.next_functions) == 1 and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    variable = getattr(node, "variable", None)
    return variable if isinstance(variable, Tensor) else None


def _check_uses(model: nn.Module, calls: list[Call], uses: Counter[int]) -> None:
    seen = Counter(id(part) for call in calls for part in call.module.parameters(recurse=False) if part.requires_grad)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and seen[id(parameter)] != uses[id(parameter)]:
            times, known = uses[id(parameter)], seen[id(parameter)]
            raise ValueError(f"parameter {name} is used {times} times, {known} of them by a call of its layer")
