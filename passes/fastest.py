"""The fastest placement that is good enough, when only running it tells whether it is.

The corners of the hull are nested: each leaves more in float than the one before, so that with a
loss that is right in order the first good one is found by a search in a sorted list. An answer also
tells how far off a placement is, and so where to ask next. Between the first good corner and the
one before lie placements that no price makes optimal; only operators in which the two differ are
undecided there, few enough to look at all choices, and the best of these are searched likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..ir.tensor import Array
from .hull import hull
from .placement import Placement, Problem

UNDECIDED = 12
"""So many operators of a gap are decided one by one; more of them in so many groups."""
APART = 1.03
"""Placements whose predicted times differ by less than this factor are one: the one of less loss.

Predictions are no better than that (docs/compare.md), and every placement that is run costs more.
"""

Ask = Callable[[Placement], float]
"""What share of its loss a placement may keep: 1 or more when it is good enough. Expensive."""


def fastest(
    problem: Problem, ask: Ask, near: Placement | None = None, below: float = np.inf
) -> Placement | None:
    """The fastest placement found that is good, None when not even the one of least loss is.

    Args:
        problem: with losses.
        ask: about log2 of the corners, and of a gap's placements; fewer where losses are right.
        near: a placement to judge by from where on placements are good; the fastest if None.
        below: nanoseconds; placements that are not faster are not asked about.
    """
    corners = hull(problem)
    if ask(corners[0]) >= 1:
        return corners[0]
    near = problem.placement((near or corners[0]).integer)
    others = apart(corners[1:], below)
    number = first(others, ask, allowed(near, ask(near)))
    if number == len(others):
        return None
    good = others[number]
    gap = apart(between(problem, [corners[0], *others][number], good), good.time)
    return [*gap, good][first(gap, ask, allowed(good, ask(good)))]


def apart(placements: Sequence[Placement], below: float) -> list[Placement]:
    """Of placements from fast to slow those that are faster than `below` and than the next one."""
    kept: list[Placement] = []
    for placement in reversed(placements):
        if placement.time * APART < (kept[-1].time if kept else below):
            kept.append(placement)
    return kept[::-1]


def allowed(placement: Placement, share: float) -> float | None:
    """The loss that is good enough, None where the share does not tell."""
    return placement.loss * share if 0 < share < np.inf and placement.loss > 0 else None


def first(placements: Sequence[Placement], ask: Ask, most: float | None = None) -> int:
    """Index of the first good one, where all behind a good one are; their number if there is none.

    Interpolation search: what is asked next has the loss that the last answer allows, or is the
    middle if the last answer did not halve what is left.

    Args:
        placements: losses fall.
        ask: at most about 2 log2 of the placements.
        most: loss up to which placements are expected to be good.
    """
    losses = np.array([-placement.loss for placement in placements])
    low, high, halved = -1, len(placements), True
    while high - low > 1:
        number = (low + high) // 2
        if most is not None and halved:
            number = min(max(int(np.searchsorted(losses, -most)), low + 1), high - 1)
        share, before = ask(placements[number]), high - low
        low, high = (low, number) if share >= 1 else (number, high)
        most, halved = allowed(placements[number], share), 2 * (high - low) <= before + 1
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
