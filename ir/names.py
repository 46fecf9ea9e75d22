"""Names for a file: the interface keeps its own, everything else gets a unique one."""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import GraphError
from .graph import Graph, Node, Value


@dataclass
class Names:
    """The names of all values and nodes of a graph and its bodies.

    A body may repeat the names of a body beside it, as branches in files do, but never those of
    the graphs around it.

    Attributes:
        values: name of every value; "" for a result that is left out.
        nodes: name of every node.
        copies: per graph, outputs that need an Identity: an interface name for a value that has
            another name already.
    """

    values: dict[Value, str] = field(default_factory=dict)
    nodes: dict[Node, str] = field(default_factory=dict)
    copies: dict[Graph, list[tuple[Value, str]]] = field(default_factory=dict)
    outputs: dict[Graph, list[str]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _taken_nodes: set[str] = field(default_factory=set)
    _next: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> Names:
        """Name everything in `graph`, a model's or a function's, and the bodies inside."""
        names = cls()
        names._name_nodes(graph)
        names._name_graph(graph, fixed=True)
        return names

    def _name_graph(self, graph: Graph, fixed: bool) -> None:
        mine: list[str] = []
        for name in _kept(graph):
            self._claim(name, mine)
        for value in graph.inputs:
            self.values[value] = self._interface(value.name, graph, fixed, mine)
        self._name_outputs(graph, fixed, mine)
        for node in graph.order():
            for _, value in node.operands():
                self._name_value(value, mine)
            for value in node.outputs:
                self._name_value(value, mine)
        for value in graph.outputs:
            self._name_value(value, mine)
        for node in graph.order():
            for body in node.bodies.values():
                for value, position in body.captures.items():
                    self.values[value] = self.values[node.captures[position]]
                self._name_graph(body, fixed=False)
        self._taken.difference_update(mine)

    def _name_outputs(self, graph: Graph, fixed: bool, mine: list[str]) -> None:
        names, copies = [], []
        inputs = set(graph.inputs)
        for value, wanted in zip(graph.outputs, graph.output_names, strict=True):
            if value in inputs and value.name == wanted and self.values[value] not in names:
                names.append(self.values[value])
                continue
            name = self._interface(wanted, graph, fixed, mine)
            own = value.producer is not None or (value.const is not None and value.name == wanted)
            if own and value not in inputs and value not in self.values:
                self.values[value] = name
            else:
                copies.append((value, name))
            names.append(name)
        self.outputs[graph], self.copies[graph] = names, copies

    def _interface(self, name: str, graph: Graph, fixed: bool, mine: list[str]) -> str:
        """`name` itself in a model's interface, where a clash is an error; near it in a body."""
        if not fixed:
            return self._fresh(name or "value", mine)
        if not name or name in self._taken:
            raise GraphError(
                f"graph '{graph.name}' has two inputs or outputs called '{name}'"
                if name
                else f"graph '{graph.name}' has an input or output without a name"
            )
        return self._claim(name, mine)

    def _name_value(self, value: Value, mine: list[str]) -> None:
        if value in self.values:
            return
        producer = value.producer
        name = value.name or value.origin
        if not value.name and not value.uses and producer is not None and len(producer.outputs) > 1:
            self.values[value] = ""
            return
        if not name:
            name = f"{self.nodes[producer]}_out" if producer is not None else "const"
        self.values[value] = self._fresh(name, mine)

    def _name_nodes(self, graph: Graph) -> None:
        """Names unique over all graphs: tools key on them."""
        every = [node for part in graph.graphs() for node in part.order()]
        for node in every:
            if node.name and node.name not in self._taken_nodes:
                self.nodes[node] = node.name
                self._taken_nodes.add(node.name)
        for node in every:
            if node not in self.nodes:
                self.nodes[node] = self._suffixed(node.name or node.op, self._taken_nodes)

    def _claim(self, name: str, mine: list[str]) -> str:
        self._taken.add(name)
        mine.append(name)
        return name

    def _fresh(self, name: str, mine: list[str]) -> str:
        if name in self._taken:
            name = self._suffixed(name, self._taken)
        return self._claim(name, mine)

    def _suffixed(self, base: str, taken: set[str]) -> str:
        """`base` and the first number that makes a free name; taken at once."""
        number = self._next.get(base, 1)
        while f"{base}_{number}" in taken:
            number += 1
        self._next[base] = number + 1
        taken.add(f"{base}_{number}")
        return f"{base}_{number}"


def _kept(graph: Graph) -> list[str]:
    """Names of data that nobody reads but the file keeps."""
    if graph.rest is None or not hasattr(graph.rest, "initializer"):
        return []
    sparse = [t.values.name for t in graph.rest.sparse_initializer]
    return [t.name for t in graph.rest.initializer] + sparse
