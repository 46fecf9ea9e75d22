"""Graphs as flat tables: what they are pickled as for another process, and digested as.

Pickling the objects themselves would follow `Value.uses` from operator to operator and exceed the
depth of recursion on the first deep network.
"""

from __future__ import annotations

from typing import Any

from .graph import Graph
from .value import Value

Tables = tuple[Any, ...]
"""Plain data, constants, grids and protos; values are numbered."""


def tables(graph: Graph) -> Tables:
    """All of `graph`, bodies included: what `restored` makes the same graph of."""
    numbers: dict[Value, int] = {}

    def number(value: Value) -> int:
        return numbers.setdefault(value, len(numbers))

    inputs = [number(value) for value in graph.inputs]
    captures = [(number(value), place) for value, place in graph.captures.items()]
    nodes = [
        (
            node.op,
            node.domain,
            node.name,
            node.overload,
            [None if value is None else number(value) for value in node.inputs],
            [number(value) for value in node.outputs],
            [number(value) for value in node.captures],
            node.attrs,
            node.rank,
            node.rest,
            node.precision,
        )
        for node in graph.order()
    ]
    outputs = [number(value) for value in graph.outputs]
    values = [
        (v.name, v.origin, v.dtype, v.shape, v.info, v.const, v.overridable, v.quant)
        for v in numbers
    ]
    interface = (inputs, captures, outputs, list(graph.output_names))
    return graph.name, graph.info, graph.rest, graph._serial, values, nodes, interface


def restored(*parts: Any) -> Graph:
    """The graph of `tables`."""
    name, info, rest, serial, rows, nodes, (inputs, captures, outputs, names) = parts
    graph = Graph(name, info)
    values = [_value(*row) for row in rows]
    graph.inputs = [values[k] for k in inputs]
    graph.captures = {values[k]: place for k, place in captures}
    for op, domain, label, overload, read, made, outer, attrs, rank, kept, precision in nodes:
        node = graph.add(
            op,
            [None if k is None else values[k] for k in read],
            attrs,
            [values[k] for k in made],
            domain=domain,
            name=label,
            overload=overload,
            captures=[values[k] for k in outer],
        )
        node.rank, node.rest, node.precision = rank, kept, precision
    graph.set_outputs([values[k] for k in outputs], names)
    graph.rest, graph._serial = rest, serial
    return graph


def _value(name: str, origin: str | None, *rest: Any) -> Value:
    value = Value(name)
    value.origin = origin
    value.dtype, value.shape, value.info, value.const, value.overridable, value.quant = rest
    return value
