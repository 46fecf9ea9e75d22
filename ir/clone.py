"""Copies of graphs: simulations and trials edit the copy, the graph itself stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .graph import Graph, ModelInfo, Value


def clone(graph: Graph) -> tuple[Graph, dict[Value, Value]]:
    """A graph equal to `graph` that can be edited freely, and what became of each value.

    Operators, values and bodies are fresh; what nobody edits in place is shared: the data of
    constants, grids, model-local functions and protos kept from the file. The mapping covers the
    values of bodies too; the copy of a node that has results is their copies' producer.
    """
    info = replace(graph.info, opsets=dict(graph.info.opsets), functions=dict(graph.info.functions))
    where: dict[Value, Value] = {}
    return _copy(graph, info, where), where


def _copy(graph: Graph, info: ModelInfo, where: dict[Value, Value]) -> Graph:
    def same(value: Value) -> Value:
        if value not in where:
            where[value] = _copy_value(value)
        return where[value]

    def attribute(found: Any) -> Any:
        if isinstance(found, Graph):
            return _copy(found, info, where)
        return list(found) if isinstance(found, list) else found

    copy = Graph(graph.name, info)
    copy.rest = graph.rest
    copy.inputs = [same(value) for value in graph.inputs]
    copy.captures = {same(value): position for value, position in graph.captures.items()}
    for node in graph.order():
        fresh = copy.add(
            node.op,
            [value and same(value) for value in node.inputs],
            {name: attribute(found) for name, found in node.attrs.items()},
            [same(value) for value in node.outputs],
            domain=node.domain,
            name=node.name,
            overload=node.overload,
            captures=[same(value) for value in node.captures],
        )
        fresh.rank, fresh.rest, fresh.precision = node.rank, node.rest, node.precision
    copy.set_outputs([same(value) for value in graph.outputs], graph.output_names)
    copy._serial = graph._serial  # so that nodes added to the copy have ranks of their own
    return copy


def _copy_value(value: Value) -> Value:
    copy = Value(value.name, value.dtype, value.shape, value.const)
    copy.dtype, copy.shape = value.dtype, value.shape
    copy.origin, copy.info, copy.quant = value.origin, value.info, value.quant
    copy.overridable = value.overridable
    return copy
