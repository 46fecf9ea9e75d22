"""One layer's integers and bias, from samples of its inputs and of what it should hand on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..ir.tensor import Array
from .rounding import Gptq, Quadratic, Steps, descend, exchange

DAMPING = 0.01
"""Of the mean second moment, added to each, at least (GPTQ)."""
SHARE = 1.0
"""The same per weight of a row and sample: what few samples say about many weights counts less.

Samples count and not places, as those of one image are alike. Outputs of whole models with weights
of 4 bits per channel, on 150 views of photos that none of 100 samples showed: MobileNet-v2 has 7.7,
9.4 and 9.9 dB with 1/8, 1 and 8, SqueezeNet 19.2, 18.3 and 18.0. (Without mixes of samples, and
while ONNX Runtime still rounded what the weights before a layer stand for.)
"""
FACTORS = np.linspace(1.0, 0.45, 23)
"""Scales to try for weights of few bits, relative to the one that covers all of them."""
FEW_BITS = 4
WORK = 5e7
"""Products of a layer's rows with their Hessians that the search of its scales may cost."""
OWN = 1 << 25
"""Elements that the Hessians of all rows may have, where a clamp calls for one for each."""
EXCHANGED = 4e7
"""Products of a layer's rows with their Hessians up to which pairs of integers are tried."""
ROUNDS = 2
"""Rows with a Hessian each are found again where the clamp lets others count for those found."""
LEAST = 8
"""So many samples must count for a channel's bias to move."""


@dataclass(frozen=True)
class Data:
    """Samples of a layer.

    Attributes:
        inputs: float32 [groups, samples, K], as the quantized layers before deliver them.
        beside: float32 [samples, outputs], what is added to the output; 0 without.
        targets: float32 [samples, outputs], what is to come out behind sum and clamp.
        low, high: bounds of the clamp, infinite without one.
    """

    inputs: Array
    beside: Array
    targets: Array
    low: float = -np.inf
    high: float = np.inf

    def part(self, picked: Array) -> Data:
        """Some of the samples."""
        return Data(
            self.inputs[:, picked], self.beside[picked], self.targets[picked], self.low, self.high
        )

    @property
    def clamped(self) -> bool:
        """True when there is a clamp."""
        return bool(np.isfinite((self.low, self.high)).any())

    def outputs(self, rows: Array) -> Array:
        """The sums without bias, [samples, outputs], for weights [groups, rows, K]."""
        found = (self.inputs @ rows.swapaxes(1, 2)).swapaxes(0, 1)
        return np.asarray(found.reshape(len(found), -1) + self.beside)

    def error(self, outputs: Array) -> Array:
        """Mean squared error per output, for sums with bias."""
        clipped = np.clip(outputs, self.low, self.high)
        return np.asarray(np.square(clipped - self.targets).mean(0, dtype=np.float64))

    def counts(self, outputs: Array) -> Array:
        """False where both the sum and its target are clamped: there nothing can be gained."""
        if not self.clamped:
            return np.ones(outputs.shape, bool)
        inside = (outputs > self.low) & (outputs < self.high)
        return np.asarray(inside | ((self.targets > self.low) & (self.targets < self.high)))


@dataclass(frozen=True)
class Rounded:
    """Weights of a layer as integers.

    Attributes:
        integers: float32 [groups, rows, K].
        factors: what the scale of each row is multiplied by, float32 [groups, rows, 1].
        bias: float32 [outputs].
        error: mean squared error per output on the samples it was found with, [outputs].
    """

    integers: Array
    factors: Array
    bias: Array
    error: Array

    def reals(self, steps: Steps) -> Array:
        """What the integers stand for; `steps` is the grid before any factor."""
        return steps.times(self.factors).reals(self.integers)

    def replaced(self, outputs: Array, other: Rounded) -> Rounded:
        """With the rows of some outputs, bool [outputs], from `other`."""
        rows = outputs.reshape(self.factors.shape)
        return Rounded(
            np.where(rows, other.integers, self.integers),
            np.where(rows, other.factors, self.factors),
            np.where(outputs, other.bias, self.bias),
            np.where(outputs, other.error, self.error),
        )


def settled(data: Data, steps: Steps, integers: Array, factors: Array, bias: Array) -> Rounded:
    """Integers with the bias that takes their mean error away from the samples that count."""
    sums = data.outputs(steps.times(factors).reals(integers))
    for _ in range(2 if data.clamped else 1):
        counts = data.counts(sums + bias)
        number = counts.sum(0)
        mean = np.where(counts, data.targets - sums, 0).sum(0) / np.maximum(number, 1)
        bias = np.where(number >= LEAST, mean, bias).astype(np.float32)
    return Rounded(integers, factors, bias, data.error(sums + bias))


def reconstruct(
    data: Data,
    weights: Array,
    bias: Array,
    steps: Steps,
    usual: Rounded,
    *,
    damping: float = DAMPING,
    one_scale: bool = False,
    by_order: bool = False,
) -> Rounded:
    """Integers, scales and bias with which a layer hands on what it should.

    Args:
        data: to learn from.
        weights: float32 [groups, rows, K].
        bias: float32 [outputs].
        steps: their grid.
        usual: the integers to compare with; no row of the result has a larger error.
        damping: see `damping_for`.
        one_scale: all rows have the same factor; only their sum of errors is not larger.
        by_order: see `gptq`.
    """
    for _ in range(ROUNDS if _hessian_per_row(data, weights) else 1):
        loss = quadratic(data, weights, bias, usual.reals(steps), usual.bias, damping)
        integers, factors = _least(loss, weights, steps, one_scale=one_scale, by_order=by_order)
        found = settled(data, steps, integers, factors, usual.bias)
        better = _together(found.error, one_scale) < _together(usual.error, one_scale)
        usual = usual.replaced(better, found)
    return usual


def _hessian_per_row(data: Data, weights: Array) -> bool:
    """True where a clamp calls for one, and memory allows."""
    return data.clamped and weights.size * weights.shape[-1] <= OWN


def _least(
    loss: Quadratic, weights: Array, steps: Steps, *, one_scale: bool, by_order: bool
) -> tuple[Array, Array]:
    """Integers and factors of the scales, shapes as in `Rounded`, with the least loss found."""
    sets = (len(loss.hessian), -1)
    rows, grid = weights.reshape(*sets, weights.shape[-1]), steps.reshape(sets, weights.shape)
    best, scales = np.zeros_like(rows), np.ones((*rows.shape[:2], 1), np.float32)
    least = np.full(rows.shape[:2], np.inf, np.float32)
    start = Gptq(rows, loss, by_order=by_order)
    for factors in candidates(rows, loss, grid, one_scale=one_scale):
        tried = grid.times(factors)
        integers = descend(rows, loss, tried, start.integers(tried))
        losses = loss.of(tried.reals(integers) - rows)
        better = _together(losses, one_scale) < _together(least, one_scale)
        least = np.where(better, losses, least)
        better = better[..., None]
        best, scales = np.where(better, integers, best), np.where(better, factors, scales)
    if rows.size * rows.shape[2] <= EXCHANGED:
        best = exchange(rows, loss, grid.times(scales), best)
    return best.reshape(weights.shape), scales.reshape(*weights.shape[:2], 1)


def _together(losses: Array, one_scale: bool) -> Array:
    """What rows are compared by: rows of one scale change together."""
    return np.broadcast_to(losses.sum(), losses.shape) if one_scale else losses


def candidates(rows: Array, loss: Quadratic, steps: Steps, *, one_scale: bool) -> Iterator[Array]:
    """Factors [sets, rows, 1] of the scales, best first by what rounding to nearest loses.

    Rows whose integers do not reach far, because their scale has another reason than their range
    (dead filters), keep it.
    """
    ones = np.ones((*rows.shape[:2], 1), np.float32)
    if steps.high - steps.low >= 2**FEW_BITS:
        yield ones
        return
    plain = steps.nearest(rows)
    far = np.abs(plain - steps.zero).max(-1) > (steps.high - steps.low) / 4
    far = far.any() if one_scale else far
    table = []
    for factor in FACTORS:
        tried = steps.times(np.float32(factor))
        table.append(loss.of(tried.reals(tried.nearest(rows)) - rows))
    losses = np.stack(table)
    if one_scale:
        losses = np.broadcast_to(losses.sum((1, 2), keepdims=True), losses.shape)
    order = np.argsort(losses, axis=0, kind="stable")
    cost = rows.size * rows.shape[-1]
    for rank in range(int(np.clip(WORK / cost, 1, 12))):
        yield np.where(far, FACTORS[order[rank]], 1.0)[..., None].astype(np.float32)


def damping_for(weights: int, samples: int) -> float:
    """What to add to second moments, relative to their mean, for so many weights per row."""
    return max(DAMPING, SHARE * weights / samples)


def quadratic(
    data: Data,
    weights: Array,
    bias: Array,
    around: Array,
    shift: Array,
    damping: float = DAMPING,
) -> Quadratic:
    """The loss as a function of the change of `weights`, the bias following the mean.

    Which samples count is decided at the weights `around` with bias `shift`. Without a clamp all
    do, and the rows of a group share their Hessian. With one every row has its own where memory
    allows; else the others are asked to stay where they are.
    """
    wish = data.targets - data.outputs(weights) - bias
    counts = data.counts(data.outputs(around) + shift)
    groups, rows, size = weights.shape
    if not _hessian_per_row(data, weights):
        wish = np.where(counts, wish, 0)
        inputs = data.inputs - data.inputs.mean(1, keepdims=True)
        asked = (wish - wish.mean(0)).reshape(-1, groups, rows).transpose(1, 2, 0)
        hessian, linear = inputs.swapaxes(1, 2) @ inputs, asked @ inputs
    else:
        hessian = np.empty((groups * rows, size, size), np.float32)
        linear = np.empty((groups * rows, 1, size), np.float32)
        for output in range(groups * rows):
            picked = np.flatnonzero(counts[:, output])
            inputs, asked = data.inputs[output // rows, picked], wish[picked, output]
            if len(picked):
                inputs = inputs - inputs.mean(0)
                asked = asked - asked.mean()
            hessian[output], linear[output, 0] = inputs.T @ inputs, asked @ inputs
    mean = np.diagonal(hessian, axis1=1, axis2=2).mean(1)
    added = damping * mean + 1e-6 * max(float(mean.max()), 1e-20)
    hessian += added[:, None, None] * np.eye(size, dtype=np.float32)
    return Quadratic(hessian / len(wish), linear / len(wish))
