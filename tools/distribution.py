"""How the values of a tensor lie against the grid it is stored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Node
from ..ir.quant import QuantInfo
from ..ir.tensor import Array
from ..passes.measures import squared

BINS = 64
"""Bars of a histogram: as many as a picture of a few hundred pixels shows."""
TAIL = 0.005
"""Share of the values at each end that is left out to see where most of them lie."""


@dataclass(frozen=True)
class Distribution:
    """The values of a tensor in float, and its grid.

    Attributes:
        dtype: integer type of the grid.
        scale, zero_point: of the grid.
        low, high: smallest and largest real of the grid.
        seen_low, seen_high: extremes of the values.
        counts: values in `BINS` equal bins from `seen_low` to `seen_high`.
        clipped: share of the values beyond the grid; what is within half a step of an end is
            rounded to it.
        clipping: energy of the error by clipping, relative to that of the values.
        rounding: the same by rounding those within the grid.
        steps: of the grid, between the quantiles of 0.5 % and 99.5 %.
    """

    dtype: str
    scale: float
    zero_point: int
    low: float
    high: float
    seen_low: float
    seen_high: float
    counts: tuple[int, ...]
    clipped: float
    clipping: float
    rounding: float
    steps: float

    @staticmethod
    def of(arrays: Sequence[Array], dequantize: Node) -> Distribution | None:
        """Of the values in `arrays`; None where the grid has several scales or is not known.

        `dequantize` reads the tensor from the grid.
        """
        grid = grid_of(dequantize)
        every = np.concatenate([array.ravel() for array in arrays])
        values = every[np.isfinite(every)]
        if grid is None or not values.size:
            return None
        low, high = (float(end) for end in grid.range)
        half = float(grid.scale) / 2
        inside = np.clip(values, low, high)
        energy = squared(values) or 1.0
        start, end = np.quantile(values, [TAIL, 1 - TAIL])
        seen = float(values.min()), float(values.max())
        # In double: between floats that are nearly equal there are fewer others than bins.
        places = (values.astype(np.float64) - seen[0]) / (seen[1] - seen[0] or 1.0)
        return Distribution(
            grid.dtype.name.lower(),
            float(grid.scale),
            int(grid.zero_point),
            low,
            high,
            *seen,
            counts=tuple(np.histogram(places, BINS, range=(0, 1))[0].tolist()),
            clipped=float(np.mean((values < low - half) | (values > high + half))),
            clipping=squared(values - inside) / energy,
            rounding=squared(inside - grid.fake(inside)) / energy,
            steps=float(end - start) / float(grid.scale),
        )


def grid_of(node: Node) -> QuantInfo | None:
    """The grid of a QuantizeLinear or DequantizeLinear; None unless it has one constant scale."""
    scale, zero = (value.const if value else None for value in (node.input(1), node.input(2)))
    if scale is None or zero is None or scale.size != 1 or not zero.dtype.is_integer:
        return None
    step = scale.numpy().reshape(()).astype(np.float32)
    return QuantInfo(zero.dtype, step, zero.numpy().reshape(()).astype(np.int32))
