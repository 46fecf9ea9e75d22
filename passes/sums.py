"""The 32-bit sums of products in which integer operators compute, and a bound for them."""

from __future__ import annotations

import numpy as np

from ..ir import DType, Graph, Node, QuantInfo
from ..ir.target import Target
from ..ir.tensor import Array
from .base import PassError
from .parts import filter_parts
from .units import bias_slot, integer_layers

LARGEST = 2**31 - 1


def sums_in_32_bits(node: Node) -> bool:
    """True for an operator of two tensors of at most 8 bits, without blocks."""
    grids = [value.quant if value is not None else None for value in node.inputs[:2]]
    return all(info is not None and info.dtype.bits <= 8 and not info.block for info in grids)


def largest_operand(info: QuantInfo) -> int:
    """The largest |integer - zero point| of a grid."""
    low, high = info.limits
    return int(max(np.max(info.zero_point) - low, high - np.min(info.zero_point)))


def largest_sums(node: Node, weights: Array, info: QuantInfo, data: QuantInfo) -> Array:
    """What the sums of each output channel cannot exceed in magnitude, whatever the activations.

    Args:
        node: multiplies.
        weights: float32.
        info: their grid, per tensor or per output channel.
        data: grid of the activations.
    """
    found = []
    for rows, part in filter_parts(weights, info, node):
        zero = part.spread(part.zero_point.astype(np.int32), rows.shape)
        integers = np.abs(part.stored(rows) - zero)
        found.append(integers.reshape(len(rows), -1).sum(axis=1, dtype=np.int64))
    return np.asarray(np.concatenate(found) * largest_operand(data))


def check_sums(graph: Graph, target: Target) -> None:
    """`PassError` where a sum of an annotated graph, bias included, might not fit 32 bits.

    `zero-filter` makes all fit; only what later passes do, or sums of millions of products, can
    fail here.
    """
    for node, weights, info in integer_layers(graph):
        data, slot = node.inputs[0], bias_slot(node)
        if data is None or data.quant is None or not sums_in_32_bits(node):
            continue
        most = largest_sums(node, weights.numpy(), info, data.quant)
        bias = node.input(slot) if slot is not None else None
        accumulator = bias_grid(data.quant, info, target.bias)
        if bias is not None and bias.const is not None and accumulator is not None:
            steps = np.abs(bias.numpy().astype(np.float64)).reshape(-1)
            most = np.resize(most, steps.shape)  # of each group of a ConvTranspose alike
            most = most + np.ceil(steps / accumulator.scale.astype(np.float64))
        if most.max(initial=0) > LARGEST:
            raise PassError(
                f"sums of {node.label} could reach {most.max():.3g}, beyond 32 bits: keep it in "
                "float (--exclude)"
            )


def bias_grid(
    data: QuantInfo | None, weights: QuantInfo | None, dtype: DType | None
) -> QuantInfo | None:
    """The accumulator's grid: scale sx * sw, zero point 0; per channel where the weights are.

    None where the bias stays in float, see `quantize_bias`.
    """
    if data is None or weights is None or dtype is None or weights.block:
        return None
    if data.dtype.bits > 8 or weights.dtype.bits > 8:
        return None
    scale = (data.scale * weights.scale).astype(np.float32)
    axis = None if scale.ndim == 0 else 0
    return QuantInfo(dtype, scale, np.zeros(scale.shape, np.int32), axis)
