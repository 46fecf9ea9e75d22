"""Copies of graphs: simulations and trials edit the copy, the graph itself stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from .errors import GraphError
from .graph import Graph, Node
from .value import Value

Mapping = dict[Value, Value]
"""Value of the original -> its copy; a node's copy is the producer of its results' copies."""


def clone(graph: Graph) -> tuple[Graph, Mapping]:
    """A graph equal to `graph` that can be edited freely, and what became of each value.

    Operators, values and bodies are fresh; what nobody edits in place is shared: the data of
    constants, grids, model-local functions and protos kept from the file. The mapping covers the
    values of bodies too.
    """
    copier = _Copier(graph)
    return copier.graph(graph), copier.where


def extract(
    graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value]
) -> tuple[Graph, Mapping]:
    """The part of `graph` that computes `outputs` from `inputs`, copied as `clone` does.

    Args:
        graph: stays as it is.
        inputs: values of `graph` that become the inputs of the part, in this order; what computes
            them is left out.
        outputs: values of `graph` that the part returns, in this order.

    Raises:
        GraphError: `outputs` also depend on an input of `graph` that is not among `inputs`.
    """
    given = set(inputs)
    needed: set[Node] = set()
    stack = [value for value in outputs if value not in given]
    while stack:
        value = stack.pop()
        if value.producer is None and value.const is None:
            wanted = ", ".join(f"'{v.name}'" for v in outputs)
            raise GraphError(f"{wanted} also depends on '{value.name}', which is not given")
        if value.producer is not None and value.producer not in needed:
            needed.add(value.producer)
            stack.extend(v for _, v in value.producer.operands() if v not in given)
    copier = _Copier(graph)
    part = Graph(graph.name, copier.info)
    for value in inputs:
        copy = copier.value(value)
        copy.const, copy.overridable = None, False
        part.inputs.append(copy)
    copier.fill(part, graph, (node for node in graph.order() if node in needed))
    part.set_outputs([copier.value(value) for value in outputs])
    return part, copier.where


class _Copier:
    """Copies graphs and the bodies inside them, each value once."""

    def __init__(self, graph: Graph) -> None:
        info = graph.info
        self.info = replace(info, opsets=dict(info.opsets), functions=dict(info.functions))
        self.where: Mapping = {}

    def value(self, value: Value) -> Value:
        if value not in self.where:
            copy = Value(value.name, const=value.const)
            copy.dtype, copy.shape = value.dtype, value.shape
            copy.origin, copy.info, copy.quant = value.origin, value.info, value.quant
            copy.overridable = value.overridable
            self.where[value] = copy
        return self.where[value]

    def graph(self, graph: Graph) -> Graph:
        copy = Graph(graph.name, self.info)
        copy.rest = graph.rest
        copy.inputs = [self.value(value) for value in graph.inputs]
        copy.captures = {self.value(value): k for value, k in graph.captures.items()}
        self.fill(copy, graph, graph.order())
        copy.set_outputs([self.value(value) for value in graph.outputs], graph.output_names)
        return copy

    def fill(self, copy: Graph, graph: Graph, nodes: Iterable[Node]) -> None:
        """Add copies of `nodes`, which come in topological order."""
        for node in nodes:
            fresh = copy.add(
                node.op,
                [value and self.value(value) for value in node.inputs],
                {name: self._attribute(found) for name, found in node.attrs.items()},
                [self.value(value) for value in node.outputs],
                domain=node.domain,
                name=node.name,
                overload=node.overload,
                captures=[self.value(value) for value in node.captures],
            )
            fresh.rank, fresh.rest, fresh.precision = node.rank, node.rest, node.precision
        copy._serial = graph._serial  # so that nodes added later have ranks of their own

    def _attribute(self, found: Any) -> Any:
        if isinstance(found, Graph):
            return self.graph(found)
        return list(found) if isinstance(found, list) else found
