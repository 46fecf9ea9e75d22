"""Names for a file: the interface keeps its own, everything else gets a unique one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx

from .errors import GraphError
from .graph import Graph, Node
from .value import Value


class Copy(NamedTuple):
    """An Identity that a file needs: an interface name for a value that has another name."""

    value: Value
    output: str
    node: str


@dataclass
class Names:
    """The names of all values and nodes of a graph and its bodies.

    A body may repeat the names of a body beside it, as branches in files do, but never those of
    the graphs around it. Names of nodes are unique over all of them: tools key on them.

    Attributes:
        values: name of every value; "" for a result that is left out.
        nodes: name of every node.
        outputs: per graph, the names of its outputs.
        copies: per graph, what has to be written in addition.
    """

    values: dict[Value, str] = field(default_factory=dict)
    nodes: dict[Node, str] = field(default_factory=dict)
    outputs: dict[Graph, list[str]] = field(default_factory=dict)
    copies: dict[Graph, list[Copy]] = field(default_factory=dict)
    _visible: set[str] = field(default_factory=set)
    _scope: list[str] = field(default_factory=list)
    _taken_nodes: set[str] = field(default_factory=set)
    _next: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> Names:
        """Name everything in `graph`, a model's or a function's, and the bodies inside.

        Raises:
            GraphError: two inputs or outputs have the same name, or one has none.
        """
        names = cls()
        names._name_nodes(graph)
        names._name_graph(graph, is_body=False)
        return names

    def _name_graph(self, graph: Graph, is_body: bool) -> None:
        around, self._scope = self._scope, []
        for name in _kept(graph):
            self._claim(name)
        for value in graph.inputs:
            self.values[value] = self._interface(value.name, graph, is_body)
        self._name_outputs(graph, is_body)
        self._name_inner(graph)
        for node in graph.order():
            for body in node.bodies.values():
                for value, position in body.captures.items():
                    self.values[value] = self.values[node.captures[position]]
                self._name_graph(body, is_body=True)
        self._visible.difference_update(self._scope)
        self._scope = around

    def _interface(self, name: str, graph: Graph, is_body: bool) -> str:
        """`name` itself for a model, where a clash is an error; a body's need not be kept."""
        if is_body:
            return self._fresh(name or "value")
        if not name:
            raise GraphError(f"graph '{graph.name}' has an input or output without a name")
        if name in self._visible:
            raise GraphError(f"graph '{graph.name}' has two inputs or outputs called '{name}'")
        return self._claim(name)

    def _name_outputs(self, graph: Graph, is_body: bool) -> None:
        """Name the outputs, and the values behind them where these are free to take the name."""
        names: list[str] = []
        copies: list[Copy] = []
        inputs = set(graph.inputs)
        for value, wanted in zip(graph.outputs, graph.output_names, strict=True):
            passed_on = value in inputs and value.name == wanted
            if passed_on and self.values[value] not in names:
                names.append(self.values[value])
                continue
            names.append(self._interface(wanted, graph, is_body))
            named_so = value.const is not None and value.name == wanted
            if value not in self.values and (value.producer is not None or named_so):
                self.values[value] = names[-1]
            else:
                node = self._suffixed("Identity", self._taken_nodes)
                copies.append(Copy(value, names[-1], node))
        self.outputs[graph], self.copies[graph] = names, copies

    def _name_inner(self, graph: Graph) -> None:
        """Name operands and results; those that have a free name of their own come first."""
        rest = []
        for value in graph.values():
            if value in self.values or value in graph.captures:
                continue
            if value.name and value.name not in self._visible:
                self.values[value] = self._claim(value.name)
            else:
                rest.append(value)
        for value in rest:
            self.values[value] = self._derived(value)

    def _derived(self, value: Value) -> str:
        producer = value.producer
        if not value.name and not value.uses and producer is not None and len(producer.outputs) > 1:
            return ""
        made = "constant" if producer is None else f"{self.nodes[producer]}_out"
        return self._fresh(value.name or value.origin or made)

    def _name_nodes(self, graph: Graph) -> None:
        unnamed = []
        for part in graph.graphs():
            for node in part.order():
                if node.name and node.name not in self._taken_nodes:
                    self.nodes[node] = node.name
                    self._taken_nodes.add(node.name)
                else:
                    unnamed.append(node)
        for node in unnamed:
            self.nodes[node] = self._suffixed(node.name or node.op, self._taken_nodes)

    def _claim(self, name: str) -> str:
        self._visible.add(name)
        self._scope.append(name)
        return name

    def _fresh(self, name: str) -> str:
        return self._claim(self._suffixed(name, self._visible) if name in self._visible else name)

    def _suffixed(self, base: str, taken: set[str]) -> str:
        """`base` with the first number that makes a free name; taken at once."""
        number = self._next.get(base, 1)
        while f"{base}_{number}" in taken:
            number += 1
        self._next[base] = number + 1
        taken.add(f"{base}_{number}")
        return f"{base}_{number}"


def _kept(graph: Graph) -> Iterator[str]:
    """Names of data that nobody reads but the file keeps."""
    if isinstance(graph.rest, onnx.GraphProto):
        yield from (tensor.name for tensor in graph.rest.initializer)
        yield from (sparse.values.name for sparse in graph.rest.sparse_initializer)
