"""The Pareto front between loss and what it is paid in: bytes or time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .multilabel import Formats, choose

FAR = 1e7
"""Of the price at which all loss is worth all there is to pay: so much less or more is an end."""
NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Point:
    """A choice of formats.

    Attributes:
        labels: the format of every operator.
        loss: of accuracy.
        amount: what is paid for it.
        proven: no other choice is better at the price it was found at.
    """

    labels: tuple[int, ...]
    loss: float
    amount: float
    proven: bool


def front(losses: Formats, amounts: Formats) -> list[Point]:
    """The corners of the lower convex hull of all (loss, amount), from the least amount.

    Args:
        losses: of every operator in every format, by itself.
        amounts: likewise, and of several together.

    Eisner & Severance 1976, as in `placement.hull`.
    """

    def at(price: float) -> Point:
        labels, proven = choose(_priced(losses, amounts, price))
        return Point(tuple(labels), losses.cost(labels), amounts.cost(labels), proven)

    scale = _most(amounts) / (_most(losses) or 1.0)
    done, rest = [at(scale / FAR)], [at(scale * FAR)]
    if rest[0].loss >= done[0].loss:
        return done
    while rest:
        between = _between(at, done[-1], rest[-1])
        if between is None:
            done.append(rest.pop())
        else:
            rest.append(between)
    return done


def _between(at: Callable[[float], Point], low: Point, high: Point) -> Point | None:
    """A point that is cheaper where the two cost the same, None when they are neighbours."""
    if high.amount <= low.amount or high.loss >= low.loss:
        return None
    price = (high.amount - low.amount) / (low.loss - high.loss)
    point = at(price)
    best = low.amount + price * low.loss
    return point if point.amount + price * point.loss < best * (1 - NEGLIGIBLE) else None


def _priced(losses: Formats, amounts: Formats, price: float) -> Formats:
    alone = [a + price * b for a, b in zip(amounts.alone, losses.alone, strict=True)]
    return Formats(alone, amounts.together)


def _most(problem: Formats) -> float:
    """The sum over the operators of what their worst format costs."""
    finite = (costs[np.isfinite(costs)] for costs in problem.alone)
    return float(sum(costs.max(initial=0.0) for costs in finite))


def within(points: Sequence[Point], *, amount: float) -> Point | None:
    """The point of least loss that pays no more than `amount`."""
    fitting = [point for point in points if point.amount <= amount]
    return min(fitting, key=lambda point: point.loss, default=None)


def good_enough(points: Sequence[Point], *, loss: float) -> Point | None:
    """The point that pays least and loses no more than `loss`."""
    fitting = [point for point in points if point.loss <= loss]
    return min(fitting, key=lambda point: point.amount, default=None)
