"""Integers with the least quadratic loss: GPTQ, then coordinate descent.

The error of a row of weights that changes by D is D H D' - 2 C D' and what does not depend on D:
H holds the second moments of the inputs, C those of inputs with what the target asks for beyond the
old output. Rows come in sets that share one H: all rows of a layer, those of one group of channels,
or every row by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
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


class Gptq:
    """Integers column by column, each error made good by the columns after it.

    What does not depend on the grid is computed once, so that many grids can be tried.

    Reference: Frantar et al. 2022, GPTQ (2210.17323), algorithm 1; there `linear` is 0.
    """

    def __init__(self, weights: Array, loss: Quadratic, *, by_order: bool = False) -> None:
        """Factor the Hessians.

        Args:
            weights: float32 [sets, rows, K], of whose changes `loss` is the loss.
            loss: of every row.
            by_order: begin with the columns of the largest inputs; one set only.
        """
        self._order = np.arange(weights.shape[-1])[::-1]
        if by_order and len(loss.hessian) == 1:
            self._order = np.argsort(np.diagonal(loss.hessian[0]), kind="stable")
        self._wish = weights[..., self._order]
        self._columns = np.empty_like(loss.hessian)
        for k, (hessian, linear) in enumerate(zip(loss.hessian, loss.linear, strict=True)):
            inner = hessian[np.ix_(self._order, self._order)]
            lower = np.linalg.cholesky(inner.astype(np.float64))
            self._wish[k] += _optimum(lower, linear[:, self._order])
            self._columns[k] = (lower / np.diagonal(lower)).T

    def integers(self, steps: Steps) -> Array:
        """On the grid `steps`, as float32, shape of the weights."""
        wish = self._wish
        grid = steps.columns(wish.shape[-1])
        integers, error = np.empty_like(wish), np.empty_like(wish)
        for k, at in reversed(list(enumerate(self._order))):
            left = wish[..., k] + (error[..., k + 1 :] @ self._columns[:, k, k + 1 :, None])[..., 0]
            one = Steps(grid.scale[..., at], grid.zero[..., at], grid.low, grid.high)
            integers[..., at] = one.nearest(left)
            error[..., k] = wish[..., k] - one.reals(integers[..., at])
        return integers


def _optimum(lower: Array, linear: Array) -> Array:
    """The change with the least loss [rows, K], where the Hessian is lower @ lower'."""
    from scipy.linalg import cho_solve  # a tenth of a second, spent where it is needed

    return np.asarray(cho_solve((lower, True), linear.T).T, np.float32)


def exchange(weights: Array, loss: Quadratic, steps: Steps, integers: Array) -> Array:
    """Move one integer of every row a step and answer with the best other one, where both gain.

    Correlated inputs make single changes stop early: one weight up and its neighbour down costs
    little where either alone costs much. The loss of no row grows.
    """
    return _until_none_moves(_exchange, weights, loss, steps, integers)


def descend(weights: Array, loss: Quadratic, steps: Steps, integers: Array) -> Array:
    """Set one integer of every row after the other to the best, until none changes.

    Exact coordinate descent on the grid: the loss of no row grows.
    """
    return _until_none_moves(_descend, weights, loss, steps, integers)


Sweep = Callable[[Array, Quadratic, Steps, Array], Array]
"""Changes integers in place, given weights, loss and grid; True for rows [sets, rows] it moved."""


def _until_none_moves(
    sweep: Sweep, weights: Array, loss: Quadratic, steps: Steps, integers: Array
) -> Array:
    """Sweep again and again over the rows that the last one moved: the others are done."""
    integers = integers.copy()
    scale, zero = (np.broadcast_to(each, weights.shape) for each in (steps.scale, steps.zero))
    moved = np.ones(weights.shape[:2], bool)
    for _ in range(SWEEPS):
        sets, _ = some = np.ix_(moved.any(1), moved.any(0))
        left = Quadratic(loss.hessian[sets.ravel()], loss.linear[some])
        part = Steps(scale[some], zero[some], steps.low, steps.high)
        tried = integers[some]
        moved[...] = False
        moved[some] = sweep(weights[some], left, part, tried)
        integers[some] = tried
        if not moved.any():
            break
    return integers


def _exchange(weights: Array, loss: Quadratic, grid: Steps, integers: Array) -> Array:
    curvature, width = _curvature(loss, grid)
    rows = np.ix_(*map(np.arange, weights.shape[:2]))
    gradient = (grid.reals(integers) - weights) @ loss.hessian - loss.linear
    moved = np.zeros(weights.shape[:2], bool)
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
            moved |= better
            by = np.where(better, second[(*rows, best)], 0)[..., None]
            step = np.where(better[..., None], first, 0)
            integers[..., k] += np.where(better, np.sign(first[..., 0]), 0)
            integers[(*rows, best)] += np.where(better, answer[(*rows, best)], 0)
            gradient += step * loss.hessian[:, None, k]
            sets = np.arange(len(loss.hessian))[:, None]
            gradient += by * loss.hessian[sets, best]
    return moved


def _descend(weights: Array, loss: Quadratic, grid: Steps, integers: Array) -> Array:
    _, width = _curvature(loss, grid)
    change = grid.reals(integers) - weights
    moved = np.zeros(weights.shape[:2], bool)
    for k in range(weights.shape[-1]):
        gradient = (change @ loss.hessian[:, k, :, None])[..., 0] - loss.linear[..., k]
        old = integers[..., k]
        new = np.clip(old - np.rint(gradient / width[..., k]), grid.low, grid.high)
        moved |= new != old
        change[..., k] += (new - old) * grid.scale[..., k]
        integers[..., k] = new
    return moved


def _curvature(loss: Quadratic, grid: Steps) -> tuple[Array, Array]:
    """By which a step of 1 changes half the gradient, and what a step of an integer adds to it."""
    curvature = np.diagonal(loss.hessian, axis1=1, axis2=2)[:, None]
    return curvature, np.maximum(curvature * grid.scale, TINY)
