"""Outlier channel splitting: two copies of an input channel share its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import numpy as np

from ..ir import Graph, Node, QuantInfo
from ..ir.grid_rule import GridRule
from ..ir.shapes import infer
from ..ir.tensor import Array
from .base import Context, Pass, Skip
from .costs import operations
from .grids import weight_grid
from .regions import float_constant
from .select import rule_of
from .units import input_axis

WORTH = 0.9
"""The squares of the ranges of weights must fall below this share of what they were."""


@dataclass(frozen=True)
class SplitOutliers(Pass):
    """Halve the largest weights of layers, and give each half a copy of its input channel.

    Weights w of an input channel become w / 2 twice (`naive`), or (w - d / 2) / 2 and (w + d / 2) /
    2, d the step of their grid (`aware`): rounded, these add up to the rounded w. A Gather in front
    of the layer makes the copies. Of a grouped convolution every group gets as many. Source: Zhao
    et al. 2019, outlier channel splitting, arXiv:1901.09504.

    Attributes:
        expand: share of a layer's input channels that are split, rounded up.
        limit: largest share that rounding up may lead to.
        method: see above.
    """

    name: ClassVar[str] = "split-outliers"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded")
    invalidates: ClassVar[tuple[str, ...]] = ("ranges", "plan")
    preserves_function: ClassVar[bool] = True

    expand: float = 0.02
    limit: float = 0.1
    method: Literal["aware", "naive"] = "aware"

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.expand <= self.limit:
            raise ValueError("expand must be greater than 0 and at most limit")

    def run(self, graph: Graph, context: Context) -> None:
        """Split the channels of every layer that gains."""
        infer(graph)
        report, rule = context.report, context.target.weights
        if rule is None or rule.block:
            report.note("weights stay in float or have a scale per block: nothing is split")
            return
        total = added = 0.0
        for node in graph.order():
            if not node.is_op("Conv", "Gemm", "MatMul") or float_constant(node, 1) is None:
                continue
            work = operations(node)
            total, report.matched = total + work, report.matched + 1
            try:
                share = self._split(graph, node, rule_of(node, context.target) or rule)
            except Skip as declined:
                report.skip(str(declined), node)
                continue
            added, report.rewritten = added + share * work, report.rewritten + 1
        if report.rewritten:
            cost = f"{added / max(total, 1):.1%} more multiplications"
            report.note(f"{report.rewritten} layers read copies of channels: {cost}")

    def _split(self, graph: Graph, node: Node, rule: GridRule) -> float:
        """Split channels of one layer; the share of its channels that were added."""
        value, weights = node.inputs[0], node.inputs[1]
        assert value is not None and weights is not None
        real, axis = weights.numpy(), input_axis(node) % len(weights.shape or ())
        if real.ndim < 2 or value.rank is None or node.attrs.get("transA", 0):
            raise Skip("the axis of its input channels is not known")
        groups = np.split(real, int(node.attrs.get("group", 1)))
        channels = real.shape[axis]
        count = ceil(self.expand * channels)
        if count > self.limit * channels:
            raise Skip(f"one copy would be more than {self.limit:.0%} of its input channels")
        chosen = [largest(part, axis, count) for part in groups]
        halved = np.concatenate(
            [halves(part, axis, picks) for part, picks in zip(groups, chosen, strict=True)]
        )
        info = weight_grid(halved, node, rule)
        before, after = (np.square(_reach(array, info)).sum() for array in (real, halved))
        if after > WORTH * before:
            raise Skip("splitting would hardly narrow the range of its weights")
        if self.method == "aware":
            halved = _aware(groups, axis, chosen, info)
        graph.set_input(node, 1, graph.constant(halved.astype(np.float32), weights.name))
        order = [k * channels + sources(channels, picks) for k, picks in enumerate(chosen)]
        _copy(graph, node, np.concatenate(order))
        return float(count / channels)


def largest(weights: Array, axis: int, count: int) -> list[int]:
    """Which channel along `axis` to split, `count` times; a copy counts as a channel behind all."""
    others = tuple(k for k in range(weights.ndim) if k != axis)
    reach, picks = list(np.abs(weights).max(axis=others)), []
    for _ in range(count):
        picks.append(int(np.argmax(reach)))
        reach[picks[-1]] /= 2
        reach.append(reach[picks[-1]])
    return picks


def sources(channels: int, picks: Sequence[int]) -> Array:
    """The channel that each channel is a copy of, after splitting `picks` one after another."""
    found = list(range(channels))
    for pick in picks:
        found.append(found[pick])
    return np.array(found, np.int64)


def halves(
    weights: Array,
    axis: int,
    picks: Sequence[int],
    step: Array | float = 0.0,
    low: Array | float = -np.inf,
    high: Array | float = np.inf,
) -> Array:
    """The weights with channels split, float64: w becomes (w - step / 2) / 2 and the rest of w.

    With u = w / step not half way between integers, rint((u - 1/2) / 2) + rint((u + 1/2) / 2) is
    rint(u). No half leaves [low, high]. `step`, `low` and `high` broadcast against a channel.
    """
    rows = list(np.moveaxis(weights.astype(np.float64), axis, 0))
    for pick in picks:
        whole = rows[pick]
        second = np.clip(whole - np.clip((whole - step / 2) / 2, low, high), low, high)
        rows[pick] = whole - second
        rows.append(second)
    return np.moveaxis(np.stack(rows), 0, axis)


def _aware(
    groups: Sequence[Array], axis: int, chosen: Sequence[Sequence[int]], info: QuantInfo
) -> Array:
    """All groups split with regard to the grid of the naive halves."""
    parts = []
    for number, (part, picks) in enumerate(zip(groups, chosen, strict=True)):
        limits = []
        for values in (info.scale.astype(np.float64), *info.range):
            shape = [1] * part.ndim
            if info.axis is not None:
                shape[info.axis % part.ndim] = -1
                if len(groups) > 1:  # whose filters are apart, along axis 0
                    values = np.split(values, len(groups))[number]
            limits.append(values.reshape(shape).take(0, axis))
        parts.append(halves(part, axis, picks, *limits))
    return np.concatenate(parts)


def _reach(weights: Array, info: QuantInfo) -> Array:
    """Largest magnitude per scale."""
    axis = None if info.axis is None else info.axis % weights.ndim
    return np.asarray(np.abs(weights).max(axis=tuple(k for k in range(weights.ndim) if k != axis)))


def _copy(graph: Graph, node: Node, order: Array) -> None:
    """Let `node` read channels `order` of what it reads."""
    value = node.inputs[0]
    assert value is not None and value.rank is not None
    axis = value.rank - 1 if node.is_op("MatMul") else 1
    indices = graph.constant(order, f"{value.name}_order")
    copied = graph.add("Gather", [value, indices], {"axis": axis}, like=node).output
    copied.name, copied.dtype = f"{value.name}_split", value.dtype
    if value.shape is not None:
        copied.shape = (*value.shape[:axis], len(order), *value.shape[axis + 1 :])
    graph.set_input(node, 0, copied)
