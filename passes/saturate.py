"""Weights that overflow the 16-bit sums of x86 before VNNI lose a bit, and no others do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import Graph, Node, QuantInfo
from ..ir.tensor import Array
from .base import Context, Pass
from .units import integer_layers, weight_axis

MOST, LEAST = 128, -128
"""255 times a pair's sum of positive (or of negative) weights must fit int16."""


@dataclass(frozen=True)
class Saturate(Pass):
    """Halve the integers of filters whose neighbouring weights can overflow 16-bit sums.

    `vpmaddubsw` adds two products of uint8 and int8 in saturating int16. A pair of weights is safe
    when its positive parts sum to at most 128 and its negative parts to at least -128. Neighbours
    are channels at one position of the kernel, as engines lay them out. Only for targets with
    `saturating-pairs`.
    """

    name: ClassVar[str] = "saturate"
    requires: ClassVar[tuple[str, ...]] = ("plan", "filters")
    establishes: ClassVar[tuple[str, ...]] = ("accumulators",)
    preserves_function: ClassVar[bool] = True

    def run(self, graph: Graph, context: Context) -> None:
        """Adjust the grids of weights."""
        if not context.target.saturating_pairs:
            return
        for node, weights, info in integer_layers(graph):
            data = node.inputs[0]
            if data is not None and data.quant is not None and data.quant.dtype.bits > 8:
                continue  # there is no such instruction for 16 bits
            context.report.matched += 1
            rows = filters(info.stored(weights.numpy()), node)
            unsafe = overflows(rows)
            if unsafe.any():
                context.report.rewritten += 1
                share = f"{int(unsafe.sum())} of {unsafe.size}"
                context.report.note(f"{node.label}: {share} filters lose a bit to 16-bit sums")
                weights.quant = coarser(info, unsafe)


def filters(weights: Array, node: Node) -> Array:
    """One row per output channel, input channels of one kernel position side by side."""
    rows = np.moveaxis(weights, weight_axis(node), 0)
    if node.op in ("Conv", "ConvTranspose"):
        rows = np.moveaxis(rows, 1, -1)
    return rows.reshape(rows.shape[0], -1)


def overflows(rows: Array) -> Array:
    """True per row of integers that has a pair (elements 2k and 2k + 1) which can saturate."""
    even = np.pad(rows.astype(np.int64), ((0, 0), (0, rows.shape[1] % 2)))
    pairs = even.reshape(len(rows), -1, 2)
    positive = np.maximum(pairs, 0).sum(-1)
    negative = np.minimum(pairs, 0).sum(-1)
    return np.asarray((positive > MOST).any(-1) | (negative < LEAST).any(-1))


def coarser(info: QuantInfo, unsafe: Array) -> QuantInfo:
    """Twice the scale where `unsafe`; everywhere when one scale serves all."""
    factor = np.where(unsafe, 2.0, 1.0) if info.scale.ndim else 1.0 + unsafe.any()
    return info.with_scale(info.scale * factor)
