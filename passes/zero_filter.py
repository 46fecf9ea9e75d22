"""Dead filters, sums that overflow, multipliers out of range: scales that need a second look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..ir import Graph, Node, QuantInfo, Value
from ..ir.tensor import Array
from .base import Context, Pass
from .parts import filter_parts
from .sums import largest_operand, sums_in_32_bits
from .units import bias_slot, integer_layers, weight_axis

BIAS_BITS = 30
"""An int32 bias may use this many bits, and the sum of all products as many."""


@dataclass(frozen=True)
class ZeroFilter(Pass):
    """Give dead filters a sane scale and biases room in int32; small live filters keep theirs.

    A filter is dead when all it can contribute is less than a quarter of an output step: then its
    integers become 0 and its scale the median of the live ones. Every scale is raised until the
    bias fits 30 bits, so does the sum of all products whatever the activations are, and the
    multiplier sx * sw / sy is at least 2^-32; one of 2^8 or more, which fixed-point engines cannot
    do, is reported.
    """

    name: ClassVar[str] = "zero-filter"
    requires: ClassVar[tuple[str, ...]] = ("plan",)
    establishes: ClassVar[tuple[str, ...]] = ("filters",)
    preserves_function: ClassVar[bool] = True

    def run(self, graph: Graph, context: Context) -> None:
        """Adjust the grids of weights."""
        for node, weights, info in integer_layers(graph):
            if info.block:
                context.report.skip("its scales are of blocks, not of filters", node)
                continue
            context.report.matched += 1
            self._adjust(node, weights, info, context)

    def _adjust(self, node: Node, weights: Value, info: QuantInfo, context: Context) -> None:
        data = node.inputs[0]
        assert data is not None and data.quant is not None
        bias_at = bias_slot(node)
        bias = node.input(bias_at) if bias_at is not None else None
        magnitudes = _per_scale(weights.numpy(), node, info, np.max)
        biases = (
            np.zeros(1) if bias is None else np.abs(bias.numpy().astype(np.float64).reshape(-1))
        )
        out = _result_grid(node)
        dead = magnitudes == 0.0
        sums = _per_scale(weights.numpy(), node, info, np.sum)
        if out is not None:
            reach = float(np.max(np.abs(data.quant.range)))
            dead |= sums * reach < float(out.scale) / 4
        scale = adjusted_scales(info.scale, magnitudes, dead, biases, float(data.quant.scale), out)
        if sums_in_32_bits(node):
            count = weights.numpy().size // weights.numpy().shape[weight_axis(node)]
            scale = np.maximum(scale, smallest_scale(sums, count, data.quant))
        if out is not None and float(data.quant.scale) * scale.max() >= 2.0**8 * float(out.scale):
            context.report.note(f"{node.label}: its multiplier exceeds 2^8, its output is tiny")
        if dead.any():
            where = "" if info.axis is None else f" (channels {np.flatnonzero(dead)[:8]})"
            context.report.note(f"{node.label}: {int(dead.sum())} dead filters{where}")
        if not np.array_equal(scale, info.scale):
            context.report.rewritten += 1
            weights.quant = info.with_scale(scale)


def smallest_scale(sums: Array, count: int, data: QuantInfo) -> Array:
    """The finest steps of weights with which no sum of products exceeds `BIAS_BITS` bits.

    Args:
        sums: of absolute weights, one per scale.
        count: products of a sum; rounding moves each weight by up to a step.
        data: grid of the activations.

    Returns:
        float32, the shape of `sums`; 0 where so many products overflow whatever the step.
    """
    reach = largest_operand(data)
    room = 2.0**BIAS_BITS - 1 - count * reach
    return np.asarray(sums * reach / room if room > 0 else np.zeros_like(sums), np.float32)


def adjusted_scales(
    scale: Array, magnitudes: Array, dead: Array, biases: Array, data: float, out: QuantInfo | None
) -> Array:
    """Weight scales by the rule above.

    Args:
        scale: float32, shape () or [channels].
        magnitudes: largest weight per scale, same shape.
        dead: filters to be stored as zeros, same shape.
        biases: absolute biases, [channels] or [1].
        data: scale of the activations read.
        out: grid of the result, None when it stays float.
    """
    new = scale.astype(np.float64)
    if dead.any():
        live = new[~dead]
        usual = float(np.median(live)) if live.size else float(biases.max()) / (data * 2.0**20)
        new = np.where(dead, np.maximum(usual or 1.0, 4 * magnitudes), new)
    most = biases if new.ndim else biases.max()
    new = np.maximum(new, most / (data * 2.0**BIAS_BITS))
    if out is not None:
        new = np.maximum(new, 2.0**-32 * float(out.scale) / data)
    return np.asarray(np.maximum(new, scale) if not dead.any() else new, np.float32)


def _per_scale(weights: Array, node: Node, info: QuantInfo, reduce: Callable[..., Any]) -> Array:
    """Reduce magnitudes to one number per output channel, or to one in all: the largest."""
    others = tuple(range(1, weights.ndim))
    found = [
        reduce(np.abs(rows).astype(np.float64), axis=others)
        for rows, _ in filter_parts(weights, info, node)
    ]
    channels = np.concatenate(found)
    return channels if info.axis is not None else np.asarray(channels.max(initial=0.0))


def _result_grid(node: Node) -> QuantInfo | None:
    """The grid behind the operator, or behind the function fused to it."""
    if node.output.quant is not None:
        return node.output.quant
    after = next(iter(node.output.consumers), None)
    return after.output.quant if after is not None and after.outputs else None
