"""A quantized graph as people look at it: operators and tensors, conversions as marks on these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx

from ..ir import Graph, Node, Value
from .distribution import grid_of

Precision = Literal["integer", "weights", "float", ""]
PAIR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Operator:
    """An operator, or an input or output of the graph.

    Attributes:
        name: its own, or its first result's; of an input or output the interface's.
        op: its type; "input" and "output" stand for the ends.
        precision: "integer", "weights" (it computes in float and its weights are stored as
            integers), "float", or "" for the ends.
        shape: of its first result, as text.
        tensors: names in the source model of what it makes.
        island: number of the float island it is in, -1 outside of any.
    """

    name: str
    op: str
    precision: Precision
    shape: str = ""
    tensors: tuple[str, ...] = ()
    island: int = -1


@dataclass(frozen=True)
class Edge:
    """A tensor on its way to one reader.

    Attributes:
        source, target: indices of operators.
        tensor: its name in the source model.
        grid: what it is stored on, "" for float.
        converts: "quantize", "dequantize", "requantize" where an engine has to convert; more than
            one where a tensor between two float operators is rounded.
    """

    source: int
    target: int
    tensor: str
    grid: str = ""
    converts: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphView:
    """Operators in topological order, and the edges between them.

    Attributes:
        operators: all that compute, no QuantizeLinear and DequantizeLinear.
        edges: between them; constants have none.
        islands: how many groups of connected float operators border on integers.
    """

    operators: Sequence[Operator] = ()
    edges: Sequence[Edge] = ()
    islands: int = 0

    @staticmethod
    def of(graph: Graph) -> GraphView:
        """The view of `graph`; bodies of If, Loop and Scan are part of their operator."""
        operators, places = list[Operator](), dict[Value | Node, int]()
        for value in graph.inputs:
            if value.const is None:
                places[value] = len(operators)
                operators.append(Operator(value.name, "input", "", _shape(value)))
        for node in graph:
            if not node.is_op(*PAIR):
                places[node] = len(operators)
                operators.append(_operator(node))
        edges: list[Edge] = []
        for node in [node for node in graph if node in places]:
            read = dict.fromkeys(value for _, value in node.operands())
            edges += _edges(read, places[node], operators, places)
        for name, value in zip(graph.output_names, graph.outputs, strict=True):
            operators.append(Operator(name, "output", "", _shape(value)))
            edges += _edges([value], len(operators) - 1, operators, places)
        return _with_islands(operators, edges)


def _operator(node: Node) -> Operator:
    name = node.name or next((value.name for value in node.outputs if value.name), "")
    tensors = tuple(value.origin for value in node.outputs if value.origin)
    shape = _shape(node.output) if node.outputs else ""
    return Operator(name, node.op, _precision(node), shape, tensors)


def _precision(node: Node) -> Precision:
    if node.precision == "int8" or node.op.startswith(("QLinear", "ConvInteger", "MatMulInteger")):
        return "integer"
    makers = (value.producer for _, value in node.operands())
    stored = (maker for maker in makers if maker is not None and maker.is_op("DequantizeLinear"))
    from_constant = any(maker.inputs[0] and maker.inputs[0].const for maker in stored)
    return "weights" if from_constant else "float"


def _edges(
    read: Sequence[Value] | dict[Value, None],
    target: int,
    operators: Sequence[Operator],
    places: dict[Value | Node, int],
) -> Iterator[Edge]:
    """The edges into operator `target`, which reads the values `read`."""
    for value in read:
        chain, start = _climb(value)
        end: Value | Node = start if start.producer is None else start.producer
        if end not in places:  # a constant, or a value of an enclosing graph
            continue
        source = places[end]
        grid = next((found for node in chain if (found := _grid(node))), "")
        converts = _converts(chain, operators[source], operators[target])
        yield Edge(source, target, start.origin or start.name, grid, converts)


def _climb(value: Value) -> tuple[list[Node], Value]:
    """The conversions that `value` went through, first to last, and what went in."""
    chain: list[Node] = []
    while value.producer is not None and value.producer.is_op(*PAIR):
        chain.insert(0, value.producer)
        before = value.producer.inputs[0]
        assert before is not None
        value = before
    return chain, value


def _converts(chain: Sequence[Node], source: Operator, target: Operator) -> tuple[str, ...]:
    """What is left to convert; pairs between operators in integers are fused."""
    found = []
    quantizers = [node for node in chain if node.is_op("QuantizeLinear")]
    if quantizers and source.precision != "integer":
        found.append("quantize")
        quantizers = quantizers[1:] if chain[0] is quantizers[0] else quantizers
    between = [q for q in quantizers if q is not chain[0]]
    found += ["requantize"] * bool(between)
    dequantized = any(node.is_op("DequantizeLinear") for node in chain)
    if dequantized and target.precision != "integer":
        found.append("dequantize")
    return tuple(found)


def _grid(node: Node) -> str:
    grid = grid_of(node)
    if grid is None:
        return ""
    return f"{grid.dtype.name.lower()}, scale {float(grid.scale):.4g}, zero {int(grid.zero_point)}"


def _shape(value: Value) -> str:
    if value.shape is None:
        return ""
    return "x".join("?" if size is None else str(size) for size in value.shape) or "scalar"


def _with_islands(operators: Sequence[Operator], edges: Sequence[Edge]) -> GraphView:
    """Number the groups of connected float operators that read or feed integers."""
    inner = [
        k for k, operator in enumerate(operators) if operator.precision in ("float", "weights")
    ]
    near: nx.Graph[int] = nx.Graph()
    near.add_nodes_from(inner)
    members = set(inner)
    near.add_edges_from((e.source, e.target) for e in edges if {e.source, e.target} <= members)
    integer = {k for k, operator in enumerate(operators) if operator.precision == "integer"}
    border = {e.target for e in edges if e.source in integer}
    border |= {e.source for e in edges if e.target in integer}
    groups = [group for group in nx.connected_components(near) if group & border]
    island = {k: number for number, group in enumerate(groups) for k in group}
    placed = [
        Operator(o.name, o.op, o.precision, o.shape, o.tensors, island.get(k, -1))
        for k, o in enumerate(operators)
    ]
    return GraphView(placed, edges, len(groups))
