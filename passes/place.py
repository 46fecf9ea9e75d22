"""The placement problem of a graph: units and tensors with their costs, and why what stays float.

`plan` and `islands` both place by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..ir import Graph, Value
from ..ir.target import Target
from ..ir.timings import Source
from .costs import FREE, Times, conversion_times, layout_times, unit_times
from .placement import Link, Problem
from .quantized import brought_grid
from .units import Unit, data_inputs, makers_and_readers

Why = Literal["must", "hurts", "converts"]
SHAPERS = 4
"""So many convolutions at most decide on the layout of an image."""
REASONS: dict[Why, str] = {
    "hurts": "integers would lose accuracy",
    "converts": "converting would cost more than it saves",
}


@dataclass(frozen=True)
class Explanation:
    """Why an operator that could run in integers is in float.

    Attributes:
        why: `must`: there is no kernel, or it is pinned; `hurts`: its error costs more than it
            saves; `converts`: going back and forth costs more than it saves.
        saves: microseconds that it alone would be faster in integers.
        converts: microseconds of conversions that this would add, everything else as it is.
        loss: what it would add to the loss.
        source: how sure the times are.
    """

    why: Why
    saves: float = 0.0
    converts: float = 0.0
    loss: float = 0.0
    source: Source = "estimated"


@dataclass
class Places:
    """A placement problem and what its indices mean.

    Attributes:
        units: operator k of the problem is units[k]; one more stands for what is outside.
        problem: times in nanoseconds.
        times: of each unit.
        touching: unit -> the tensors it makes or reads, as indices of `problem.links`.
    """

    units: list[Unit]
    problem: Problem
    times: list[Times]
    touching: list[list[int]]

    @property
    def most(self) -> list[bool]:
        """Integers wherever they are possible."""
        return [bool(np.isfinite(time)) for time in self.problem.integer_time]

    @property
    def least(self) -> list[bool]:
        """Float wherever it is possible."""
        return [not np.isfinite(time) for time in self.problem.float_time]

    def explain(self, number: int, integer: Sequence[bool]) -> Explanation:
        """Why unit `number` is in float in a placement."""
        problem, times = self.problem, self.times[number]
        other = list(integer)
        other[number] = True
        links = [problem.links[k] for k in self.touching[number]]
        added = sum(link.cost(other) - link.cost(integer) for link in links)
        loss = problem.added_loss(number, integer)
        saves = times.in_float - times.in_integers
        why: Why = "hurts" if loss > 0 and saves > added else "converts"
        return Explanation(why, saves / 1e3, added / 1e3, loss, times.source)


def places(units: list[Unit], graph: Graph, target: Target) -> Places:
    """State the problem of placing `units`: conversions, layouts, no kernel, the graph's ends."""
    problem = Problem()
    times = [unit_times(unit, target) for unit in units]
    for time in times:
        problem.add(time.in_float, time.in_integers)
    outside = problem.add(0.0, np.inf)
    maker, reader = makers_and_readers(units)
    shapers = _shapers(graph, units, maker, outside)
    for value in [*graph.inputs, *maker]:
        users = [reader.get(node, outside) for node, _ in value.uses]
        if not users or value.const is not None:
            continue
        home = maker.get(value, outside)
        problem.links.append(_link(value, home, users, units, target))
        if target.quantizes_early and len(users) == 1 and home < outside:
            early = _when_quantized_early(units[home], times[home])
            problem.links.append(Link(home, tuple(users), early, 0.0))
        shaped = tuple(k for k in dict.fromkeys(users) if k < outside and _has_layout(units[k]))
        if value in shapers and shaped and any(layout := layout_times(value, target)):
            problem.links.append(Link(shapers[value][-1], shaped, *layout))
    for k, time in enumerate(times):
        if any(time.apart):
            value = data_inputs(units[k].node)[0][1]
            around = shapers.get(value) or (maker.get(value, outside),)
            problem.links.append(Link(k, around, *time.apart))
    touching: list[list[int]] = [[] for _ in range(outside + 1)]
    for number, link in enumerate(problem.links):
        for k in {link.producer, *link.consumers}:
            touching[k].append(number)
    return Places(units, problem, times, touching)


def _has_layout(unit: Unit) -> bool:
    """True for what engines compute on images in a layout of their own, another in integers."""
    return unit.node.is_op("Conv", "ConvTranspose") and unit.node.output.rank == 4


def _shapers(
    graph: Graph, units: Sequence[Unit], maker: Mapping[Value, int], outside: int
) -> dict[Value, tuple[int, ...]]:
    """Image -> the convolutions in whose layout it is; `outside` for what the caller feeds.

    What is between convolutions takes images in any layout and leaves them in it; where it has
    several, in that of the latest, which comes last here. Of a sum of many only a few are kept.
    """
    found: dict[Value, tuple[int, ...]] = {v: (outside,) for v in graph.inputs if v.rank == 4}
    for value, k in maker.items():
        if _has_layout(units[k]):
            found[value] = (k,)
        elif value.rank == 4 and not units[k].node.is_op(*FREE, "Transpose"):
            before = {j for _, v in data_inputs(units[k].node) for j in found.get(v, ())}
            if before:
                latest = sorted(before, key=lambda j: (j != outside, j))
                found[value] = tuple(latest[-SHAPERS:])
    return found


def _when_quantized_early(unit: Unit, times: Times) -> float:
    """How much longer a mover in float takes when its result is quantized: it moves integers."""
    if unit.kind != "agnostic" or unit.reason:
        return 0.0
    return max(times.in_integers + times.apart[1] - times.in_float, 0.0)


def _link(
    value: Value, home: int, users: Sequence[int], units: Sequence[Unit], target: Target
) -> Link:
    free = home < len(units) and units[home].node.op in target.float_output
    quantize, dequantize = conversion_times(value, target)
    if target.activations is not None and brought_grid(value, target.activations) is not None:
        quantize = dequantize = 0.0  # its integers are there
    return Link(home, tuple(users), quantize, 0.0 if free else dequantize)


def settle(found: Places, integer: Sequence[bool], reason: str = "") -> None:
    """Set `Unit.integer`, and why every other unit is in float: `reason`, or what the costs say."""
    for k, unit in enumerate(found.units):
        unit.integer, unit.explanation = bool(integer[k]), None
        if unit.integer:
            continue
        if unit.reason:
            unit.explanation = Explanation("must")
        else:
            unit.explanation = found.explain(k, integer)
            unit.reason = reason or REASONS[unit.explanation.why]
