"""The cheapest choice of one of several formats for every operator, conversions included.

Two formats are a minimum cut (`placement.py`). With more the problem is NP-hard in general, but
networks are nearly chains: eliminating operators one by one, each time tabulating the best choice
for every combination of its neighbours' formats, is exact and costs n * formats^(width + 1). Where
the tables become too large, moves that let any operators change to one format at once, each a
minimum cut, improve a choice until none does (alpha-expansion).

References: Bertele & Brioschi 1972 (elimination); Scholz & Eckstein 2002 (as for registers, PBQP);
Boykov, Veksler & Zabih 2001 (alpha-expansion).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.tensor import Array
from .placement import Link, Problem, solve

LARGEST = 1 << 18
"""Entries of a table beyond which elimination is given up."""


@dataclass
class Formats:
    """Operators by index, each with a cost per format, and costs of several together.

    Attributes:
        alone: float64 [formats] per operator; infinite where there is no kernel.
        together: operators and a table with one axis for each of them.
    """

    alone: list[Array] = field(default_factory=list)
    together: list[tuple[tuple[int, ...], Array]] = field(default_factory=list)

    def add(self, costs: Sequence[float]) -> int:
        """Append an operator; its index."""
        self.alone.append(np.asarray(costs, np.float64))
        return len(self.alone) - 1

    def link(
        self,
        producer: int,
        consumers: Sequence[int],
        conversion: Array,
        kinds: Sequence[int] | None = None,
    ) -> None:
        """Pay for every kind of tensor that readers want and its producer does not make, once.

        Args:
            producer: index of the operator that makes the tensor.
            consumers: those that read it; the producer may be among them.
            conversion: float64 [kinds, kinds], cost from the first to the second.
            kinds: what kind of tensor a format reads and makes; None: each its own.
        """
        readers = tuple(dict.fromkeys(c for c in consumers if c != producer))
        if not readers:
            return
        scope = (producer, *readers)
        shape = [self.alone[k].size for k in scope]
        kind = np.arange(max(shape)) if kinds is None else np.asarray(kinds)
        made, *wanted = (kind[index] for index in np.indices(shape))
        table = np.zeros(shape)
        for given, other in zip(*np.nonzero(conversion), strict=True):
            if given != other:
                needed = np.any([each == other for each in wanted], axis=0)
                table[(made == given) & needed] += conversion[given, other]
        self.together.append((scope, table))

    def cost(self, labels: Sequence[int]) -> float:
        """The cost of a choice."""
        total = sum(float(costs[label]) for costs, label in zip(self.alone, labels, strict=True))
        return total + sum(
            float(table[tuple(labels[k] for k in scope)]) for scope, table in self.together
        )


def choose(problem: Formats) -> tuple[list[int], bool]:
    """The cheapest format of every operator, and whether it is proven to be.

    Equal costs go to the first format.
    """
    found = eliminate(problem)
    return (found, True) if found is not None else (expand(problem), False)


def eliminate(problem: Formats, largest: int = LARGEST) -> list[int] | None:
    """The exact optimum; None when a table would have more than `largest` entries.

    Operators with fewest neighbours go first.
    """
    tables: dict[int, list[tuple[tuple[int, ...], Array]]] = {
        k: [((k,), costs)] for k, costs in enumerate(problem.alone)
    }
    near: list[set[int]] = [set() for _ in problem.alone]
    for scope, table in problem.together:
        for k in scope:
            tables[k].append((scope, table))
            near[k].update(set(scope) - {k})
    queue = [(len(around), k) for k, around in enumerate(near)]
    heapq.heapify(queue)
    decided: list[tuple[int, tuple[int, ...], Array]] = []
    gone: set[int] = set()
    while queue:
        count, k = heapq.heappop(queue)
        if k in gone or count != len(near[k]):
            continue
        scope = (k, *sorted(near[k]))
        shape = [problem.alone[j].size for j in scope]
        if np.prod(shape, dtype=np.float64) > largest:
            return None
        total = _sum(tables.pop(k), scope, shape)
        rest = scope[1:]
        decided.append((k, rest, total.argmin(0)))
        gone.add(k)
        for j in rest:
            tables[j] = [each for each in tables[j] if k not in each[0]]
            near[j] = (near[j] | set(rest)) - {j, k}
            heapq.heappush(queue, (len(near[j]), j))
        if rest:
            best = (rest, total.min(0))
            for j in rest:
                tables[j].append(best)
    labels = [0] * len(problem.alone)
    for k, rest, choice in reversed(decided):
        labels[k] = int(choice[tuple(labels[j] for j in rest)])
    return labels


def _sum(
    tables: Sequence[tuple[tuple[int, ...], Array]], scope: tuple[int, ...], shape: Sequence[int]
) -> Array:
    """The sum of tables, each over some of `scope`."""
    place = {k: axis for axis, k in enumerate(scope)}
    total = np.zeros(shape)
    for members, table in tables:
        axes = [place[k] for k in members]
        aligned = np.transpose(table, np.argsort(axes))
        total += aligned.reshape([shape[a] if a in axes else 1 for a in range(len(scope))])
    return total


def expand(problem: Formats) -> list[int]:
    """A choice that no change of any operators to one format improves, the best of some starts."""
    count = max((costs.size for costs in problem.alone), default=0)
    starts = [[int(np.argmin(costs)) for costs in problem.alone]]
    for label in range(count):
        starts.append(
            [
                label if label < costs.size and np.isfinite(costs[label]) else int(np.argmin(costs))
                for costs in problem.alone
            ]
        )
    return min((_improved(problem, labels, count) for labels in starts), key=problem.cost)


def _improved(problem: Formats, labels: list[int], count: int) -> list[int]:
    cost, better = problem.cost(labels), True
    while better:
        better = False
        for label in range(count):
            moved = _move(problem, labels, label)
            if (found := problem.cost(moved)) < cost:
                labels, cost, better = moved, found, True
    return labels


def _move(problem: Formats, labels: Sequence[int], label: int) -> list[int]:
    """Let operators keep their format or take `label`, at least cost.

    Costs of several operators count by pairs with the first, the others as they are; so a move is
    exact for pairs, and a proposal otherwise.
    """
    keep = np.array([costs[old] for costs, old in zip(problem.alone, labels, strict=True)])
    take = np.array([costs[label] if label < costs.size else np.inf for costs in problem.alone])
    cut = Problem()
    pairs: list[tuple[int, int, float]] = []
    for scope, table in problem.together:
        for other in range(1, len(scope)):
            a, b = scope[0], scope[other]
            corner = [labels[k] for k in scope]
            costs = np.full((2, 2), np.inf)
            for i, first in enumerate((labels[a], label)):
                for j, second in enumerate((labels[b], label)):
                    corner[0], corner[other] = first, second
                    if max(first, second) < min(table.shape[0], table.shape[other]):
                        costs[i, j] = table[tuple(corner)]
            if not np.isfinite(costs).all():
                continue
            keep[a] += costs[0, 0]
            take[a] += costs[1, 0]
            take[b] += costs[1, 1] - costs[1, 0]
            pairs.append((a, b, max(costs[0, 1] + costs[1, 0] - costs[0, 0] - costs[1, 1], 0.0)))
    for kept, taken in zip(keep, take, strict=True):
        cut.add(float(taken), float(kept))
    cut.links = [Link(a, (b,), 0.0, extra) for a, b, extra in pairs]
    return [old if stays else label for old, stays in zip(labels, solve(cut), strict=True)]
