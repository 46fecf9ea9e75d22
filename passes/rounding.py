"""Integers with the least quadratic loss: GPTQ, then coordinate descent.

The error of a row of weights that changes by D is D H D' - 2 C D' and what does not depend on D:
H holds the second moments of the inputs, C those of inputs with what the target asks for beyond the
old output. Rows come in sets that share one H: all rows of a layer, those of one group of channels,
or every row by itself.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..ir.tensor import Array

SWEEPS = 12
"""Coordinate descent ends after so many sweeps at the latest."""
TOLERANCE = np.float32(1e-3)
TINY = np.float32(1e-30)


@dataclass(frozen=True)
class Quadratic:
    """The loss of every row as a function of the change of its weights.

    Attributes:
        hessian: second moments, float32 [sets, K, K], positive definite.
        linear: moments with what is asked for, float32 [sets, rows per set, K].
    """

    hessian: Array
    linear: Array

    def of(self, change: Array) -> Array:
        """Per row [sets, rows], for changes [sets, rows, K]."""
        return np.asarray(((change @ self.hessian - 2 * self.linear) * change).sum(-1))


@dataclass(frozen=True)
class Steps:
    """The grid of rows of weights.

    Attributes:
        scale, zero: float32, [sets, rows, 1] or [sets, rows, K].
        low, high: smallest and largest integer.
    """

    scale: Array
    zero: Array
    low: int
    high: int

    def nearest(self, weights: Array) -> Array:
        """The nearest integers, as float32."""
        return np.asarray(np.clip(np.rint(weights / self.scale) + self.zero, self.low, self.high))

    def reals(self, integers: Array) -> Array:
        """What integers stand for."""
        return np.asarray((integers - self.zero) * self.scale)

    def times(self, factors: Array | np.float32) -> Steps:
        """The grid with other scales."""
        return Steps(self.scale * factors, self.zero, self.low, self.high)

    def columns(self, size: int) -> Steps:
        """Scale and zero point written out for each of `size` columns."""
        shape = (*self.scale.shape[:2], size)
        scale, zero = (np.broadcast_to(a, shape) for a in (self.scale, self.zero))
        return Steps(scale, zero, self.low, self.high)

    def reshape(self, sets: tuple[int, int], shape: tuple[int, ...]) -> Steps:
        """For rows [groups, rows, K] of `shape` in other sets."""
        width = self.scale.shape[-1]
        scale, zero = (
            np.broadcast_to(a, (*shape[:2], width)).reshape(*sets, width)
            for a in (self.scale, self.zero)
        )
        return Steps(scale, zero, self.low, self.high)


def gptq(weights: Array, loss: Quadratic, steps: Steps, *, by_order: bool = False) -> Array:
    """Integers column by column, each error made good by the columns after it.

    Args:
        weights: float32 [sets, rows, K], of whose changes `loss` is the loss.
        loss: of every row.
        steps: the grid.
        by_order: begin with the columns of the largest inputs; one set only.

    Returns:
        integers as float32, shape of `weights`.

    Reference: Frantar et al. 2022, GPTQ (2210.17323), algorithm 1; there `linear` is 0.
    """
    size = weights.shape[-1]
    hessian = loss.hessian.astype(np.float64)
    order = np.arange(size)
    if by_order and len(hessian) == 1:
        order = np.argsort(-np.diagonal(hessian[0]), kind="stable")
    inverse = np.linalg.inv(hessian)
    left = (weights + loss.linear @ inverse)[..., order].astype(np.float32)
    inverse = inverse[:, order][:, :, order]
    upper = np.linalg.cholesky(inverse).swapaxes(-1, -2).astype(np.float32)
    grid = steps.columns(size)
    integers = np.empty_like(left)
    for k, at in enumerate(order):
        one = Steps(grid.scale[..., at], grid.zero[..., at], grid.low, grid.high)
        integers[..., at] = one.nearest(left[..., k])
        error = (left[..., k] - one.reals(integers[..., at])) / upper[:, k, k, None]
        left[..., k:] -= error[..., None] * upper[:, None, k, k:]
    return np.asarray(integers)


def exchange(weights: Array, loss: Quadratic, steps: Steps, integers: Array) -> Array:
    """Move one integer of every row a step and answer with the best other one, where both gain.

    Correlated inputs make single changes stop early: one weight up and its neighbour down costs
    little where either alone costs much. The loss of no row grows.
    """
    integers, grid = integers.copy(), steps.columns(weights.shape[-1])
    curvature = np.diagonal(loss.hessian, axis1=1, axis2=2)[:, None]
    width = np.maximum(curvature * grid.scale, TINY)
    rows = np.ix_(*map(np.arange, weights.shape[:2]))
    for _ in range(SWEEPS):
        gradient = (steps.reals(integers) - weights) @ loss.hessian - loss.linear
        moved = False
        for k, up in itertools.product(range(weights.shape[-1]), (-1, 1)):
            first = np.clip(integers[..., k] + up, grid.low, grid.high) - integers[..., k]
            first = (first * grid.scale[..., k])[..., None]
            then = gradient + first * loss.hessian[:, None, k]
            answer = np.clip(integers - np.rint(then / width), grid.low, grid.high) - integers
            second = answer * grid.scale
            gain = second * (2 * then + second * curvature)
            gain[..., k] = 0
            best = gain.argmin(-1)
            cost = first * (2 * gradient[..., k, None] + first * curvature[..., k, None])
            better = (cost[..., 0] + gain[(*rows, best)]) < -TOLERANCE * np.abs(cost[..., 0])
            if better.any():
                moved = True
                by = np.where(better, second[(*rows, best)], 0)[..., None]
                step = np.where(better[..., None], first, 0)
                integers[..., k] += np.where(better, np.sign(first[..., 0]), 0)
                integers[(*rows, best)] += np.where(better, answer[(*rows, best)], 0)
                gradient += step * loss.hessian[:, None, k]
                sets = np.arange(len(loss.hessian))[:, None]
                gradient += by * loss.hessian[sets, best]
        if not moved:
            break
    return integers


def descend(weights: Array, loss: Quadratic, steps: Steps, integers: Array) -> Array:
    """Set one integer of every row after the other to the best, until none changes.

    Exact coordinate descent on the grid: the loss of no row grows.
    """
    integers, grid = integers.copy(), steps.columns(weights.shape[-1])
    curvature = np.diagonal(loss.hessian, axis1=1, axis2=2)[:, None]
    width = np.maximum(curvature * grid.scale, TINY)
    for _ in range(SWEEPS):
        gradient = (steps.reals(integers) - weights) @ loss.hessian - loss.linear
        moved = False
        for k in range(weights.shape[-1]):
            old = integers[..., k]
            new = np.clip(old - np.rint(gradient[..., k] / width[..., k]), grid.low, grid.high)
            by = (new - old) * grid.scale[..., k]
            if by.any():
                moved = True
                integers[..., k] = new
                gradient += by[..., None] * loss.hessian[:, None, k]
        if not moved:
            break
    return integers
