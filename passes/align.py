"""Makes the channels of activations alike before they share one grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import Graph, Value
from ..ir.reach import out_of_reach
from ..ir.shapes import infer
from ..ir.target import Target
from ..ir.tensor import Array
from .base import Context, Pass
from .channel_data import ChannelData, collect
from .channel_noise import RegionNoise, is_rounded, reach, sensitivity, worst_ratio
from .equalize import weight_ranges
from .moments import follow
from .regions import Channels, Region, find_channels
from .rescale import dead, equalizing_factors, propagate, rescale, shift

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Exponents of a channel's range in its factor: 1 makes the ranges of all channels equal."""
WORTH = 0.95
"""A change must bring the predicted noise below this share of what it was."""
SWEEPS = 20
"""Most rounds over all regions where one's factors depend on its neighbours'."""


@dataclass(frozen=True)
class Align(Pass):
    """Rescale and shift channels, exactly, so that those of one tensor have like ranges.

    A factor goes from the weights that make a channel to those that read it, a shift from bias to
    bias. Samples tell the ranges of channels, and a region is changed only where the predicted
    rounding error falls on samples the factors were not made from. Sources: channel alignment of
    NNCF (means and scales of activations); Xiao et al., 2211.10438 (part of a range as an
    exponent).

    Attributes:
        samples: use at most so many.
        limit: factors lie between 1/limit and limit.
    """

    name: ClassVar[str] = "align"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded")
    invalidates: ClassVar[tuple[str, ...]] = ("ranges", "plan")
    preserves_function: ClassVar[bool] = True

    samples: int = 32
    limit: float = 100.0

    def __post_init__(self) -> None:
        """Check the options."""
        if self.samples < 1 or not self.limit > 1:
            raise ValueError("samples must be at least 1, limit greater than 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Shift, then rescale, the regions that gain."""
        infer(graph)
        scales = find_channels(graph, "scale")
        for linear, reason in scales.frozen:
            context.report.skip(reason, linear.node)
        context.report.matched = len(scales.regions)
        shifts = find_channels(graph, "shift")
        hidden = out_of_reach(graph)
        wanted = [observed_axes(channels, context.target) for channels in (scales, shifts)]
        axes = {
            value: next((w[value] for w in wanted if w.get(value) is not None), None)
            for value in (*wanted[0], *wanted[1])
            if value not in hidden
        }
        if not axes:
            return
        samples = context.need_samples(self.name).head(self.samples)
        with context.progress("aligning", len(samples)) as advance:
            data = collect(graph, axes, samples, advance)
        data = {v: d for v, d in data.items() if _channel_count(shifts, v) in (1, d.low.shape[1])}
        amounts = _amounts(shifts, _grouped(shifts, data), context)
        for value in [value for value in data if value in shifts.of]:
            data[value] = data[value].moved(amounts[shifts.of[value].ravel()])
        factors = self._factors(scales, _grouped(scales, data), context)
        shift(graph, shifts, amounts)
        follow(context.statistics, shifts, np.ones_like(amounts), amounts)
        rescale(graph, scales, factors)
        follow(context.statistics, scales, factors)

    def _factors(
        self, channels: Channels, data: Mapping[Value, ChannelData], context: Context
    ) -> Array:
        """Factors per id."""
        target, readers = context.target, sensitivity(channels, data)
        factors, amounts = np.ones(len(channels.label)), np.zeros(len(channels.label))
        changed: set[Region] = set()
        regions = [r for r in channels.regions if predictable(r, data)]
        for _ in range(1 if target.scales_per_channel else SWEEPS):
            before = factors.copy()
            for region in regions:
                noise = RegionNoise(channels, region, data, readers, target)
                old, best, least = noise(factors, amounts), factors[region.ids], WORTH
                for candidate in self._candidates(noise, factors):
                    factors[region.ids] = candidate
                    gain = worst_ratio(noise(factors, amounts), old)
                    if gain < least:
                        best, least = candidate, gain
                factors[region.ids] = best
                if least < WORTH:
                    changed.add(region)
            if np.array_equal(before, factors):
                break
        for region in channels.regions:
            if region not in changed:
                context.report.skip("no gain is predicted", region.producers[0].node)
        context.report.rewritten = len(changed)
        return factors

    def _candidates(self, noise: RegionNoise, factors: Array) -> list[Array]:
        """Factors to try, one per id of the region."""
        channels, region = noise.channels, noise.region
        seen = [(channels.of[v].ravel(), d.reach) for v, d in noise.learned.items()]
        pairs = [(ids, found / factors[ids]) for ids, found in seen]
        ranges, place = reach(channels, region, pairs)
        alive = ~dead(ranges)
        if not alive.any():
            return []
        level = np.where(alive, ranges / np.median(ranges[alive]), 1.0)
        steps = [level**strength for strength in STRENGTHS]
        if not noise.target.scales_per_channel:
            weights = {
                linear: linear.magnitudes for linear in (*region.producers, *region.consumers)
            }
            made, read, _ = weight_ranges(channels, region, weights, factors)
            steps += [equalizing_factors(first, read, self.limit) for first in (made, ranges)]
        return [self._limited(factors[region.ids] * step[place]) for step in steps]

    def _limited(self, factors: Array) -> Array:
        found: Array = np.clip(factors, 1 / self.limit, self.limit)
        return found


def observed_axes(channels: Channels, target: Target) -> dict[Value, int | None]:
    """Tensors whose channels decide about a region, with the axis of the channels."""
    found: dict[Value, int | None] = {}
    for region in channels.regions:
        rounded = [value for value in region.values if is_rounded(value, target)]
        ends = [linear.source for linear in region.consumers]
        if channels.kind == "shift":
            ends += [linear.result for linear in region.producers]
        if not target.scales_per_channel:  # the rounding of producers' weights is predicted, too
            ends += [linear.source for linear in region.producers]
        for value in (*rounded, *ends):
            shape = channels.of[value].shape if value in channels.of else ()
            axes = [k for k, n in enumerate(shape) if n > 1]
            if len(axes) < 2 and value.rank is not None:
                found[value] = axes[0] if axes else None
    return found


def _amounts(channels: Channels, data: Mapping[Value, ChannelData], context: Context) -> Array:
    """Shifts per id: every channel's mean or middle, region by region, where that helps."""
    readers, factors = sensitivity(channels, data), np.ones(len(channels.label))
    options = [np.zeros(len(channels.label))]
    for middle in (ChannelData.mean, ChannelData.middle):
        chosen = np.zeros(len(channels.label))
        for linear in channels.linears:
            if linear.result in data:
                free = channels.label[linear.bias_ids] > 0
                chosen[linear.bias_ids[free]] = middle(data[linear.result])[free]
        options.append(propagate(channels, chosen))
    best, shifted = options[0].copy(), 0
    for region in channels.regions:
        if predictable(region, data):
            noise = RegionNoise(channels, region, data, readers, context.target)
            old = noise(factors, options[0])
            gains = [worst_ratio(noise(factors, new), old) for new in options[1:]]
            if min(gains) < WORTH:
                best[region.ids] = options[1 + int(np.argmin(gains))][region.ids]
                shifted += 1
    if shifted:
        context.report.note(f"regions whose channels are shifted: {shifted}")
    return best


def _grouped(channels: Channels, data: Mapping[Value, ChannelData]) -> dict[Value, ChannelData]:
    """The data by the channels that one analysis sees; it may see none where the other does."""
    found = {v: d.grouped(_channel_count(channels, v)) for v, d in data.items()}
    return {value: grouped for value, grouped in found.items() if grouped is not None}


def _channel_count(channels: Channels, value: Value) -> int:
    return channels.of[value].size if value in channels.of else 1


def predictable(region: Region, data: Mapping[Value, ChannelData]) -> bool:
    """True when the data tell what all readers of the region read."""
    return all(linear.source in data for linear in region.consumers)
