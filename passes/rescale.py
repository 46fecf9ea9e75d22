"""The two exact edits of channel alignment: divide channels by factors, subtract amounts.

Constants are replaced by fresh ones, so that an initializer others share keeps its value for them.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node
from ..ir.tensor import Array
from .parts import multiplied
from .region_ops import BOUNDLESS
from .regions import Channels, Linear
from .units import clamp_limits


def equalizing_factors(first: Array, second: Array, limit: float = 100.0) -> Array:
    """Factors sqrt(first / second), by which two ranges per channel become alike.

    Both become their geometric mean (Nagel et al., 1906.04721, equation 11).

    Args:
        first: float, not negative [channels], will be divided by the factors.
        second: likewise, will be multiplied.
        limit: the factors lie in [1/limit, limit].

    Returns:
        float64 [channels]; 1 for dead channels, those with a range below 1e-4 of the median of
        its kind.
    """
    roots = [np.sqrt(np.asarray(r, np.float64)) for r in (first, second)]  # r1 * r2 may underflow
    factors = roots[0] / np.where(roots[1] > 0, roots[1], 1.0)
    alive = ~(dead(first) | dead(second))
    return np.where(alive, np.clip(factors, 1 / limit, limit), 1.0)


def dead(ranges: Array, share: float = 1e-4) -> Array:
    """True for channels whose range is at most `share` of the median of those that are not 0."""
    ranges = np.asarray(ranges, np.float64)
    alive = ranges[ranges > 0]
    found: Array = ranges <= (share * np.median(alive) if alive.size else 0.0)
    return found


def rescale(graph: Graph, channels: Channels, factors: Array) -> int:
    """Divide every channel by its factor; how many constants changed.

    A Clip whose bounds must follow becomes Max (Relu for 0) and Min with bounds per channel.
    `channels` is an analysis of `graph` for factors, `factors` float64 per id, positive, 1 where
    the label is 0, equal where labels are.
    """
    changed = 0
    for linear in channels.linears:
        change = factors[linear.ins] / factors[linear.outs]
        changed += _multiply(graph, linear.node, linear.slot, change)
        node, slot = linear.bias
        changed += _multiply(graph, node, slot, 1 / factors[linear.bias_ids])
    for offset in channels.offsets:
        changed += _multiply(graph, offset.node, offset.slot, 1 / factors[offset.ids])
    for bound in channels.bounds:
        if np.any(factors[bound.ids] != 1):
            _bound_channels(graph, bound.node, factors[bound.ids])
            changed += 1
    return changed


def shift(graph: Graph, channels: Channels, amounts: Array) -> int:
    """Subtract its amount from every channel; how many biases changed.

    `channels` is an analysis of `graph` for shifts, `amounts` float64 per id, 0 where the label is
    0, made consistent by `propagate`.
    """
    changed = 0
    for linear in channels.linears:
        change = returned(linear, amounts) - amounts[linear.bias_ids]
        if np.any(change):
            node, slot = linear.bias
            old = node.input(slot)
            bias = change if old is None else old.numpy() + change
            name = old.name if old else ""
            graph.set_input(node, slot, graph.constant(np.asarray(bias, np.float32), name))
            changed += 1
    return changed


def propagate(channels: Channels, chosen: Array) -> Array:
    """Amounts per id that follow from those chosen where channels are made."""
    amounts = chosen.copy()
    for out, parts in channels.joins:
        amounts[out] = sum(amounts[part] for part in parts)
    return amounts


def returned(linear: Linear, amounts: Array) -> Array:
    """What the output channels [O] of `linear` lose when its input loses `amounts`."""
    lost = amounts[linear.ins]
    if not np.any(lost):
        return np.zeros(len(linear.bias_ids))
    weights = linear.weights.astype(np.float64)
    others = tuple(k for k in range(weights.ndim) if k != linear.axis)
    found: Array = (weights * lost).sum(axis=others)
    return found


def _bound_channels(graph: Graph, node: Node, factors: Array) -> None:
    """Write a Clip as operators that take one bound per channel."""
    limits, value = clamp_limits(node), node.inputs[0]
    assert limits is not None and value is not None
    name = node.output.name
    for op, end, bound in zip(("Max", "Min"), ("low", "high"), limits, strict=True):
        if abs(bound) >= BOUNDLESS:
            continue
        if op == "Max" and bound == 0:
            made = graph.add("Relu", [value], name=node.name, like=node)
        else:
            bounds = graph.constant((bound / factors).astype(np.float32), f"{name}_{end}")
            made = graph.add(op, [value, bounds], name=node.name, like=node)
        value = made.output
        value.dtype, value.shape = node.output.dtype, node.output.shape
    value.name = name
    graph.replace(node.output, value)
    graph.erase(node)


def _multiply(graph: Graph, node: Node, slot: int, change: Array) -> bool:
    """Multiply the constant operand `slot`, if there is one."""
    old = node.input(slot)
    if old is None or np.all(change == 1):
        return False
    new = graph.constant(multiplied(old.numpy(), change), old.name)
    graph.set_input(node, slot, new)
    return True
