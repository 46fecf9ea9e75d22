"""Weights that overflow the 16-bit sums of x86 before VNNI are changed until none can."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..ir import DType, Graph, Node, QuantInfo
from ..ir.tensor import Array
from .base import Context, Pass
from .parts import filter_parts
from .units import integer_layers, weight_axis

MOST = 128
"""255 times a pair's sum of positive (or of negative) weights must fit int16."""
FACTORS = np.linspace(1.0, 2.0, 33)
"""How much coarser a grid may get; at twice the step no pair of 8-bit weights can overflow."""


@dataclass(frozen=True)
class Saturate(Pass):
    """Keep neighbouring weights from overflowing 16-bit sums, at the least squared error.

    `vpmaddubsw` adds two products of uint8 and int8 in saturating int16. A pair of weights is safe
    when its positive parts sum to at most 128 and its negative parts to at least -128. Neighbours
    are channels at one position of the kernel, as engines lay them out. Only for targets with
    `saturating-pairs`.

    A filter with an unsafe pair gets a coarser grid, its pairs that are still unsafe the nearest
    integers that are not. Of all grids up to twice as coarse the one whose integers are closest to
    the weights is taken: twice the step, which needs no other integers, doubles the error of every
    weight, and a filter with few large pairs does better with less.
    """

    name: ClassVar[str] = "saturate"
    requires: ClassVar[tuple[str, ...]] = ("plan", "filters")
    establishes: ClassVar[tuple[str, ...]] = ("accumulators",)
    preserves_function: ClassVar[bool] = True

    def run(self, graph: Graph, context: Context) -> None:
        """Adjust the grids of weights."""
        if not context.target.saturating_pairs:
            return
        changed = total = 0
        for node, weights, info in integer_layers(graph):
            if not multiplies_pairs(node, info):
                continue
            context.report.matched += 1
            if info.block or info.zero_point.any():
                context.report.skip("has blocks or zero points of weights: they may saturate", node)
                continue
            unsafe = np.concatenate(
                [
                    overflows(_flat(part.stored(rows), node))
                    for rows, part in filter_parts(weights.numpy(), info, node)
                ]
            )
            if unsafe.any():
                context.report.rewritten += 1
                changed, total = changed + int(unsafe.sum()), total + unsafe.size
                weights.quant = safe_grid(weights.numpy(), info, node, unsafe)
        if changed:
            context.report.note(
                f"{changed} of {total} filters of the changed layers could overflow 16-bit sums"
            )


def multiplies_pairs(node: Node, info: QuantInfo) -> bool:
    """True when engines multiply pairs of `node`'s int8 weights by uint8 activations.

    Not those of depthwise convolutions, which they multiply one by one in 32 bits.
    """
    data, weights = node.inputs[0], node.inputs[1]
    assert data is not None and data.quant is not None
    assert weights is not None and weights.const is not None
    grouped = node.is_op("Conv") and node.attrs.get("group", 1) > 1
    depthwise = grouped and weights.const.shape[1] == 1
    return not depthwise and info.dtype is DType.INT8 and data.quant.dtype.bits == 8


def filters(weights: Array, node: Node) -> Array:
    """One row per output channel, input channels of one kernel position side by side."""
    return _flat(np.moveaxis(weights, weight_axis(node), 0), node)


def _flat(rows: Array, node: Node) -> Array:
    if node.op in ("Conv", "ConvTranspose"):
        rows = np.moveaxis(rows, 1, -1)
    return rows.reshape(rows.shape[0], -1)


def unfiltered(rows: Array, weights: Array, node: Node) -> Array:
    """`rows`, as `filters` makes them, in the shape of `weights`."""
    axis = weight_axis(node)
    shape = list(np.moveaxis(weights, axis, 0).shape)
    if node.op not in ("Conv", "ConvTranspose"):
        return np.moveaxis(rows.reshape(shape), 0, axis)
    return np.moveaxis(np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1), 0, axis)


def overflows(rows: Array) -> Array:
    """True per row of integers that has a pair (elements 2k and 2k + 1) which can saturate."""
    pairs = _pairs(rows)
    positive = np.maximum(pairs, 0).sum(-1)
    negative = np.minimum(pairs, 0).sum(-1)
    return np.asarray((positive > MOST).any(-1) | (negative < -MOST).any(-1))


def safe_grid(weights: Array, info: QuantInfo, node: Node, unsafe: Array) -> QuantInfo:
    """The grid of `weights` with a scale and integers that cannot overflow.

    Args:
        weights: float32.
        info: their grid, symmetric, per tensor or per output channel.
        node: reads them.
        unsafe: True per filter that has to change; with one scale for all, all change.
    """
    parts = list(filter_parts(weights, info, node))
    errors = np.concatenate(
        [expected_errors(_steps(rows, part, node)) for rows, part in parts], axis=1
    )
    if info.scale.ndim:
        factor = np.where(unsafe, FACTORS[errors.argmin(axis=0)], 1.0)
    else:
        square = np.square(info.scale.astype(np.float64))
        factor = np.asarray(FACTORS[(errors * square).sum(axis=1).argmin()])
    coarser = info.with_scale(info.scale * factor)
    integers = np.empty(filters(weights, node).shape, info.dtype.numpy)
    done = 0
    for rows, part in filter_parts(weights, coarser, node):
        integers[done : done + len(rows)] = safe_integers(_steps(rows, part, node), info.limits)
        done += len(rows)
    return replace(coarser, integers=unfiltered(integers, weights, node))


def _steps(rows: Array, info: QuantInfo, node: Node) -> Array:
    """Filters in units of their grid's step, float64."""
    return np.asarray(_flat(rows, node).astype(np.float64) / _per_row(info.scale, rows))


def _per_row(scale: Array, rows: Array) -> Array:
    return np.broadcast_to(scale.astype(np.float64).reshape(-1, 1), (len(rows), 1))


def expected_errors(steps: Array) -> Array:
    """Squared error of each row's safe integers on every grid of `FACTORS`, in first steps.

    Rounding costs a twelfth of a squared step for every weight but zeros, and a pair that sums to
    e more than it may costs e^2 / 2.

    Args:
        steps: rows in units of the first grid's step, float64.

    Returns:
        [factors, rows].
    """
    pairs = _pairs(steps)
    sums, alike = np.abs(pairs).sum(-1), pairs.prod(-1) > 0
    row, _ = place = np.nonzero(alike & (sums > MOST))
    excess = np.maximum(sums[place] / FACTORS[:, None] - MOST, 0.0)
    moved, first = np.zeros((len(FACTORS), len(steps))), np.flatnonzero(np.diff(row, prepend=-1))
    moved[:, row[first]] = np.add.reduceat(np.square(excess) / 2, first, axis=1)
    rounding = np.count_nonzero(steps, axis=1) / 12
    return np.asarray(np.square(FACTORS)[:, None] * (rounding + moved))


def safe_integers(steps: Array, limits: tuple[int, int]) -> Array:
    """The integers nearest to `steps`, rows of float64, whose pairs cannot overflow.

    Where both of a pair have one sign and sum to more than 128 in magnitude, the nearest point of
    the line where they sum to 128 is taken: each gives half of the excess, as far as it has it.
    """
    pairs = _pairs(steps)
    rounded = np.clip(np.rint(pairs), *limits)
    size, sign = np.abs(pairs), np.sign(pairs)
    alike = sign[..., 0] * sign[..., 1] > 0
    over = alike & (np.abs(rounded).sum(-1) > MOST)
    first = np.clip(np.rint((size[..., 0] - size[..., 1] + MOST) / 2), MOST - limits[1], limits[1])
    moved = np.stack([first, MOST - first], axis=-1) * sign
    safe = np.where(over[..., None], moved, rounded)
    return np.asarray(safe.reshape(len(steps), -1)[:, : steps.shape[1]])


def _pairs(rows: Array) -> Array:
    """[rows, pairs, 2]; an odd last element is paired with zero."""
    if rows.shape[1] % 2:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    return rows.reshape(len(rows), -1, 2)
