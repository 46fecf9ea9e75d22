"""Where quantization adds errors to a planned graph; copies with one of them, or all but one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..ir import Graph, Value
from ..ir.clone import Mapping, clone
from ..ir.reach import out_of_reach
from ..ir.target import Target
from ..ir.tensor import Array
from .deployed import deployed
from .quant import parameters
from .units import Unit, data_inputs, find_units


@dataclass(eq=False)
class Source:
    """A tensor where quantization adds an error.

    Attributes:
        value: is stored as integers, or comes from rounded weights.
        unit: makes it in integers; None where a float operator or the caller does.
        carried: tensors that hold the same integers further on, behind data movers.
        alone: loss of each output when nothing else is quantized.
        gained: by how much the loss of each output falls when all but this is quantized; to first
            order: its error is taken off the outputs of the whole.
        rounding: part of `alone` that the tensor's own grid causes, the rest is the weights'.
    """

    value: Value
    unit: Unit | None
    carried: list[Value] = field(default_factory=list)
    alone: Array = field(default_factory=lambda: np.zeros(0))
    gained: Array = field(default_factory=lambda: np.zeros(0))
    rounding: float = 1.0

    @property
    def label(self) -> str:
        """The operator that makes the tensor, or the input."""
        node = self.value.producer if self.unit is None else self.unit.node
        return node.label if node is not None else f"input '{self.value.name}'"


def find_sources(graph: Graph, target: Target) -> list[Source]:
    """The places of a planned graph where errors come in, in topological order.

    What hands on the integers it reads adds none: data movers, and a Concat of one grid.
    """
    units = [u for u in find_units(graph, target) if u.node.precision == "int8"]
    makers = {value: unit for unit in units for value in unit.results}
    held: dict[Value, list[Source]] = {}
    sources: list[Source] = []
    for value in (*graph.inputs, *(value for node in graph.order() for value in node.outputs)):
        unit = makers.get(value)
        if unit is not None and hands_on(unit):
            read = (s for _, v in data_inputs(unit.node) for s in held.get(v, ()))
            held[value] = list(dict.fromkeys(read))
            for source in held[value]:
                source.carried.append(value)
        elif unit is not None or value.quant is not None:
            sources.append(Source(value, unit))
            held[value] = [sources[-1]]
    return sources


def hands_on(unit: Unit) -> bool:
    """True for an operator in integers whose result is made of the integers it reads."""
    if unit.kind == "agnostic":
        return True
    grids = {id(v.quant) for v in (*unit.results, *(v for _, v in data_inputs(unit.node)))}
    return unit.node.op == "Concat" and len(grids) == 1


def sources_within_reach(graph: Graph, target: Target) -> list[Source]:
    """The sources that ONNX Runtime can compute."""
    hidden = out_of_reach(graph)
    return [source for source in find_sources(graph, target) if source.value not in hidden]


def only(graph: Graph, source: Source) -> Graph:
    """A copy of a planned graph in which nothing but `source` is quantized."""
    copy, where = clone(graph)
    quantize_one(copy, where, source)
    copy.sweep()
    return copy


def quantize_one(copy: Graph, where: Mapping, source: Source) -> tuple[Value, Value, Value]:
    """Let all who read the tensor of `source` read it quantized, in a copy of its graph.

    Returns:
        The tensor as it was, with rounded weights, and rounded itself, too.
    """
    real = where[source.value]
    uses, exact = list(real.uses), real
    if source.unit is not None:
        exact = _with_rounded_constants(copy, source.unit, where)
    changed = exact if source.value.quant is None else _rounded(copy, exact, source.value)
    for reader, slot in uses:
        copy.set_input(reader, slot, changed)
    return real, exact, changed


def without(graph: Graph, source: Source, target: Target) -> Graph:
    """A copy of a planned graph, written out, in which `source` alone is not quantized."""
    copy, where = clone(graph)
    result = where[source.value]
    for value in (source.value, *source.carried):
        where[value].quant = None
    if source.unit is not None:
        node = where[source.unit.node.output].producer
        assert node is not None and result.producer is not None
        node.precision = result.producer.precision = "float"
        for operand in node.inputs:
            if operand is not None and operand.const is not None:
                others = (reader.precision for reader in operand.consumers)
                operand.quant = operand.quant if "int8" in others else None
    return deployed(copy, target)


def _with_rounded_constants(part: Graph, unit: Unit, where: Mapping) -> Value:
    """The unit's result when its constants are rounded and nothing else is."""
    operands = [
        v
        if v is None
        else part.constant(v.quant.kept(v.numpy()))
        if v.const is not None and v.quant is not None
        else where[v]
        for v in unit.node.inputs
    ]
    node, after = unit.node, unit.after
    result = part.add(node.op, operands, dict(node.attrs), domain=node.domain).output
    if after is None:
        return result
    others = [v and where[v] for v in after.inputs[1:]]
    return part.add(after.op, [result, *others], dict(after.attrs), domain=after.domain).output


def _rounded(part: Graph, exact: Value, value: Value) -> Value:
    """`exact` on the grid of `value`."""
    assert value.quant is not None
    scale, zero = parameters(part, value.quant, value.name)
    stored = part.add("QuantizeLinear", [exact, scale, zero]).output
    return part.add("DequantizeLinear", [stored, scale, zero]).output
