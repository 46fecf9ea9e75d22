"""Predicts what rounding the tensors and weights of a region costs the operators that read them.

An error e in a channel that weights W read adds e^2 sum W^2 to the energy of the error of their
output; rounding weights to a step d adds d^2 / 12 times the energy of what they read. Both are
taken relative to the energy of the output, the channels as if uncorrelated. Rounding of
activations is not modelled but done, with ranges learned on one half of the samples and elements
of the other half: a channel magnified by its own extremes is clipped on samples not seen, and a
range that suits the extremes of one channel wastes steps of another. Ranges may come from the mean
of the samples' extremes or from the extremes of all; what is to be trusted must serve both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Value, grid
from ..ir.target import Target
from ..ir.tensor import Array
from .channel_data import ChannelData
from .regions import Channels, Linear, Region
from .select import rule_of

RULES = ("mean-max", "min-max")
"""How ranges may follow from samples; methods of `ir.calibration`."""
COHERENCE = 10.0
"""Weight of errors of rounded weights. They are alike at all positions of a feature map, so that
the sums over windows behind do not average them out as they do those of rounded activations. The
weights alone cost MobileNet-v2 21 dB of SQNR, its linear bottlenecks' activations 32 dB, where the
energies of the errors at the next operators suggest the opposite."""
MULTIPLIES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators whose weights are rounded and whose sums carry errors on."""


@dataclass(eq=False)
class Sensitivity:
    """How much an error in a channel adds to the errors of all that read it.

    Attributes:
        of: energy of the readers' error, relative to their outputs' energy, per energy of an
            error in the channel; float64 per id.
        signal: energy of an element of the output, all channels, by operator.
    """

    of: Array
    signal: dict[Linear, float]


def sensitivity(channels: Channels, data: Mapping[Value, ChannelData]) -> Sensitivity:
    """Of every channel; `data` of the tensors that operators with weights read."""
    found = Sensitivity(np.zeros(len(channels.label)), {})
    for linear in channels.linears:
        if linear.node.op not in MULTIPLIES or linear.source not in data:
            continue
        squares = np.square(linear.weights, dtype=np.float64)
        merged = tuple(k for k, n in enumerate(linear.ins.shape) if n == 1)
        gain = squares.sum(axis=merged, keepdims=True)
        power = data[linear.source].power[_columns(linear, channels)]
        signal = float((gain * power).sum())
        if signal > 0:
            found.signal[linear] = signal
            np.add.at(found.of, linear.ins, gain / signal)
    found.of[0] = 0.0  # stands for many tensors
    for out, parts in reversed(channels.joins):
        for part in parts:
            np.add.at(found.of, np.broadcast_to(part, out.shape), found.of[out])
    return found


def _columns(linear: Linear, channels: Channels) -> Array:
    """Channel of the source that each of `linear.ins` is, in the same shape."""
    ids = channels.of[linear.source].ravel() if linear.source in channels.of else np.zeros(1, int)
    order = np.argsort(ids, kind="stable")
    place = np.searchsorted(ids[order], linear.ins)
    found: Array = order[np.minimum(place, len(ids) - 1)]
    return found


class _Rows:
    """Weights as a matrix: output channels by inputs, the kernel's positions merged."""

    def __init__(self, linear: Linear, channels: Channels) -> None:
        axis = linear.axis
        kernel = tuple(k for k, n in enumerate(linear.ins.shape) if k != axis and n == 1)
        weights = np.abs(linear.weights)

        def as_rows(array: Array) -> Array:
            found: Array = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
            return found

        self.linear = linear
        self.largest = as_rows(weights.max(axis=kernel, keepdims=True))
        self.ins, self.columns = as_rows(linear.ins), as_rows(_columns(linear, channels))
        self.outs = linear.bias_ids[: len(self.largest)]
        self.positions = int(np.prod([weights.shape[k] for k in kernel]))

    def noise(self, factors: Array, power: Array, target: Target) -> Array:
        """Energy of the error [outputs] of rounding the rescaled weights, on the old scale."""
        rule = rule_of(self.linear.node, target)
        if rule is None:
            return np.zeros(len(self.largest))
        inner, outer = factors[self.ins], factors[self.outs]
        reach = (self.largest * inner).max(axis=1) / outer
        if not target.scales_per_channel:
            reach = np.full_like(reach, reach.max())
        step = reach * outer / (2.0 ** (rule.dtype.bits - 1) - 1)
        found: Array = step**2 / 12 * self.positions * (power[self.columns] / inner**2).sum(axis=1)
        return found


class RegionNoise:
    """Predicted error of the readers of one region, as a function of factors and shifts."""

    def __init__(
        self,
        channels: Channels,
        region: Region,
        data: Mapping[Value, ChannelData],
        readers: Sensitivity,
        target: Target,
    ) -> None:
        """`data` must hold the sources of all consumers; tensors it lacks are not rounded."""
        self.channels, self.region, self.target = channels, region, target
        self.readers = readers
        self.tensors = [v for v in region.values if v in data and is_rounded(v, target)]
        self.learned = {v: data[v].half(odd=False) for v in self.tensors}
        self.unseen = {v: data[v].half(odd=True) for v in self.tensors}
        self.read = [_Rows(c, channels) for c in region.consumers if c in readers.signal]
        per_tensor = not target.scales_per_channel
        made = [p for p in region.producers if per_tensor and p in readers.signal]
        self.made = [_Rows(p, channels) for p in made]
        self.data = data

    def __call__(self, factors: Array, amounts: Array) -> Array:
        """Energy of the readers' error relative to their outputs', by each of `RULES`.

        `factors` and `amounts` are per id; they are applied to the data and weights as given.
        """
        total = np.zeros(len(RULES))
        for value in self.tensors:
            total += self._rounding(value, factors, amounts)
        for rows in self.read:
            lost = rows.noise(factors, self._power(rows.linear.source, amounts), self.target)
            total += COHERENCE * lost.sum() / self.readers.signal[rows.linear]
        for rows in self.made:
            lost = rows.noise(factors, self.data[rows.linear.source].power, self.target)
            total += COHERENCE * lost @ self.readers.of[rows.outs]
        return total

    def _power(self, source: Value, amounts: Array) -> Array:
        ids = self.channels.of[source].ravel()
        return self.data[source].moved(amounts[ids]).power

    def _rounding(self, value: Value, factors: Array, amounts: Array) -> Array:
        ids = self.channels.of[value].ravel()
        scale, readers = factors[ids], self.readers.of[ids]
        learned, unseen = (d[value].moved(amounts[ids]) for d in (self.learned, self.unseen))
        low, high = (learned.low / scale).min(axis=1), (learned.high / scale).max(axis=1)
        elements = unseen.elements / scale[:, None]
        activations = self.target.activations
        assert activations is not None  # or `is_rounded` is False
        found = []
        for ends in ((low.mean(), high.mean()), (low.min(), high.max())):  # in order of RULES
            info = grid(*ends, activations.dtype, symmetric=activations.symmetric)
            errors = np.square(info.fake(elements) - elements).mean(axis=(0, 2))
            found.append((errors * scale**2) @ readers)
        return np.array(found)


def worst_ratio(new: Array, old: Array) -> float:
    """Largest ratio of noises; 1 where there was none."""
    return float(np.divide(new, old, out=np.ones_like(new), where=old > 0).max())


def is_rounded(value: Value, target: Target) -> bool:
    """True when an operator that computes in integers reads the tensor."""
    if target.activations is None:
        return False
    return any(target.kind(n.op) in ("compute", "light") for n in value.consumers if not n.domain)


def reach(
    channels: Channels, region: Region, tensors: Sequence[tuple[Array, Array]]
) -> tuple[Array, Array]:
    """Largest magnitudes per label of `region`, and each region id's place among them.

    `tensors` are pairs (ids, magnitudes) of like shape.
    """
    names, place = np.unique(channels.label[region.ids], return_inverse=True)
    found = np.zeros(len(names))
    for ids, magnitudes in tensors:
        free = channels.label[ids] > 0
        local = place[np.searchsorted(region.ids, ids[free])]
        np.maximum.at(found, local, magnitudes[free])
    return found, place
