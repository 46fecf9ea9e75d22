"""Grids of activations: which tensors must share one, and which range each group covers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..ir import Node, QuantInfo, Value, grid
from ..ir.grid_rule import GridRule
from ..ir.target import Target
from ..ir.tensor import Array
from .units import Unit, clamp_limits, data_inputs, input_axis, weight_axis

Span = tuple[float, float]
HEADROOM = 0.25
"""Of the width of its range, what the grid of a result that floats read gets on either side.

A score that leaves the grid is lost to whoever compares it: heads of a detector that saw no object
in calibration would never report one. The coarser step costs a result at most 3.5 dB of its own
rounding, which is far below what the layers before it add.
"""


class Groups:
    """Disjoint sets of values that share one grid."""

    def __init__(self) -> None:
        """Every value is a group of its own."""
        self._parent: dict[Value, Value] = {}

    def find(self, value: Value) -> Value:
        """The representative of a value's group."""
        root = value
        while (up := self._parent.get(root, root)) is not root:
            root = up
        while value is not root:
            self._parent[value], value = root, self._parent.get(value, value)
        return root

    def join(self, a: Value, b: Value) -> None:
        """Merge two groups."""
        a, b = self.find(a), self.find(b)
        if a is not b:
            self._parent[b] = a


def demanded(units: Sequence[Unit], target: Target) -> dict[Value, None]:
    """Activations that need a grid, in order.

    Operands of integer units, and their results unless the kernel may return float.
    """
    wanted: dict[Value, None] = {}
    for unit in units:
        if unit.integer:
            wanted.update((v, None) for _, v in data_inputs(unit.node) if v.const is None)
    for unit in units:
        if unit.integer and (unit.node.op not in target.float_output):
            wanted.update((v, None) for v in unit.results)
    return wanted


def group(
    units: Sequence[Unit], wanted: Iterable[Value], spans: dict[Value, Span], target: Target
) -> Groups:
    """Join what must share a grid, and the inputs of a Concat where that loses nothing."""
    groups = Groups()
    values = set(wanted)
    limits = {u.result: clamp_limits(u.after) for u in units if u.after is not None}
    for unit in units:
        if not unit.integer:
            continue
        inputs = [v for _, v in data_inputs(unit.node) if v in values]
        results = [v for v in unit.results if v in values]
        if unit.kind == "agnostic" or unit.node.op in target.same_scale:
            for value in (*inputs[1:], *results):
                groups.join(inputs[0], value)
        elif unit.node.op == "Concat" and results:
            _join_concat(unit, inputs, groups, spans, limits)
    return groups


def _join_concat(
    unit: Unit,
    inputs: list[Value],
    groups: Groups,
    spans: dict[Value, Span],
    limits: dict[Value, Span | None],
) -> None:
    """Give a Concat's inputs the grid of its result where nothing else reads them.

    They are rounded to that grid anyway; rounding once is more accurate and needs no kernel. Not
    where a clamp would cease to be redundant (its engine would then run it in float).
    """
    whole = spans.get(unit.result)
    for value in inputs:
        bound = limits.get(value)
        free = whole is not None and (
            bound is None or (bound[0] <= whole[0] and whole[1] <= bound[1])
        )
        if free and len(value.uses) == 1 and value.producer is not None:
            groups.join(unit.result, value)


def spans_of_groups(
    units: Sequence[Unit], wanted: Iterable[Value], groups: Groups, spans: dict[Value, Span]
) -> dict[Value, Span]:
    """The range every group covers: the union over its members, data movers' results left out.

    Groups that floats read get `HEADROOM`.
    """
    moved = {v for u in units if u.integer and u.kind == "agnostic" for v in u.results}
    limits = {u.result: clamp_limits(u.after) for u in units if u.after is not None}
    total: dict[Value, Span] = {}
    for value in sorted(wanted, key=moved.__contains__):
        root = groups.find(value)
        if value in moved and root in total:
            continue
        low, high = spans[value]
        bound = limits.get(value)
        if bound is not None:
            low, high = max(low, bound[0]), min(high, bound[1])
        old = total.get(root, (0.0, 0.0))
        total[root] = (min(low, old[0]), max(high, old[1]))
    bounds: dict[Value, list[Span | None]] = {}
    for value in wanted:
        bounds.setdefault(groups.find(value), []).append(limits.get(value))
    for root in {groups.find(v) for v in leaves(units)} & total.keys():
        total[root] = with_headroom(total[root], bounds[root])
    return total


def leaves(units: Sequence[Unit]) -> set[Value]:
    """Results that reach floats one by one: only data movers and Concat read them before.

    What is averaged there is none: the mean hardly feels a clipped element, but every coarser step.
    """
    makers = {v: unit for unit in units for v in unit.results}
    inner: set[Value] = set()
    for unit in reversed(units):
        carries = unit.kind == "agnostic" or unit.node.op == "Concat"
        averages = unit.node.op in ("AveragePool", "GlobalAveragePool", "ReduceMean")
        arithmetic = averages or (unit.integer and not carries)
        if arithmetic or (unit.integer and any(v in inner for v in unit.results)):
            inner.update(v for _, v in data_inputs(unit.node))
    return {v for v, unit in makers.items() if unit.integer and v not in inner}


def with_headroom(span: Span, limits: Iterable[Span | None]) -> Span:
    """A wider range, as far as the clamps in front of it and its sign allow."""
    low, high = span
    room = HEADROOM * (high - low)
    low, high = (low - room if low < 0 else low), (high + room if high > 0 or low < 0 else high)
    for bound in limits:
        if bound is not None:
            low, high = max(low, bound[0]), min(high, bound[1])
    return low, high


def weight_grid(weights: Array, node: Node, rule: GridRule) -> QuantInfo:
    """The grid of the constant weights of `node`: their exact range, per what the rule says.

    A block of a convolution is one of input channels at one place of the kernel, since the standard
    knows blocks along one axis only. Stacks of matrices, and vectors, have one scale: ONNX Runtime
    refuses to run a MatMul with one per column of these. So has a ConvTranspose of several groups,
    whose channels of a group are an axis, but not those of its output. Half precision has no grid.
    """
    if rule.dtype.is_float:
        return QuantInfo(rule.dtype, np.ones((), np.float32), np.zeros((), np.int32))
    axis = weight_axis(node) % weights.ndim
    inner = input_axis(node)
    if rule.block and weights.ndim > 1 and weights.shape[inner] >= rule.block:
        inner %= weights.ndim
        starts = np.arange(0, weights.shape[inner], rule.block)
        low = np.minimum.reduceat(weights, starts, inner)
        high = np.maximum.reduceat(weights, starts, inner)
        return grid(low, high, rule.dtype, symmetric=rule.symmetric, axis=inner, block=rule.block)
    is_stack = node.op == "MatMul" and weights.ndim != 2
    is_stack |= node.op == "ConvTranspose" and node.attrs.get("group", 1) > 1
    if is_stack or not (rule.per_channel or rule.block):
        low, high = weights.min(initial=0.0), weights.max(initial=0.0)
        return grid(low, high, rule.dtype, symmetric=rule.symmetric)
    others = tuple(k for k in range(weights.ndim) if k != axis)
    low, high = weights.min(axis=others, initial=0.0), weights.max(axis=others, initial=0.0)
    return grid(low, high, rule.dtype, symmetric=rule.symmetric, axis=axis)
