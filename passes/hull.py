"""All placements that some price of a loss makes cheapest.

They are the corners of the lower convex hull of all (loss, time). Between two of them ask the price
at which both cost the same; either a third is cheaper there, or they are neighbours. Corners are
nested, so that what two of them have in common is decided for all between: each question is about
the rest only, and questions on one level together are about every operator once.

References: Eisner & Severance 1976 (the questions); Gallo, Grigoriadis & Tarjan 1989 (nestedness).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from ..ir.tensor import Array
from .mincut import Network
from .placement import Placement, Problem

NEGLIGIBLE = 1e-9
"""Relative differences of times below this are rounding errors."""


class Corners(Sequence[Placement]):
    """Nested placements, from the fastest to that of least loss.

    Attributes:
        level: operator -> the first placement that has it in float, int [operators].
        times, losses: nanoseconds and loss, float64 [placements].
    """

    def __init__(self, problem: Problem, level: Array, count: int) -> None:
        """Sum up times and losses of `count` placements from what changes between them."""
        self.level = level
        time, loss = np.zeros(count + 1), np.zeros(count + 1)

        def add(sums: Array, first: int, end: int, amount: float) -> None:
            if first < end:
                sums[first] += amount
                sums[end] -= amount

        at: list[int] = level.tolist()
        for k, left in enumerate(at):
            add(time, 0, left, problem.integer_time[k])
            add(time, left, count, problem.float_time[k])
            add(loss, 0, left, problem.loss[k])
        for link in problem.links:
            made, read = at[link.producer], [at[k] for k in link.consumers]
            add(time, min(read), made, link.dequantize)
            add(time, made, max(read), link.quantize)
        for shared in problem.shared:
            add(loss, 0, max(at[k] for k in shared.operators), shared.loss)
        self.times, self.losses = np.cumsum(time)[:-1], np.cumsum(loss)[:-1]

    def __len__(self) -> int:
        return self.times.size

    @overload
    def __getitem__(self, index: int) -> Placement: ...

    @overload
    def __getitem__(self, index: slice) -> list[Placement]: ...

    def __getitem__(self, index: int | slice) -> Placement | list[Placement]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]
        integer = tuple((self.level > k).tolist())
        return Placement(integer, float(self.times[k]), float(self.losses[k]))


def hull(problem: Problem) -> Corners:
    """Every placement that is cheapest at some price."""
    network, vertex = Network.of(problem)
    most, least = network.cut(0.0), network.cut(np.inf)
    assert not (least & ~most).any(), "float sets are nested as the price rises"
    fastest, finest = (problem.placement(side[vertex].tolist()) for side in (most, least))
    steps: list[Array] = []
    if finest.loss < fastest.loss:
        steps = _steps(*network.between(most, least), fastest)
    level = np.where(most, len(steps) + 1, 0)
    for k, step in enumerate(steps):
        level[step] = k + 1
    return Corners(problem, level[vertex], len(steps) + 1)


def _steps(network: Network, vertices: Array, fastest: Placement) -> list[Array]:
    """Vertices that go to float from each corner to the next; `network` is what is between all."""
    steps: list[Array] = []
    rest = [(network, vertices, fastest.time, fastest.loss)]
    while rest:
        part, vertices, time, loss = rest.pop()
        every = np.ones(vertices.size, bool)
        found = _corner(part, time, loss) if vertices.size > 1 else None
        if found is None:
            steps.append(vertices)
            continue
        side, time_there, loss_there = found
        finer, some = part.between(side, ~every)
        rest.append((finer, vertices[some], time_there, loss_there))
        faster, some = part.between(every, side)
        rest.append((faster, vertices[some], time, loss))
    return steps


def _corner(part: Network, time: float, loss: float) -> tuple[Array, float, float] | None:
    """A corner between the ends of `part` with its time and loss, None when there is none.

    `time` and `loss` are those of the faster end.
    """
    all_time, all_loss = part.value(np.ones(part.gain.size, bool))
    if all_loss <= 0:
        return None
    price = max(-all_time / all_loss, 0.0)
    side = part.cut(price)
    side_time, side_loss = part.value(side)
    cheaper = all_time - side_time + price * (all_loss - side_loss)
    if cheaper <= NEGLIGIBLE * (time + price * loss):
        return None
    return side, time + side_time - all_time, loss + side_loss - all_loss
