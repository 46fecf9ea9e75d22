"""Chooses how many bits every layer gets, for a budget of bytes, time or accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..ir import DType, Graph, Node, UsageError, Value, shapes
from ..ir.clone import clone
from ..ir.evaluate import decibel
from ..ir.grid_rule import GridRule, weight_rule
from .base import Context, Pass
from .front import Point, front, good_enough, within
from .grids import Span, weight_grid
from .half import LARGEST
from .multilabel import Formats
from .place import Explanation, Places, places
from .plan import annotate, candidates, clear, finite, tell
from .single_errors import single_errors
from .units import weight_slot

FLOAT = "float"
HALF = GridRule(DType.FLOAT16)
USUAL_SIZE = 0.2
"""Share of the bytes in float where no budget is given: between 4 and 8 bits."""
LITTLE = 0.01
"""All time of the float model is worth this share of the bytes of its weights."""
CHEAP = "float fits the budget and loses nothing"


@dataclass(frozen=True)
class Bits(Pass):
    """Decide precisions, grids and the bits of weights, within a budget.

    Each operator is in float, in integers, or, if it has weights, in float with its weights stored
    in fewer bits. The error of every choice alone is measured, bytes and times are known; of all
    combinations those on the Pareto front are found exactly where the network is narrow enough.

    Attributes:
        formats: of weights beside float, spelled as for `--weights`, or `float16`. Eight bits
            compute in integers, all others are stored so and compute in float.
        size: bytes of the weights at most, as a share of what they are in float; a fifth where no
            budget is given.
        time: predicted time at most, as a share of that in float.
        sqnr: predicted signal to noise ratio of the outputs at least, in dB, for the least bytes.
        samples: to measure errors on, at most so many.
    """

    name: ClassVar[str] = "bits"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded", "ranges")
    establishes: ClassVar[tuple[str, ...]] = ("plan",)
    invalidates: ClassVar[tuple[str, ...]] = ("filters", "accumulators")
    preserves_function: ClassVar[bool] = True

    formats: tuple[str, ...] = ("int8", "int4:block=32")
    size: float = 0.0
    time: float = 0.0
    sqnr: float = 0.0
    samples: int = 4

    def __post_init__(self) -> None:
        """Check the options."""
        if sum(bound > 0 for bound in (self.size, self.time, self.sqnr)) > 1:
            raise ValueError("give one budget: size, time or sqnr")
        if not self.formats or self.samples < 1:
            raise ValueError("formats must not be empty, samples at least 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Annotate the graph."""
        target = context.target
        if target.activations is None:
            raise UsageError("bits places activations in integers: give them a type, not none")
        rules = [HALF if t == "float16" else weight_rule(t, target.weights) for t in self.formats]
        if None in rules:
            raise UsageError("bits: float is always among the formats, leave 'none' out")
        shapes.infer(graph)
        clear(graph)
        units, spans = candidates(graph, context)
        found = places(units, graph, target)
        menu = Menu(found, [FLOAT, *self.formats], [None, *rules])
        losses = self._losses(graph, menu, spans, context)
        sizes, times = menu.sizes(), menu.times()
        points = front(losses, times if self.time else mixed(sizes, times))
        if not self.time:
            points = [replace(each, amount=sizes.cost(each.labels)) for each in points]
        whole = (times if self.time else sizes).cost([0] * len(losses.alone))
        point = self._chosen(points, whole)
        clear(graph)
        menu.apply(point.labels, spans, context)
        tell(units, graph, context)
        self._tell(points, point, menu, whole, context)

    def _losses(
        self, graph: Graph, menu: Menu, spans: dict[Value, Span], context: Context
    ) -> Formats:
        """What each operator in each format alone adds to the noise of the outputs."""
        units, samples = menu.found.units, context.need_samples(self.name).spread(self.samples)
        table = np.zeros((len(units) + 1, len(menu.names)))
        number = {unit.node: k for k, unit in enumerate(units)}
        with context.progress("measuring formats", None) as advance:
            for label, rule in enumerate(menu.rules):
                if rule is None:
                    continue
                target = replace(context.target, weights=rule, layers=())
                clear(graph)
                for unit, integer in zip(units, menu.found.most, strict=False):
                    unit.integer = integer
                annotate(units, spans, target)
                copy, where = clone(graph)
                back = {where[v].producer: v.producer for v in where if v.producer is not None}
                errors = single_errors(copy, target, samples, "sqnr", advance)
                for source in errors.sources:
                    node = back.get(source.unit.node) if source.unit is not None else None
                    if node is not None:
                        alone = max(float(source.alone.sum()), 0.0)
                        share = 1.0 if rule.dtype.bits == 8 else 1.0 - source.rounding
                        table[number[node], label] = alone * share
        return menu.formats(table)

    def _chosen(self, points: Sequence[Point], whole: float) -> Point:
        """The point for the budget; `whole` is what float pays."""
        if self.sqnr:
            found = good_enough(points, loss=10 ** (-self.sqnr / 10))
            told = f"{self.sqnr:g} dB"
        else:
            bound = self.time or self.size or USUAL_SIZE
            found = within(points, amount=bound * whole)
            told = f"{bound:.0%} of the {'time' if self.time else 'bytes'} in float"
        if found is None:
            least = min(points, key=lambda point: point.amount)
            raise UsageError(
                f"bits: no choice of {', '.join(self.formats)} reaches {told}; the least is "
                f"{least.amount / whole:.1%} at {decibel(1.0, least.loss):.1f} dB"
            )
        return found

    def _tell(
        self, points: Sequence[Point], point: Point, menu: Menu, whole: float, context: Context
    ) -> None:
        counts = Counter(
            menu.names[label]
            for label, unit in zip(point.labels, menu.found.units, strict=False)
            if weight_slot(unit.node) is not None
        )
        what = "time" if self.time else "bytes"
        context.report.note(
            f"{', '.join(f'{n} {name}' for name, n in counts.most_common())}: predicted "
            f"{decibel(1.0, point.loss):.1f} dB and {point.amount / whole:.1%} of the {what}"
        )
        if not all(each.proven for each in points):
            context.report.note("the network is too wide for a proof that no choice is better")
        context.results["bits"] = {
            "paid_in": what,
            "in_float": whole,
            "chosen": points.index(point),
            "points": [
                {
                    "amount": each.amount,
                    "sqnr_db": decibel(1.0, each.loss),
                    "proven": each.proven,
                    "formats": {
                        unit.node.name or unit.result.name: menu.names[label]
                        for label, unit in zip(each.labels, menu.found.units, strict=False)
                        if label
                    },
                }
                for each in points
            ],
        }


def mixed(sizes: Formats, times: Formats) -> Formats:
    """Bytes, and time for so little that it decides only between choices of about equal size."""
    nothing = [0] * len(sizes.alone)
    rate = LITTLE * sizes.cost(nothing) / (times.cost(nothing) or 1.0)
    alone = [a + rate * b for a, b in zip(sizes.alone, times.alone, strict=True)]
    together = [*sizes.together, *((scope, rate * table) for scope, table in times.together)]
    return Formats(alone, together)


@dataclass(frozen=True)
class Menu:
    """The formats there are for every operator.

    Attributes:
        found: the operators with their times; one more stands for what is outside.
        names, rules: of the formats; float comes first and has no rule.
    """

    found: Places
    names: list[str]
    rules: list[GridRule | None]

    def integer(self, label: int) -> bool:
        """True for a format that computes in integers."""
        rule = self.rules[label]
        return rule is not None and rule.dtype.bits == 8

    def possible(self, number: int, label: int) -> bool:
        """True when an operator can have a format."""
        if label == 0:
            return True
        if number == len(self.found.units):
            return False
        if self.integer(label):
            return self.found.most[number]
        weights = _weights(self.found.units[number].node)
        if not self.found.most[number] or weights is None:
            return False
        return self.rules[label] != HALF or float(np.abs(weights.numpy()).max()) <= LARGEST

    def formats(self, table: np.ndarray[Any, np.dtype[np.float64]]) -> Formats:
        """A cost per operator and format [operators, formats], infinite where it cannot be."""
        problem = Formats()
        for k, row in enumerate(table):
            problem.add([c if self.possible(k, label) else np.inf for label, c in enumerate(row)])
        different = np.where(np.eye(len(self.names), dtype=bool), 0.0, np.inf)
        for shared in self._sharing():
            problem.together += [((shared[0], other), different) for other in shared[1:]]
        return problem

    def _sharing(self) -> list[list[int]]:
        """Operators that read the same weights."""
        readers: dict[Value, list[int]] = {}
        for k, unit in enumerate(self.found.units):
            if (weights := _weights(unit.node)) is not None:
                readers.setdefault(weights, []).append(k)
        return [found for found in readers.values() if len(found) > 1]

    def sizes(self) -> Formats:
        """Bytes of weights, scales and zero points; what several read counts at the first."""
        table = np.zeros((len(self.found.units) + 1, len(self.names)))
        seen: set[Value] = set()
        for k, unit in enumerate(self.found.units):
            weights = _weights(unit.node)
            if weights is None or weights in seen or not self.found.most[k]:
                continue
            seen.add(weights)
            data = finite(weights, unit)
            table[k, 0] = 4 * data.size
            for label, rule in enumerate(self.rules):
                if rule is not None:
                    grid = weight_grid(data, unit.node, rule)
                    table[k, label] = data.size * rule.dtype.bits / 8
                    table[k, label] += 0 if rule == HALF else 5 * grid.scale.size
        return self.formats(table)

    def times(self) -> Formats:
        """Nanoseconds of operators and of conversions between float and integers."""
        table = np.zeros((len(self.found.units) + 1, len(self.names)))
        for k, times in enumerate(self.found.times):
            for label in range(len(self.names)):
                table[k, label] = times.in_integers if self.integer(label) else times.in_float
        problem = self.formats(table)
        kinds = [int(self.integer(label)) for label in range(len(self.names))]
        for link in self.found.problem.links:
            conversion = np.array([[0.0, link.quantize], [link.dequantize, 0.0]])
            problem.link(link.producer, link.consumers, conversion, kinds)
        return problem

    def apply(self, labels: Sequence[int], spans: dict[Value, Span], context: Context) -> None:
        """Annotate what `labels` say."""
        units = self.found.units
        for unit, label in zip(units, labels, strict=False):
            unit.integer = self.integer(label)
            if unit.reason:
                unit.explanation = Explanation("must")
        annotate(units, spans, context.target)
        for k, (unit, label) in enumerate(zip(units, labels, strict=False)):
            rule, weights = self.rules[label], _weights(unit.node)
            if rule is not None and weights is not None:
                weights.quant = weight_grid(finite(weights, unit), unit.node, rule)
            elif not unit.integer and not unit.reason:
                times = self.found.times[k]
                saves = (times.in_float - times.in_integers) / 1e3
                unit.reason, unit.explanation = CHEAP, Explanation("hurts", saves)


def _weights(node: Node) -> Value | None:
    slot = weight_slot(node) if not node.domain else None
    return node.inputs[slot] if slot is not None else None
