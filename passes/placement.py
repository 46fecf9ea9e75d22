"""Which operators run in integers: minimum cuts over operators and conversions.

An operator is on the integer side (with the source) or on the float side (with the sink). The cut
pays each operator's time in its precision, each conversion once per tensor however many readers
share it, and `price` nanoseconds for every unit of loss by an operator in integers. Any costs that
are not negative make this exact (`mincut.py`). Among optima the one with the most operators in
float is returned: accuracy that costs no time.

As the price rises, operators only ever go to float: placements are nested. `hull.py` finds all of
them that some price makes optimal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .mincut import Network


@dataclass(frozen=True)
class Link:
    """A tensor between operators: who makes it, who reads it, what converting it costs (ns)."""

    producer: int
    consumers: tuple[int, ...]
    quantize: float
    dequantize: float

    def cost(self, integer: Sequence[bool]) -> float:
        """What a placement pays for converting the tensor: nothing, or once."""
        others = {integer[c] for c in self.consumers}
        if integer[self.producer]:
            return self.dequantize if False in others else 0.0
        return self.quantize if True in others else 0.0


@dataclass(frozen=True)
class Shared:
    """A loss that is there once when any of several operators runs in integers.

    So is the rounding of a tensor: whoever makes or reads it in integers causes it.
    """

    operators: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class Placement:
    """A precision for every operator.

    Attributes:
        integer: True where an operator runs in integers.
        time: of all operators and conversions, in nanoseconds.
        loss: sum over the operators in integers and what they share.
    """

    integer: tuple[bool, ...]
    time: float
    loss: float


@dataclass
class Problem:
    """Operators by index with their times in nanoseconds; `inf` forbids a precision.

    Attributes:
        float_time, integer_time: one entry per operator.
        links: tensors.
        together: pairs of operators that must agree.
        loss: what an operator in integers costs in accuracy, in any unit; not negative.
        shared: losses that several operators cause, in the same unit.
    """

    float_time: list[float] = field(default_factory=list)
    integer_time: list[float] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    together: list[tuple[int, int]] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    shared: list[Shared] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loss = self.loss or [0.0] * len(self.float_time)

    def add(self, float_time: float, integer_time: float, loss: float = 0.0) -> int:
        """Append an operator; its index."""
        self.float_time.append(float_time)
        self.integer_time.append(integer_time)
        self.loss.append(max(loss, 0.0))
        return len(self.float_time) - 1

    def pin(self, operator: int, *, integer: bool) -> None:
        """Leave an operator only one precision."""
        (self.float_time if integer else self.integer_time)[operator] = np.inf

    def cost(self, integer: Sequence[bool]) -> float:
        """Time of a placement in nanoseconds, infinite when it is forbidden."""
        times = zip(integer, self.integer_time, self.float_time, strict=True)
        total = sum(fast if chosen else slow for chosen, fast, slow in times)
        total += sum(link.cost(integer) for link in self.links)
        if any(integer[a] != integer[b] for a, b in self.together):
            return np.inf
        return total

    def placement(self, integer: Sequence[bool]) -> Placement:
        """A choice of precisions with its time and loss."""
        loss = sum(a for a, chosen in zip(self.loss, integer, strict=True) if chosen)
        loss += sum(s.loss for s in self.shared if any(integer[k] for k in s.operators))
        return Placement(tuple(integer), self.cost(integer), loss)

    def added_loss(self, operator: int, integer: Sequence[bool]) -> float:
        """What an operator that a placement has in float would add to the loss in integers."""
        others = (s for s in self.shared if operator in s.operators)
        return self.loss[operator] + sum(
            shared.loss for shared in others if not any(integer[k] for k in shared.operators)
        )


def solve(problem: Problem, price: float = 0.0) -> list[bool]:
    """The cheapest placement at `price` ns per unit of loss: True where an operator is integer.

    Raises:
        UsageError: an operator, with those it must agree with, may run in neither precision.
    """
    network, vertex = Network.of(problem)
    chosen: list[bool] = network.cut(price)[vertex].tolist()
    return chosen


def sweep(problem: Problem, prices: Iterable[float]) -> list[Placement]:
    """The cheapest placement at each price, by ascending price; their float sets are nested."""
    network, vertex = Network.of(problem)
    sides = [network.cut(price) for price in sorted(prices)]
    for faster, finer in pairwise(sides):
        assert not (finer & ~faster).any(), "float sets are nested as the price rises"
    return [problem.placement(side[vertex].tolist()) for side in sides]
