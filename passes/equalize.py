"""Cross-layer equalization: makes the ranges of weights alike across layers, without samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..ir import Graph
from ..ir.shapes import infer
from ..ir.tensor import Array
from .base import Context, Pass
from .channel_noise import reach
from .moments import follow
from .regions import Channels, Linear, Region, find_channels
from .rescale import equalizing_factors, rescale

SWEEPS = 50
"""Most rounds over all regions; one's factors depend on its neighbours'."""
SETTLED = 1e-3
"""A step that changes no factor by more than this share concerns no neighbour."""


@dataclass(frozen=True)
class Equalize(Pass):
    """Rescale channels, exactly, so that the weights that make and that read them have like ranges.

    Dividing what makes a channel by s and multiplying what reads it by s changes nothing; with s =
    sqrt(r1 / r2) the largest weights r1 before and r2 behind become alike. Pairs are repeated to
    the fixed point, so that in a chain, as around a depthwise convolution, all ranges become one.
    No samples are used. Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1.

    Attributes:
        clips: what to do at a Clip with an absolute bound, that no factor passes. `keep` leaves
            channels on both sides as they are: engines compute a Clip inside the operator before.
            `cap` writes it as Relu (or Max) and Min with a bound per channel, where a factor is to
            pass: exact as well, but an operator of its own. `auto` does that where all weights of a
            layer share a scale, so that their ranges matter most.
        limit: factors lie between 1/limit and limit.
    """

    name: ClassVar[str] = "equalize"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded")
    invalidates: ClassVar[tuple[str, ...]] = ("ranges", "plan")
    preserves_function: ClassVar[bool] = True

    clips: Literal["auto", "keep", "cap"] = "auto"
    limit: float = 100.0

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.limit > 1:
            raise ValueError("limit must be greater than 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Rescale every region."""
        infer(graph)
        worth = self.clips == "auto" and not context.target.scales_per_channel
        channels = find_channels(graph, "scale", caps=worth or self.clips == "cap")
        for linear, reason in channels.frozen:
            context.report.skip(reason, linear.node)
        factors = self._factors(channels)
        changed = [bool((factors[region.ids] != 1).any()) for region in channels.regions]
        context.report.matched, context.report.rewritten = len(changed), sum(changed)
        rescale(graph, channels, factors)
        follow(context.statistics, channels, factors)

    def _factors(self, channels: Channels) -> Array:
        """Factors per id at which no region gains by another step."""
        factors = np.ones(len(channels.label))
        weights = {linear: linear.magnitudes for linear in channels.linears}
        touching: dict[Linear, list[Region]] = defaultdict(list)
        for region in channels.regions:
            for linear in (*region.producers, *region.consumers):
                touching[linear].append(region)
        waiting = set(channels.regions)
        for region in channels.regions * SWEEPS:
            if region not in waiting:
                continue
            waiting.remove(region)
            made, read, place = weight_ranges(channels, region, weights, factors)
            old = factors[region.ids]
            new = old * equalizing_factors(made, read, self.limit)[place]
            factors[region.ids] = np.clip(new, 1 / self.limit, self.limit)
            if np.abs(factors[region.ids] / old - 1).max() > SETTLED:
                linears = (*region.producers, *region.consumers)
                waiting.update(other for linear in linears for other in touching[linear])
        return factors


def weight_ranges(
    channels: Channels, region: Region, weights: Mapping[Linear, Array], factors: Array
) -> tuple[Array, Array, Array]:
    """Largest magnitudes of the rescaled weights that make and that read each label of `region`.

    `weights` are `Linear.magnitudes`. Also returns each region id's place among the labels.
    """

    def magnitudes(linear: Linear, ids: Array) -> tuple[Array, Array]:
        scaled = weights[linear] * (factors[linear.ins] / factors[linear.outs])
        merged = tuple(k for k, n in enumerate(ids.shape) if n == 1)
        return ids.ravel(), scaled.max(axis=merged).ravel()

    made, place = reach(channels, region, [magnitudes(p, p.outs) for p in region.producers])
    read, _ = reach(channels, region, [magnitudes(c, c.ins) for c in region.consumers])
    return made, read, place
