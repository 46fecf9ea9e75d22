"""Which operators run in integers: an exact minimum cut over operators and conversions.

An operator is on the integer side (with the source) or on the float side (with the sink). The cut
pays each operator's time in its precision and each conversion once per tensor, however many
readers share it. Construction: a tensor with producer p and readers c gets two helper vertices,

    p -> A  (dequantize),  A -> c  (infinite)     p integer, some c float
    B -> p  (quantize),    c -> B  (infinite)     p float, some c integer

Any non-negative costs make this exact (pairwise terms are submodular). Among optima the one with
the most operators in float is returned: accuracy that costs no time. References: Picard & Queyranne
1980 (minimal source side); Kolmogorov & Zabih 2004 (which energies cuts minimize).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.tensor import Array

INFINITE = 2**30
"""Capacity of what must not be cut; SciPy's flow counts in int32."""


@dataclass(frozen=True)
class Link:
    """A tensor between operators: who makes it, who reads it, what converting it costs (ns)."""

    producer: int
    consumers: tuple[int, ...]
    quantize: float
    dequantize: float


@dataclass
class Problem:
    """Operators by index with their times in nanoseconds; `inf` forbids a precision.

    Attributes:
        float_time, integer_time: one entry per operator.
        links: tensors.
        together: pairs of operators that must agree.
    """

    float_time: list[float] = field(default_factory=list)
    integer_time: list[float] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    together: list[tuple[int, int]] = field(default_factory=list)

    def add(self, float_time: float, integer_time: float) -> int:
        """Append an operator; its index."""
        self.float_time.append(float_time)
        self.integer_time.append(integer_time)
        return len(self.float_time) - 1

    def cost(self, integer: Sequence[bool]) -> float:
        """Time of a placement in nanoseconds, infinite when it is forbidden."""
        times = zip(integer, self.integer_time, self.float_time, strict=True)
        total = sum(fast if chosen else slow for chosen, fast, slow in times)
        for link in self.links:
            others = {integer[c] for c in link.consumers}
            if integer[link.producer] and False in others:
                total += link.dequantize
            if not integer[link.producer] and True in others:
                total += link.quantize
        if any(integer[a] != integer[b] for a, b in self.together):
            return np.inf
        return total


def solve(problem: Problem) -> list[bool]:
    """The cheapest placement: True where an operator runs in integers."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    count = len(problem.float_time)
    if not count:
        return []
    tails, heads, costs = _arcs(problem, count)
    source, sink = count + 2 * len(problem.links), count + 2 * len(problem.links) + 1
    capacity = _capacities(costs)
    network = coo_array((capacity, (tails, heads)), shape=(sink + 1, sink + 1)).tocsr()
    network.data = np.minimum(network.data, INFINITE).astype(np.int32)
    flow = maximum_flow(network, source, sink).flow
    left = network - flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = np.zeros(sink + 1, bool)
    reached[breadth_first_order(left, source, return_predecessors=False)] = True
    return [bool(side) for side in reached[:count]]


def _arcs(problem: Problem, count: int) -> tuple[list[int], list[int], list[float]]:
    """Tails, heads and costs of the network's arcs."""
    source, sink = count + 2 * len(problem.links), count + 2 * len(problem.links) + 1
    arcs: list[tuple[int, int, float]] = []
    for i in range(count):
        arcs += [(source, i, problem.float_time[i]), (i, sink, problem.integer_time[i])]
    for k, link in enumerate(problem.links):
        to_float, to_integer = count + 2 * k, count + 2 * k + 1
        arcs += [
            (link.producer, to_float, link.dequantize),
            (to_integer, link.producer, link.quantize),
        ]
        for consumer in set(link.consumers):
            arcs += [(to_float, consumer, np.inf), (consumer, to_integer, np.inf)]
    for a, b in problem.together:
        arcs += [(a, b, np.inf), (b, a, np.inf)]
    tails, heads, costs = zip(*arcs, strict=True)
    return list(tails), list(heads), list(costs)


def _capacities(costs: list[float]) -> Array:
    """Costs as integers whose finite sum stays below `INFINITE`.

    The factor is a power of two, so that sums that are equal before are equal afterwards, and ties
    go where the module's text says.
    """
    values = np.asarray(costs, np.float64)
    finite = np.isfinite(values)
    total = max(float(values[finite].sum()), 1.0)
    scaled = np.rint(values[finite] * 2.0 ** np.floor(np.log2(INFINITE / 2 / total)))
    capacity = np.full(values.shape, INFINITE, np.int64)
    capacity[finite] = scaled.astype(np.int64)
    return capacity
