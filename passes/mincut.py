"""The network of a placement problem and its minimum cuts, for one price or for nested ones.

Vertices are operators (those that must agree are one vertex) and two helpers per tensor that
several operators read:

    p -> A  (dequantize),  A -> c  (no limit)     p integer, some reader c float
    B -> p  (quantize),    c -> B  (no limit)     p float, some reader c integer

A tensor with one reader needs no helpers: p -> c (dequantize), c -> p (quantize). A loss that
operators share has a helper too, i -> Y (no limit) from each of them, and Y's arc to the sink is
price * loss. An operator's
gain by integers, its float time less its integer time less price * loss, is an arc from the source
when positive and to the sink when negative.

SciPy counts flow in int32. Only conversions are scaled to that range: no arc from or to a terminal
needs more than what can flow on from its operator, so one unit more stands for infinity, however
far times and losses are apart. As these limits do not depend on the price, what the source and the
sink offer is monotone in it also after rounding, and so the cuts are nested exactly.

Between two cuts that are known, what both have in common is decided. The rest is a network of its
own, in which arcs from and to what is decided are part of the gains.

References: Picard & Queyranne 1980 (minimal source side); Gallo, Grigoriadis & Tarjan 1989
(nested cuts, contraction of what is decided); Kolmogorov & Zabih 2004 (which energies cuts
minimize).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import UsageError
from ..ir.tensor import Array

if TYPE_CHECKING:
    from .placement import Problem

LARGEST = 2**29
"""Bound of the sum of all capacities: residual capacities add up two of them in int32."""


@dataclass(frozen=True, eq=False)
class Network:
    """A placement problem, or what is undecided of one, ready for cuts at any price.

    Attributes:
        gain: nanoseconds that integers save, float64 [vertices]; infinite where there is no choice.
        loss: by integers, float64 [vertices].
        tail, head: of the arcs, int64 [arcs].
        cost: nanoseconds, float64 [arcs]; of an arc that is never cut what can flow through it.
        spare: 0, or units that such an arc has more than that after rounding, int64 [arcs].
    """

    gain: Array
    loss: Array
    tail: Array
    head: Array
    cost: Array
    spare: Array

    @staticmethod
    def of(problem: Problem) -> tuple[Network, Array]:
        """The network, and the vertex of each operator, int [operators].

        Raises:
            UsageError: an operator may run in neither precision.
        """
        vertex = _agreeing(problem)
        with np.errstate(invalid="ignore"):
            gain = _sums(vertex, problem.float_time) - _sums(vertex, problem.integer_time)
        if np.isnan(gain).any():
            where = int(np.flatnonzero(np.isnan(gain[vertex]))[0])
            raise UsageError(f"operator {where} and what must agree with it have no precision left")
        rows, size = _conversions(problem, vertex, gain.size)
        more, shared = _shared(problem, vertex, gain, rows, size)
        arcs = np.asarray([*rows, *more], np.float64).reshape(-1, 4)
        tail, head, spare = arcs[:, (0, 1, 3)].T.astype(np.int64)
        loss = np.zeros(size + len(shared))
        loss[: gain.size], loss[size:] = _sums(vertex, problem.loss), shared
        gain = np.concatenate([gain, np.zeros(loss.size - gain.size)])
        return Network(gain, loss, tail, head, arcs[:, 2], spare), vertex

    def between(self, most: Array, least: Array) -> tuple[Network, Array]:
        """What is undecided between two cuts, and the numbers of its vertices here, int [vertices].

        Args:
            most: a cut at a lower price, bool [vertices].
            least: one at a higher price.
        """
        inside = np.flatnonzero(most & ~least)
        number = np.full(self.gain.size, -1)
        number[inside] = np.arange(inside.size)
        tail, head = number[self.tail], number[self.head]
        kept = (tail >= 0) & (head >= 0)
        entering = least[self.tail] & (head >= 0)
        leaving = (tail >= 0) & ~most[self.head]
        gain = self.gain[inside]
        gain += np.bincount(head[entering], self.cost[entering], inside.size)
        gain -= np.bincount(tail[leaving], self.cost[leaving], inside.size)
        arcs = (array[kept] for array in (tail, head, self.cost, self.spare))
        return Network(gain, self.loss[inside], *arcs), inside

    def value(self, side: Array) -> tuple[float, float]:
        """Nanoseconds of a cut beyond those of no vertex, and its loss."""
        crossing = side[self.tail] & ~side[self.head]
        time = self.cost[crossing].sum() - self.gain[side].sum()
        return float(time), float(self.loss[side].sum())

    def cut(self, price: float) -> Array:
        """The minimal source side at `price` nanoseconds per unit of loss; bool [vertices].

        The price is not negative; infinite for the least loss at any time.
        """
        size = self.gain.size
        # A power of two: sums that are equal before are equal afterwards, and ties stay ties.
        total = 3 * float(self.cost.sum())
        scale = 2.0 ** np.floor(np.log2(LARGEST / total)) if total else 1.0
        capacity = np.rint(self.cost * scale) + self.spare
        lossy = np.isfinite(self.gain) & (self.loss > 0)
        gain = self.gain.copy()
        gain[lossy] -= price * self.loss[lossy]
        up, down = np.flatnonzero(gain > 0), np.flatnonzero(gain < 0)
        outflow = np.bincount(self.tail, capacity, size)[up]
        inflow = np.bincount(self.head, capacity, size)[down]
        rising = np.clip(np.rint(gain[up] * scale), 1, outflow + 1)
        falling = np.clip(np.rint(-gain[down] * scale), 1, inflow + 1)
        tails = np.concatenate([self.tail, np.full(up.size, size), down])
        heads = np.concatenate([self.head, up, np.full(down.size, size + 1)])
        return _reachable(tails, heads, np.concatenate([capacity, rising, falling]), size)


Row = tuple[int, int, float, int]
"""Of an arc: tail, head, cost, spare."""


def _sums(vertex: Array, values: list[float]) -> Array:
    """One number per operator -> one per vertex."""
    return np.bincount(vertex, np.asarray(values, np.float64))


def _agreeing(problem: Problem) -> Array:
    """Operator -> vertex, the same for operators that must agree."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(problem.float_time)
    pairs = np.asarray(problem.together, np.int64).reshape(-1, 2)
    joined = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels: Array = connected_components(joined, directed=False)[1] if count else np.zeros(0, int)
    return labels


def _conversions(problem: Problem, vertex: Array, groups: int) -> tuple[list[Row], int]:
    """Arcs of conversions, and how many vertices there are with their helpers."""
    rows: list[Row] = []
    size = groups
    place: list[int] = vertex.tolist()
    for link in problem.links:
        producer = place[link.producer]
        readers = {place[c] for c in link.consumers} - {producer}
        if len(readers) == 1:
            (reader,) = readers
            rows += [(producer, reader, link.dequantize, 0), (reader, producer, link.quantize, 0)]
        elif readers:
            to_float, to_integer = size, size + 1
            size += 2
            rows.append((producer, to_float, link.dequantize, 0))
            rows.append((to_integer, producer, link.quantize, 0))
            for reader in readers:
                # More than flows into A or out of B: never cut.
                rows.append((to_float, reader, link.dequantize, 2))
                rows.append((reader, to_integer, link.quantize, 2))
    return rows, size


def _shared(
    problem: Problem, vertex: Array, gain: Array, rows: list[Row], size: int
) -> tuple[list[Row], list[float]]:
    """Arcs to the helpers of shared losses, which are numbered from `size`; these losses.

    What an operator causes that must be in integers is no choice and left out.
    """
    most = np.where(np.isfinite(gain), np.maximum(gain, 0.0), 0.0)
    spare = np.full(gain.size, 2)
    for _, head, cost, more in rows:
        if head < gain.size:
            most[head] += cost
            spare[head] += 1 + more
    arcs: list[Row] = []
    losses: list[float] = []
    for shared in problem.shared:
        members = {int(vertex[k]) for k in shared.operators}
        if shared.loss > 0 and not any(gain[k] == np.inf for k in members):
            helper = size + len(losses)
            arcs += [(k, helper, float(most[k]), int(spare[k])) for k in sorted(members)]
            losses.append(shared.loss)
    return arcs, losses


def _reachable(tails: Array, heads: Array, capacity: Array, size: int) -> Array:
    """What the source, number `size`, still reaches at a maximum flow to the sink, the next one.

    bool [size].
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    shape = (size + 2, size + 2)
    network: Any = coo_array((capacity.astype(np.int32), (tails, heads)), shape=shape).tocsr()
    left = network - maximum_flow(network, size, size + 1).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = np.zeros(size + 2, bool)
    reached[breadth_first_order(left, size, return_predecessors=False)] = True
    return reached[:size]
