"""Decides which operators run in integers and which grid every tensor is stored on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import DataError, Graph, Value, grid, shapes
from ..ir.target import Target
from .base import Context, Pass
from .grids import Groups, Span, demanded, group, spans_of_groups, weight_grid
from .placement import Link, Problem, solve
from .units import Unit, data_inputs, elements, find_units, times, weight_axis, weight_slot


@dataclass(frozen=True)
class Plan(Pass):
    """Decide precisions and grids: `Node.precision`, `Value.quant`.

    Which operators run in integers is a minimum cut over the target's times for operators and
    conversions, so that no conversion is there that does not pay. Grids follow from calibrated
    ranges; data movers and what the target unifies share one.
    """

    name: ClassVar[str] = "plan"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded", "ranges")
    establishes: ClassVar[tuple[str, ...]] = ("plan",)
    invalidates: ClassVar[tuple[str, ...]] = ("filters", "accumulators")
    preserves_function: ClassVar[bool] = True

    def run(self, graph: Graph, context: Context) -> None:
        """Annotate the graph."""
        shapes.infer(graph)
        clear(graph)
        units = find_units(graph, context.target, context.exclude)
        spans = known_spans(units, context)
        keep_tail(units)
        place(units, graph, context.target)
        assign_grids(units, spans, context.target)
        for unit in units:
            unit.node.precision = "int8" if unit.integer else "float"
            if unit.after is not None:
                unit.after.precision = unit.node.precision
        _report(units, graph, context)


def clear(graph: Graph) -> None:
    """Remove the annotations of an earlier plan."""
    for value in graph.values():
        value.quant = None
    for node in graph.order():
        node.precision = None


def known_spans(units: list[Unit], context: Context) -> dict[Value, Span]:
    """Ranges of the activations around all units; a unit that lacks one gets a reason."""
    assert context.calibration is not None
    spans: dict[Value, Span] = {}
    for unit in units:
        if unit.kind is None or unit.reason:
            continue
        operands = [v for _, v in data_inputs(unit.node) if v.const is None]
        for value in (*operands, *unit.results):
            known = context.calibration.get(value)
            if known is not None and value.producer is None:
                # What an input's grid clips is lost to the whole model: 22.9 dB at best on
                # MobileNet-v2 with the mean of the extremes, 36 dB with the extremes.
                spans[value] = (float(known.seen_low), float(known.seen_high))
            elif known is not None:
                spans[value] = (float(known.low), float(known.high))
            elif unit.kind == "agnostic" and value not in operands and operands[0] in spans:
                spans[value] = spans[operands[0]]
        missing = [v.name for v in (*operands, *unit.results) if v not in spans]
        if missing:
            unit.reason = f"the range of '{missing[0]}' is unknown"
    return spans


def keep_tail(units: list[Unit]) -> None:
    """Give light arithmetic whose result only data movers carry to the outputs a reason to stay.

    Its 8-bit grid would be the output's, coarser than what it computes: the mean of 169 8-bit
    numbers is no 8-bit number. SqueezeNet's pooled scores tie on the grid, which costs 4 % top-1.
    """
    maker = {v: unit for unit in units for v in unit.results}
    tail: set[Unit] = set()
    read_by: dict[Unit, list[Unit]] = {unit: [] for unit in units}
    for unit in units:
        for value in unit.node.inputs:
            if value is not None and value in maker:
                read_by[maker[value]].append(unit)
    for unit in reversed(units):
        if any(v.is_output for v in unit.results) or read_by[unit]:
            ends = all(reader in tail for reader in read_by[unit])
            light = unit.kind == "light" and unit.node.op != "Concat" and not unit.reason
            if ends and (light or unit.kind == "agnostic"):
                tail.add(unit)
            if ends and light:
                unit.reason = "its result goes to the outputs, finer than a grid of 8 bits"


def place(units: list[Unit], graph: Graph, target: Target) -> None:
    """Set `Unit.integer` by the cheapest placement."""
    problem = Problem()
    for unit in units:
        problem.add(*times(unit, target))
    outside = problem.add(0.0, np.inf)
    maker = {v: k for k, unit in enumerate(units) for v in unit.results}
    reader = {n: k for k, u in enumerate(units) for n in (u.node, u.after) if n is not None}
    for value in [*graph.inputs, *maker]:
        users = [reader.get(node, outside) for node, _ in value.uses]
        if users and value.const is None:
            size, home = elements(value), maker.get(value, outside)
            free = home != outside and units[home].node.op in target.float_output
            quantize = target.costs.quantize * size
            dequantize = 0.0 if free else target.costs.dequantize * size
            problem.links.append(Link(home, tuple(users), quantize, dequantize))
    for unit, integer in zip(units, solve(problem), strict=False):
        unit.integer = integer
        if not integer and unit.kind is not None and not unit.reason:
            unit.reason = "converting would cost more than it saves"


def assign_grids(units: list[Unit], spans: dict[Value, Span], target: Target) -> None:
    """Set `Value.quant` of activations, of weights and of constant operands."""
    wanted = demanded(units, target)
    groups: Groups = group(units, wanted, spans, target)
    ranges = spans_of_groups(units, wanted, groups, spans)
    rule = target.activations
    grids = {
        root: grid(low, high, rule.dtype, symmetric=rule.symmetric)
        for root, (low, high) in ranges.items()
    }
    for value in wanted:
        value.quant = grids[groups.find(value)]
    for unit in units:
        if not unit.integer:
            continue
        for _, value in data_inputs(unit.node):
            if value.const is not None:
                data = finite(value, unit)
                value.quant = grid(
                    data.min(initial=0), data.max(initial=0), rule.dtype, symmetric=rule.symmetric
                )
        slot = weight_slot(unit.node)
        if slot is not None:
            weights = unit.node.inputs[slot]
            assert weights is not None
            weights.quant = weight_grid(
                finite(weights, unit), weight_axis(unit.node), target.weights
            )


def finite(value: Value, unit: Unit) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The elements of a constant; `DataError` when one is NaN or infinite."""
    data = value.numpy()
    if not np.isfinite(data).all():
        raise DataError(
            f"weights '{value.name}' of {unit.node.label} contain NaN or infinity; "
            "repair the model, or keep the operator in float with --exclude"
        )
    return data


def _report(units: list[Unit], graph: Graph, context: Context) -> None:
    report = context.report
    report.matched = sum(u.kind is not None for u in units)
    report.rewritten = sum(u.integer for u in units)
    for unit in units:
        if not unit.integer:
            report.skip(unit.reason, unit.node)
    bodies = sum(len(part) for part in graph.graphs() if part is not graph)
    if bodies:
        report.note(f"{bodies} operators inside bodies of If, Loop or Scan stay in float")
    context.results["plan"] = [
        {
            "node": unit.node.name,
            "op": unit.node.op,
            "precision": "int8" if unit.integer else "float",
            "reason": unit.reason,
        }
        for unit in units
    ]
    counts = Counter(u.node.op for u in units if u.integer)
    if counts:
        report.note("in integers: " + ", ".join(f"{n} {op}" for op, n in counts.most_common()))
