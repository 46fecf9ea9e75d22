"""Large weights a part at a time, so that what is made of one in between takes little memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ..ir import Node, QuantInfo, quant
from ..ir.tensor import Array
from .units import weight_axis

WIDTH = 8
"""Channels of a part at least: numpy adds up the elements of a single one in another order."""


def filter_parts(weights: Array, info: QuantInfo, node: Node) -> Iterator[tuple[Array, QuantInfo]]:
    """Weights of some output channels each, [channels, ...], with their grid.

    A part has about `quant.ELEMENTS`.

    Args:
        weights: what `node` multiplies by.
        info: their grid, per tensor or per output channel.
        node: reads them.
    """
    axis = weight_axis(node)
    rows = np.moveaxis(weights, axis, 0)
    moved = dataclasses.replace(
        info,
        axis=None if info.axis is None else 0,
        integers=None if info.integers is None else np.moveaxis(info.integers, axis, 0),
    )
    count = min(-(-rows.size // quant.ELEMENTS), len(rows) // WIDTH)
    if count <= 1:
        yield rows, moved
        return
    ends = np.linspace(0, len(rows), count + 1).astype(int).tolist()
    for start, stop in pairwise(ends):
        yield rows[start:stop], moved.rows(start, stop, rows.ndim)


def multiplied(array: Array, change: Array) -> Array:
    """The product in double precision, as float32, without a copy in double precision."""
    shape = np.broadcast_shapes(array.shape, change.shape)
    product = np.empty_like(array, np.float32, shape=shape)
    return np.multiply(array, change, product, dtype=np.float64, casting="same_kind")
