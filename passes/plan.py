"""Decides which operators run in integers and which grid every tensor is stored on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import DataError, DType, Graph, Node, QuantInfo, Value, grid, shapes
from ..ir.target import Target
from ..ir.tensor import Array
from .base import Context, Pass
from .grids import Groups, Span, demanded, group, spans_of_groups, weight_grid
from .place import Places, places, settle
from .placement import solve
from .price import price
from .quantized import ALREADY, brought_grid, quantized_already
from .select import rule_of
from .units import (
    Unit,
    data_inputs,
    excluded,
    find_units,
    miscomputed,
    read_otherwise,
    weight_slot,
)


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
        if context.target.activations is None:
            shapes.infer(graph)
            clear(graph)
            return tell(weights_only(graph, context), graph, context)
        found, spans = self.places(graph, context)
        choice = context.placement or solve(found.problem)
        settle(found, choice)
        choices = {"placed": choice, "all in integers": found.most, "all in float": found.least}
        times = {name: found.problem.cost(each) / 1e3 for name, each in choices.items()}
        context.results["predicted_us"] = {k: us for k, us in times.items() if np.isfinite(us)}
        annotate(found.units, spans, context.target)
        tell(found.units, graph, context)

    def places(self, graph: Graph, context: Context) -> tuple[Places, dict[Value, Span]]:
        """The problem of placing `graph`, and known ranges. Clears an earlier plan."""
        shapes.infer(graph)
        clear(graph)
        units, spans = candidates(graph, context)
        found = places(units, graph, context.target)
        if context.losses is not None:
            price(found.problem, units, graph, context.losses)
        return found, spans


def candidates(graph: Graph, context: Context) -> tuple[list[Unit], dict[Value, Span]]:
    """All units, each with the reason if it must stay float, and the ranges around the others."""
    units = find_units(graph, context.target, context.exclude)
    spans = known_spans(units, context)
    rule = context.target.activations
    if rule is not None and rule.dtype.bits <= 8:
        keep_tail(units)
    return units, spans


def annotate(units: list[Unit], spans: dict[Value, Span], target: Target) -> None:
    """Write down what `Unit.integer` says: precisions, and the grids that follow."""
    assign_grids(units, spans, target)
    for unit in units:
        unit.node.precision = "int8" if unit.integer else "float"
        if unit.after is not None:
            unit.after.precision = unit.node.precision


def clear(graph: Graph) -> None:
    """Remove the annotations of an earlier plan."""
    for value in graph.values():
        value.quant = None
    for node in graph.order():
        node.precision = None


def known_spans(units: list[Unit], context: Context) -> dict[Value, Span]:
    """Ranges of the activations around all units; a unit that lacks one gets a reason."""
    assert context.calibration is not None
    answers, spans = results_of_graph(units), dict[Value, Span]()
    for unit in units:
        if unit.kind is None or unit.reason:
            continue
        operands = [v for _, v in data_inputs(unit.node) if v.const is None]
        for value in (*operands, *unit.results):
            known = context.calibration.get(value)
            if known is not None and (value.producer is None or value in answers):
                # What an input's grid clips is lost to the whole model: 22.9 dB at best on
                # MobileNet-v2 with the mean of the extremes, 36 dB with the extremes. The largest
                # elements of an output are the answer: where they are clipped, classes are equal.
                spans[value] = (float(known.seen_low), float(known.seen_high))
            elif known is not None:
                spans[value] = (float(known.low), float(known.high))
            elif unit.kind == "agnostic" and value not in operands and operands[0] in spans:
                spans[value] = spans[operands[0]]
        missing = [v.name for v in (*operands, *unit.results) if v not in spans]
        if missing:
            unit.reason = f"the range of '{missing[0]}' is unknown"
    return spans


def results_of_graph(units: list[Unit]) -> set[Value]:
    """Outputs of the graph, and what data movers carry there."""
    found: set[Value] = set()
    for unit in reversed(units):
        found.update(value for value in unit.results if value.is_output)
        if unit.kind == "agnostic" and found.intersection(unit.results):
            found.update(value for _, value in data_inputs(unit.node))
    return found


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


def assign_grids(units: list[Unit], spans: dict[Value, Span], target: Target) -> None:
    """Set `Value.quant` of activations, of weights and of constant operands."""
    wanted = demanded(units, target)
    groups: Groups = group(units, wanted, spans, target)
    ranges = spans_of_groups(units, wanted, groups, spans)
    rule = target.activations
    assert rule is not None
    grids = {
        root: grid(low, high, rule.dtype, symmetric=rule.symmetric)
        for root, (low, high) in ranges.items()
    }
    members = Counter(map(groups.find, wanted))
    for value in wanted:
        root, brought = groups.find(value), brought_grid(value, rule)
        if brought is not None and (members[root] == 1 or covers(brought, ranges[root])):
            grids[root] = brought
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
        assign_weights(unit, target)


def covers(info: QuantInfo, span: Span) -> bool:
    """True when a grid per tensor holds a range, up to half a step."""
    (low, high), half = info.range, info.scale / 2
    return bool(low - half <= span[0] and span[1] <= high + half)


def assign_weights(unit: Unit, target: Target) -> None:
    """Set the grid of an operator's constant weights, if it has any."""
    slot = weight_slot(unit.node)
    weights = unit.node.inputs[slot] if slot is not None else None
    rule = rule_of(unit.node, target)
    if weights is not None and rule is not None:
        weights.quant = weight_grid(finite(weights, unit), unit.node, rule)


def weights_only(graph: Graph, context: Context) -> list[Unit]:
    """Plan for weights as integers and activations in float: no engine needs a kernel for that."""
    kept = dict.fromkeys(quantized_already(graph), ALREADY)
    left_out = excluded(graph, context.exclude) | kept
    units = [Unit(node, None, None) for node in graph.order()]
    for unit in units:
        node, rule = unit.node, rule_of(unit.node, context.target)
        unit.reason = (
            left_out.get(node) or no_stored_weights(node, left_out) or miscomputed(node, rule)
        )
        unit.node.precision = "float"
        if not unit.reason:
            assign_weights(unit, context.target)
    return units


def no_stored_weights(node: Node, left_out: Collection[Node]) -> str:
    """Why an operator has no weights that can be stored as integers; empty when it has."""
    slot = weight_slot(node) if not node.domain else None
    weights = node.inputs[slot] if slot is not None else None
    if weights is None:
        return "it has no weights"
    if not weights.is_constant or weights.dtype is not DType.FLOAT:
        return "its weights are not constant float"
    if (other := read_otherwise(node)) is not None:
        return f"its weights are those of {other.label}, too, which reads them another way"
    kept = next((other for other in weights.consumers if other in left_out), None)
    return f"its weights are those of {kept.label}, too, which stays in float" if kept else ""


def finite(value: Value, unit: Unit) -> Array:
    """The elements of a constant; `DataError` when one is NaN or infinite."""
    data = value.numpy()
    if not np.isfinite(data).all():
        raise DataError(
            f"weights '{value.name}' of {unit.node.label} contain NaN or infinity; "
            "repair the model, or keep the operator in float with --exclude"
        )
    return data


def tell(units: list[Unit], graph: Graph, context: Context) -> None:
    """Report what became of every unit."""
    report = context.report
    report.matched = sum(u.kind is not None or not u.reason for u in units)
    report.rewritten = sum(not u.reason for u in units)
    for unit in units:
        if unit.reason:
            report.skip(unit.reason, unit.node)
    bodies = sum(len(part) for part in graph.graphs() if part is not graph)
    if bodies:
        report.note(f"{bodies} operators inside bodies of If, Loop or Scan stay in float")
    context.results["plan"] = [
        {
            "node": unit.node.name,
            "op": unit.node.op,
            "precision": "int8" if unit.integer else "float",
            "weights": stored_weights(unit.node),
            "reason": unit.reason,
            **(dataclasses.asdict(unit.explanation) if unit.explanation else {}),
        }
        for unit in units
    ]
    stored = Counter(stored_weights(unit.node) for unit in units)
    types = {name: count for name, count in stored.items() if name not in ("", "float")}
    if len(types) > 1:
        told = ", ".join(f"{count} {name}" for name, count in sorted(types.items()))
        report.note(f"layers by type of their weights: {told}")
    for what, found in (
        ("in integers", (u.node.op for u in units if u.integer)),
        ("weights in integers", (u.node.op for u in units if not (u.integer or u.reason))),
    ):
        counts = ", ".join(f"{n} {op}" for op, n in Counter(found).most_common())
        if counts:
            report.note(f"{what}: {counts}")


def stored_weights(node: Node) -> str:
    """How the weights of an operator are stored: the name of a type, "" where there are none."""
    slot = weight_slot(node)
    weights = node.inputs[slot] if slot is not None else None
    if weights is None:
        return ""
    return "float" if weights.quant is None else weights.quant.dtype.name.lower()
