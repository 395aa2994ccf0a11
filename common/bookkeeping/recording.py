"""What every call of a trainable layer saw and what came back to it, from one forward and one backward pass.

Gradients are taken where they pass by on the way back, so that a call's input is let go as soon as its layer's rule has
used it, and no weight gradient of the whole batch is computed besides. That nothing else uses a trainable parameter is
checked in autograd's own graph: a use that no call accounts for would be a part of the gradient that is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Size, Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from common.bookkeeping.rows import NO_ROW, rows_of_call
from common.bookkeeping.rules import Layer, Tokens


@dataclass(frozen=True)
class Call:
    """One call of a layer: what it saw, and the part's row that each element belongs to (None: all in order).

    `place` is how many calls came before it; `edge` is where the gradient of its output, of `shape`, passes by.
    """

    place: int
    layer: Layer
    seen: Tensor
    version: int
    rows: Tensor | None
    edge: GradientEdge
    shape: Size


Take = Callable[[Call, Tensor], None]

_one = torch.zeros((), requires_grad=True)
_LEAF, _CAST = type(get_gradient_edge(_one).node), type(_one.double().grad_fn)


def go_forth(
    layers: list[Layer], trainable: Mapping[str, nn.Parameter], losses: Callable[[], Tensor], num_rows: int
) -> tuple[Tensor, list[Call]]:
    """Run the losses once.

    Returns:
        The losses [row], and every call that they depend on, in the order of the calls.

    Raises:
        ValueError: a call's elements are not rows of the part, a layer ran without gradients, hooks hide what layers
            give, or something besides the calls uses a trainable parameter.
    """
    if nn.modules.module._global_forward_hooks:
        raise ValueError("a forward hook for all modules comes before ours, and may change what a layer gave")
    calls: list[Call] = []
    by_module = {layer.module: layer for layer in layers}

    def keep(module: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
        layer, rows = by_module[module], rows_of_call()
        seen = output if isinstance(module, Tokens) else (*given, *named.values())[0]
        problem = _problem(module, seen, output, num_rows, rows)
        if problem:
            raise ValueError(f"{layer.name}: {problem}")
        edge = get_gradient_edge(_whole(output))
        calls.append(Call(len(calls), layer, seen.detach(), seen._version, rows, edge, output.shape))

    # First of all hooks: another hook may give another output in this one's place.
    hooks = [layer.module.register_forward_hook(keep, prepend=True, with_kwargs=True) for layer in layers]
    try:
        found = losses()
    finally:
        for hook in hooks:
            hook.remove()
    if found.shape != (num_rows,):
        raise ValueError(f"one loss for each of {num_rows} rows was expected, got a shape of {tuple(found.shape)}")
    if not found.requires_grad:
        return found, []
    nodes, uses = _graph(found)
    calls = [call for call in calls if call.edge.node in nodes]
    _check_uses(trainable, calls, uses)
    return found, calls


def go_back(loss: Tensor, calls: list[Call], take: Take) -> None:
    """Go back from the weighted sum of the losses, and hand each call over with the gradient of its output.

    `calls` is emptied, so that what a call saw lives no longer than `take` needs it.

    Raises:
        ValueError: what a layer saw was overwritten after the call.
    """
    at: dict[Node, list[Call]] = {}
    for call in calls:
        at.setdefault(call.edge.node, []).append(call)
    calls.clear()
    # Autograd runs what lies above the edges that it is asked for. Asked for all of them, it would keep all gradients
    # until the end, and would give some as they were before hooks of the model's own.
    lowest = [call for node, several in at.items() if _is_lowest(node, at) for call in several]
    edges = [call.edge for call in lowest]
    for edge in edges:
        at.pop(edge.node, None)
    hooks = [node.register_prehook(partial(_arrived, several, take)) for node, several in at.items()]
    try:
        above = torch.autograd.grad(loss, edges, allow_unused=True) if edges else ()
    finally:
        for hook in hooks:
            hook.remove()
    _arrived(lowest, take, above, in_order=True)


def _arrived(calls: list[Call], take: Take, above: tuple[Tensor | None, ...], *, in_order: bool = False) -> None:
    for number in range(len(calls)):
        call = calls.pop(0)
        gradient = above[number if in_order else call.edge.output_nr]
        if call.seen._version != call.version:
            raise ValueError(f"what {call.layer.name} saw was overwritten after the call")
        if gradient is not None:
            take(call, gradient.reshape(call.shape))


def _is_lowest(node: Node, others: Mapping[Node, object]) -> bool:
    """Whether no other call's node is below this one."""
    seen, waiting = {node}, [node]
    while waiting:
        for below, _ in waiting.pop().next_functions:
            if below is not None and below not in seen:
                if below in others:
                    return False
                seen.add(below)
                waiting.append(below)
    return True


def _whole(output: Tensor) -> Tensor:
    """What an output is a view of, where it is one: a change in its place goes round the view's own node."""
    base = output._base
    if base is None or base.grad_fn is None:
        return output
    if base.numel() != output.numel() or not (base.is_contiguous() and output.is_contiguous()):
        raise ValueError(f"a layer's output of shape {tuple(output.shape)} is a part of {tuple(base.shape)}")
    return base


def _problem(module: nn.Module, seen: Tensor, output: Tensor, num_rows: int, rows: Tensor | None) -> str:
    """Why a call's elements would not be rows; empty where they are."""
    expected = num_rows if rows is None else len(rows)
    if not output.requires_grad:
        why = "in no_grad, or in a reentrant checkpoint"
        return f"it has trainable parameters and ran without gradients ({why}): freeze it, or let it have them"
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
    """All nodes that the losses depend on, and how often each leaf is used, by the leaf's identity.

    Mixed precision casts a weight once and uses the cast often: its uses count, not the cast itself.
    """
    root = get_gradient_edge(found).node
    nodes, waiting, uses = {root}, [root], Counter[int]()
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            leaf = node.next_functions[0][0] if type(node) is _CAST else node
            if type(leaf) is _LEAF:
                uses[id(getattr(leaf, "variable"))] += 1  # noqa: B009  (unknown to the type checker)
            elif node not in nodes:
                waiting.append(node)
            nodes.add(node)
    return nodes, uses


def _check_uses(trainable: Mapping[str, nn.Parameter], calls: list[Call], uses: Counter[int]) -> None:
    seen = Counter(name for call in calls for name in call.layer.own.values())
    for name, parameter in trainable.items():
        times, known = uses[id(parameter)], seen[name]
        if times != known:
            raise ValueError(f"parameter {name} is used {times} times, {known} of them by a call of its layer")
