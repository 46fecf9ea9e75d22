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

References: Picard & Queyranne 1980 (minimal source side); Gallo, Grigoriadis & Tarjan 1989
(nested cuts); Kolmogorov & Zabih 2004 (which energies cuts minimize).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import UsageError
from ..ir.tensor import Array

if TYPE_CHECKING:
    from .placement import Problem

LARGEST = 2**29
"""Bound of the sum of all capacities: residual capacities add up two of them in int32."""
SOURCE, SINK = 0, 1
"""Vertices of the network that SciPy sees."""


class Network:
    """A placement problem, ready for cuts at any price.

    Attributes:
        vertex: operator -> vertex, int [operators].
    """

    def __init__(self, problem: Problem) -> None:
        """Build the arcs; `UsageError` when an operator may run in neither precision."""
        self.vertex = _agreeing(problem)
        groups = int(self.vertex.max(initial=-1)) + 1
        with np.errstate(invalid="ignore"):
            self._gain = self._sum(problem.float_time) - self._sum(problem.integer_time)
        if np.isnan(self._gain).any():
            where = int(np.flatnonzero(np.isnan(self._gain[self.vertex]))[0])
            raise UsageError(f"operator {where} and what must agree with it have no precision left")
        self._loss = self._sum(problem.loss)
        arcs, self.size = _conversions(problem, self.vertex, groups)
        self._tail, self._head = arcs[:, 0].astype(np.int64), arcs[:, 1].astype(np.int64)
        shared, self._shared_loss = _shared(problem, self.vertex, self._gain)
        most = np.where(np.isfinite(self._gain), np.maximum(self._gain, 0.0), 0.0)
        through = most + np.bincount(self._head, arcs[:, 2], groups)[:groups]
        # A power of two: sums that are equal before are equal afterwards, and ties stay ties.
        total = 2 * float(arcs[:, 2].sum()) + 3 * float(through[shared[:, 0]].sum())
        self._scale = 2.0 ** np.floor(np.log2(LARGEST / total)) if total else 1.0
        self._capacity = np.rint(arcs[:, 2] * self._scale).astype(np.int64)
        self._outflow = np.bincount(self._tail, self._capacity, groups)[:groups]
        self._inflow = np.bincount(self._head, self._capacity, groups)[:groups]
        self._capacity += arcs[:, 3].astype(np.int64)
        self._share(shared, np.rint(most * self._scale).astype(np.int64) + self._inflow)

    def _share(self, shared: Array, most: Array) -> None:
        """Add the arcs of shared losses, [arcs, 2] (vertex, number of the loss).

        `most` is what can flow through each vertex at any price, so that one unit more is no limit.
        """
        vertex, number = shared[:, 0], shared[:, 1]
        limit = most[vertex] + 1
        self._tail = np.concatenate([self._tail, vertex])
        self._head = np.concatenate([self._head, self.size + number])
        self._capacity = np.concatenate([self._capacity, limit])
        np.add.at(self._outflow, vertex, limit)
        self._shared_limit = np.bincount(number, limit, self._shared_loss.size).astype(np.int64)
        self._shared_first, self.size = self.size, self.size + self._shared_loss.size

    def _sum(self, values: list[float]) -> Array:
        """One number per operator -> one per vertex."""
        return np.bincount(self.vertex, np.asarray(values, np.float64))

    def cut(self, price: float, most: Array | None = None, least: Array | None = None) -> Array:
        """The minimal source side at `price` nanoseconds per unit of loss; bool [vertices].

        Args:
            price: not negative; infinite for the least loss at any time.
            most: the cut at a lower price; only vertices in it are considered.
            least: the cut at a higher price; its vertices need not be considered.
        """
        inside = np.zeros(self.size, bool) if least is None else least.copy()
        open_ = ~inside if most is None else most & ~inside
        index = np.full(self.size + 2, SINK)
        index[:-2][inside] = index[-2] = SOURCE
        size = 2 + int(np.count_nonzero(open_))
        index[:-2][open_] = np.arange(2, size)
        tails, heads, capacity = self._arcs(price)
        tails, heads = index[tails], index[heads]
        kept = (tails != heads) & (tails != SINK) & (heads != SOURCE)
        reached = _reachable(tails[kept], heads[kept], capacity[kept], size)
        inside[open_] = reached[2:]
        return inside

    def _arcs(self, price: float) -> tuple[Array, Array, Array]:
        """Tails, heads and capacities; the last two vertices are the source and the sink."""
        lossy = self._loss > 0
        penalty = np.zeros_like(self._loss)
        penalty[lossy] = price * self._loss[lossy]
        forced = np.isinf(self._gain)
        gain = np.where(forced, self._gain, self._gain - np.where(forced, 0.0, penalty))
        up = np.flatnonzero(gain > 0)
        down = np.flatnonzero(gain < 0)
        rising = np.clip(np.rint(gain[up] * self._scale), 1, self._outflow[up] + 1)
        falling = np.clip(np.rint(-gain[down] * self._scale), 1, self._inflow[down] + 1)
        priced = np.flatnonzero(self._shared_loss) if price else np.zeros(0, np.int64)
        shared = np.rint(price * self._shared_loss[priced] * self._scale)
        shared = np.clip(shared, 1, self._shared_limit[priced] + 1)
        source, sink = self.size, self.size + 1
        ends = np.concatenate([down, self._shared_first + priced])
        capacity = [self._capacity, *(a.astype(np.int64) for a in (rising, falling, shared))]
        return (
            np.concatenate([self._tail, np.full(up.size, source), ends]),
            np.concatenate([self._head, up, np.full(ends.size, sink)]),
            np.concatenate(capacity),
        )


def _agreeing(problem: Problem) -> Array:
    """Operator -> vertex, the same for operators that must agree."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(problem.float_time)
    pairs = np.asarray(problem.together, np.int64).reshape(-1, 2)
    joined = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels: Array = connected_components(joined, directed=False)[1] if count else np.zeros(0, int)
    return labels


def _conversions(problem: Problem, vertex: Array, groups: int) -> tuple[Array, int]:
    """Arcs between vertices (tail, head, nanoseconds, units more), and how many vertices."""
    rows: list[tuple[int, int, float, int]] = []
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
                # One unit more than flows into A or out of B: never cut.
                rows.append((to_float, reader, link.dequantize, 1))
                rows.append((reader, to_integer, link.quantize, 1))
    return np.asarray(rows, np.float64).reshape(-1, 4), size


def _shared(problem: Problem, vertex: Array, gain: Array) -> tuple[Array, Array]:
    """Which vertices cause which shared loss, int [pairs, 2]; the losses.

    What an operator causes that must be in integers is no choice and left out.
    """
    pairs: list[tuple[int, int]] = []
    losses: list[float] = []
    for shared in problem.shared:
        members = {int(vertex[k]) for k in shared.operators}
        if shared.loss > 0 and not any(gain[k] == np.inf for k in members):
            pairs += [(k, len(losses)) for k in sorted(members)]
            losses.append(shared.loss)
    return np.asarray(pairs, np.int64).reshape(-1, 2), np.asarray(losses, np.float64)


def _reachable(tails: Array, heads: Array, capacity: Array, size: int) -> Array:
    """What the source still reaches when a maximum flow runs to the sink; bool [size]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    shape = (size, size)
    network: Any = coo_array((capacity.astype(np.int32), (tails, heads)), shape=shape).tocsr()
    left = network - maximum_flow(network, SOURCE, SINK).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = np.zeros(size, bool)
    reached[breadth_first_order(left, SOURCE, return_predecessors=False)] = True
    return reached
