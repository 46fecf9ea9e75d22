"""The fastest placement that is good enough, when only running it tells whether it is.

The corners of the hull are nested: each leaves more in float than the one before, so that with a
loss that is right in order the first good one is found by bisection. Between it and the corner
before lie placements that no price makes optimal; only operators in which the two differ are
undecided there, few enough to look at all choices, and the best of these are bisected likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..ir.tensor import Array
from .placement import Placement, Problem, hull

UNDECIDED = 12
"""So many operators of a gap are decided one by one; more of them in so many groups."""

Good = Callable[[Placement], bool]


def fastest(problem: Problem, good: Good) -> Placement | None:
    """The fastest placement found that is good, None when not even the one of least loss is.

    Args:
        problem: with losses.
        good: decides; expensive. It is asked about log2 of the corners, and of a gap's placements.
    """
    corners = hull(problem)
    if good(corners[0]):
        return corners[0]
    if len(corners) == 1:
        return None
    number = 1 + first(corners[1:], good)
    if not good(corners[number]):
        return None
    gap = between(problem, corners[number - 1], corners[number])
    return [*gap, corners[number]][first([*gap, corners[number]], good)]


def first(placements: Sequence[Placement], good: Good) -> int:
    """Index of the first good one, where all behind a good one are; the last is taken for good."""
    low, high = -1, len(placements) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if good(placements[middle]):
            high = middle
        else:
            low = middle
    return high


def between(problem: Problem, faster: Placement, finer: Placement) -> list[Placement]:
    """The best placements between two neighbours of the hull, from fast to slow, losses falling.

    None of them is worse than another in both time and loss. Exact for up to UNDECIDED operators;
    more of them change together with their neighbours in the file.
    """
    undecided = np.flatnonzero(np.array(faster.integer) & ~np.array(finer.integer))
    groups = np.array_split(undecided, min(UNDECIDED, len(undecided)))
    choices = np.arange(1, 2 ** len(groups) - 1)
    integer = np.tile(np.array(finer.integer), (len(choices), 1))
    for k, group in enumerate(groups):
        integer[:, group] = (choices >> k & 1)[:, None].astype(bool)
    time, loss = costs(problem, integer)
    best, least = [], faster.loss
    for row in np.lexsort((loss, time)):
        if faster.time < time[row] < finer.time and finer.loss < loss[row] < least:
            best.append(row)
            least = loss[row]
    return [problem.placement(integer[row].tolist()) for row in best]


def costs(problem: Problem, integer: Array) -> tuple[Array, Array]:
    """Times and losses of many placements, bool [placements, operators]; as `Problem.placement`."""
    time = np.where(integer, problem.integer_time, problem.float_time).sum(axis=1)
    loss = integer @ np.array(problem.loss)
    for link in problem.links:
        made, read = integer[:, link.producer], integer[:, list(link.consumers)]
        time += link.dequantize * (made & ~read.all(axis=1))
        time += link.quantize * (~made & read.any(axis=1))
    for shared in problem.shared:
        loss += shared.loss * integer[:, list(shared.operators)].any(axis=1)
    for a, b in problem.together:
        time[integer[:, a] != integer[:, b]] = np.inf
    return time, loss
