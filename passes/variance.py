"""Undoes with a filter's scale what rounding does to the deviation of its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..ir import Graph
from ..ir.tensor import Array
from .base import Context, Pass
from .units import integer_layers


@dataclass(frozen=True)
class Variance(Pass):
    """Adjust the scale of each filter so that its stored weights have the deviation of the real.

    The integers stay what they are, the scale is multiplied by the ratio of the deviations of real
    and stored weights. Correcting the mean as well would take the weights off their grid; what it
    does to the output is a shift, and `bias`, which is to follow, takes back the whole of it.
    A filter whose mean outweighs its deviation, as in depthwise convolutions, would be scaled for
    the sake of the smaller part: it is changed only where the stored weights come nearer.
    Source: Banner et al. 2018, arXiv:1810.05723, section 4.3, in the form of its reference code:
    equation 13 as printed would scale the mean, too.
    """

    name: ClassVar[str] = "variance"
    requires: ClassVar[tuple[str, ...]] = ("plan", "filters", "accumulators")

    def run(self, graph: Graph, context: Context) -> None:
        """Change the grids of weights."""
        report = context.report
        layers = {weights: (node, info) for node, weights, info in integer_layers(graph)}
        for weights, (node, info) in layers.items():
            report.matched += 1
            if info.axis is None or info.block:
                report.skip("its filters share one scale", node)
                continue
            real = weights.numpy()
            stored = info.kept(real)
            ratio = deviation_ratio(real, stored, info.axis)
            better = nearer(real, stored, info.axis, ratio)
            if not better.any():
                report.skip("no filter comes nearer to its weights", node)
                continue
            scale = np.where(better, info.scale * ratio, info.scale).astype(np.float32)
            weights.quant = replace(info, scale=scale, integers=info.stored(real))
            report.rewritten += 1


def deviation_ratio(real: Array, stored: Array, axis: int) -> Array:
    """Ratio of the deviations [channels] of real and stored weights; 1 where one is constant."""
    before, after = (a.std(axis=1) for a in (_rows(real, axis), _rows(stored, axis)))
    live = (before > 0) & (after > 0)
    return np.where(live, before / np.where(live, after, 1.0), 1.0)


def nearer(real: Array, stored: Array, axis: int, ratio: Array) -> Array:
    """True for the channels whose stored weights times `ratio` are nearer to the real ones."""
    rows, kept = _rows(real, axis), _rows(stored, axis)
    before, after = (np.square(rows - kept * r[:, None]).sum(axis=1) for r in (ratio**0, ratio))
    return np.asarray(after < before)


def _rows(array: Array, axis: int) -> Array:
    """Channels by all else, float64."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)
