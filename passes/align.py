"""Makes the channels of activations alike before they share one grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import Graph
from ..ir.shapes import infer
from ..ir.tensor import Array
from .base import Context, Pass
from .regions import Channels, Region, find_channels
from .rescale import equalizing_factors, rescale


@dataclass(frozen=True)
class Align(Pass):
    """Rescale channels so that those of one tensor have like ranges; the function stays.

    Attributes:
        samples: use at most so many to learn the ranges of channels.
        limit: factors lie between 1/limit and limit.
    """

    name: ClassVar[str] = "align"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded")
    invalidates: ClassVar[tuple[str, ...]] = ("ranges", "plan")
    preserves_function: ClassVar[bool] = True

    samples: int = 32
    limit: float = 100.0

    def run(self, graph: Graph, context: Context) -> None:
        """Rescale the regions that gain."""
        infer(graph)
        channels = find_channels(graph, "scale")
        factors = np.ones(len(channels.label))
        if not context.target.weights.per_channel:
            for region in channels.regions:
                factors[region.ids] = self._factors(channels, region)[region.ids]
                context.report.rewritten += 1
        context.report.matched = len(channels.regions)
        for linear, reason in channels.frozen:
            context.report.skip(reason, linear.node)
        rescale(graph, channels, factors)

    def _factors(self, channels: Channels, region: Region) -> Array:
        """Per id, from the weights alone."""
        ranges = np.zeros((2, len(channels.label)))
        for k, linears in enumerate((region.producers, region.consumers)):
            for linear in linears:
                weights = np.abs(linear.weights)
                ids = linear.ins if k else linear.outs
                labels = channels.label[np.broadcast_to(ids, weights.shape)]
                np.maximum.at(ranges[k], labels.ravel(), weights.ravel())
        factors = equalizing_factors(ranges[0], ranges[1], self.limit)
        factors[0] = 1.0
        found: Array = factors[channels.label]
        return found
