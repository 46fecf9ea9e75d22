"""What must hold of every graph, as a table of named checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .dtypes import DType
from .errors import GraphError
from .graph import Graph, Node, Value
from .quant import QuantInfo

Problems = Iterator[str]
_SHOWN = 20
"""Problems that a message lists in full."""


def verify(graph: Graph) -> None:
    """Check `graph`, the bodies inside it and the model's functions; time linear in their size.

    Raises:
        GraphError: lists every problem with the name of the check that found it.
    """
    problems = [
        f"[{name}] {where}{problem}"
        for where, part in _parts(graph)
        for name, check in CHECKS.items()
        for problem in check(part)
    ]
    problems += [f"[one-owner] {problem}" for problem in _one_owner(graph)]
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        lines = "\n  ".join(problems[:_SHOWN] + more)
        raise GraphError(f"graph '{graph.name}' is malformed:\n  {lines}")


def _uses_recorded(graph: Graph) -> Problems:
    """Every operand lists the reader among its uses."""
    for node in graph.nx:
        for slot, value in node.operands():
            if (node, slot) not in value.uses:
                yield f"{node.label} reads '{value.name}' as operand {slot}, which has no such use"


def _uses_true(graph: Graph) -> Problems:
    """Every use listed is the operand of a node of the graph."""
    for value in _values(graph):
        for node, slot in value.uses:
            if node not in graph.nx:
                yield f"'{value.name}' has a use by {node.label}, which is not in the graph"
            elif value is not _operand(node, slot):
                yield f"'{value.name}' has a use as operand {slot} of {node.label}, which is another"


def _edges(graph: Graph) -> Problems:
    """The edges are exactly those that the operands say."""
    for node in graph.nx:
        wanted = {v.producer for _, v in node.operands() if v.producer is not None}
        found = set(graph.nx.pred[node])
        for producer in wanted - found:
            yield f"no edge from {producer.label} to {node.label}, which reads its result"
        for producer in found - wanted:
            yield f"edge from {producer.label} to {node.label}, which reads none of its results"


def _producers(graph: Graph) -> Problems:
    """Every result knows its producer and position."""
    for node in graph.nx:
        for index, value in enumerate(node.outputs):
            if value.producer is not node or value.index != index:
                yield f"result {index} of {node.label}, '{value.name}', has another producer"
            if value.const is not None:
                yield f"result '{value.name}' of {node.label} holds constant data"


def _operands_exist(graph: Graph) -> Problems:
    """Every operand is a result, an input, a constant or a capture of this very graph."""
    free = {*graph.inputs, *graph.captures}
    for node in graph.nx:
        for _, value in node.operands():
            if value.producer is None:
                if value.const is None and value not in free:
                    yield f"{node.label} reads '{value.name}', which nothing produces"
            elif value.producer not in graph.nx:
                yield f"{node.label} reads '{value.name}' of another graph"


def _acyclic(graph: Graph) -> Problems:
    """There is an order in which the operators can run."""
    try:
        graph.order()
    except GraphError as error:
        yield str(error)


def _ranks(graph: Graph) -> Problems:
    """Ranks differ, so that the order is well defined."""
    seen: dict[tuple[float, int], Node] = {}
    for node in graph.nx:
        if node is not graph.sink and seen.setdefault(node.rank, node) is not node:
            yield f"{node.label} has the rank of {seen[node.rank].label}"


def _inputs(graph: Graph) -> Problems:
    """Inputs are listed once, have no producer, and data only as a default."""
    if len(set(graph.inputs)) != len(graph.inputs):
        yield "an input is listed twice"
    for value in graph.inputs:
        if value.producer is not None:
            yield f"input '{value.name}' is a result of {value.producer.label}"
        if value.is_constant:
            yield f"input '{value.name}' holds constant data but cannot be overridden"


def _outputs(graph: Graph) -> Problems:
    """Every output has a value and a name."""
    if graph.sink not in graph.nx or graph.sink.outputs:
        yield "the sink is damaged"
    if len(graph.output_names) != len(graph.sink.inputs):
        yield f"{len(graph.sink.inputs)} outputs have {len(graph.output_names)} names"
    for slot, value in enumerate(graph.sink.inputs):
        if value is None:
            yield f"output {slot} has no value"


def _interface(graph: Graph) -> Problems:
    """Names of inputs and outputs are unique; an input returned as it is keeps its name."""
    owners: dict[str, Value] = {}
    for value in graph.inputs:
        if not value.name:
            yield "an input has no name"
        elif owners.setdefault(value.name, value) is not value:
            yield f"two inputs are called '{value.name}'"
    returned = set()
    for value, name in zip(graph.outputs, graph.output_names, strict=False):
        if not name:
            yield "an output has no name"
        elif name in returned:
            yield f"two outputs are called '{name}'"
        elif owners.get(name, value) is not value:
            yield f"output '{name}' has the name of an input"
        returned.add(name)


def _constants(graph: Graph) -> Problems:
    """Constants have the type and shape of their data."""
    for value in _values(graph):
        tensor = value.const
        if tensor is None:
            continue
        if tensor.dtype is DType.UNDEFINED:
            yield f"constant '{value.name}' has no element type"
        if value.dtype != tensor.dtype:
            yield f"constant '{value.name}' is called {value.dtype!r}, its data is {tensor!r}"
        elif value.is_constant and value.shape != tensor.shape:
            yield f"constant '{value.name}' is called {value.shape}, its data is {tensor!r}"


def _captures(graph: Graph) -> Problems:
    """Bodies and the nodes that hold them agree on what is read of the enclosing graph."""
    for node in graph.nx:
        if node.captures and not node.bodies:
            yield f"{node.label} captures values but has no body"
        if len(set(node.captures)) != len(node.captures):
            yield f"{node.label} captures a value twice"
        for name, body in node.bodies.items():
            for value, position in body.captures.items():
                where = f"'{value.name}' in {name} of {node.label}"
                if not 0 <= position < len(node.captures):
                    yield f"{where} stands for capture {position}, which the node does not have"
                elif _differ(value.dtype, node.captures[position].dtype):
                    yield f"{where} is {value.dtype!r}, {node.captures[position]!r} is not"
                if value.producer is not None or value.const is not None:
                    yield f"{where} is a stand-in with a producer or data of its own"


def _opsets(graph: Graph) -> Problems:
    """The model imports the operator set of every node."""
    known = {*graph.info.opsets, *({""} if graph.info.ir_version < 3 else ())}
    for node in graph.nx:
        if node.domain not in known and node is not graph.sink:
            yield f"{node.label} is of operator set '{node.domain}', which the model does not import"


def _grids(graph: Graph) -> Problems:
    """Grids are sound and fit their values."""
    for value in _values(graph):
        if value.quant is not None:
            for problem in _grid(value, value.quant):
                yield f"grid of '{value.name}': {problem}"


def _grid(value: Value, grid: QuantInfo) -> Problems:
    if not grid.dtype.is_integer:
        yield f"{grid.dtype!r} is not an integer type"
        return
    if value.dtype is not None and not value.dtype.is_float and value.dtype is not grid.dtype:
        yield f"a tensor of {value.dtype!r} cannot be stored as {grid.dtype!r}"
    if grid.scale.shape != grid.zero_point.shape:
        yield f"{list(grid.scale.shape)} scales, {list(grid.zero_point.shape)} zero points"
    if not np.all(np.isfinite(grid.scale) & (grid.scale > 0)):
        yield "scales must be positive and finite"
    low, high = grid.dtype.integer_range
    if np.any((grid.zero_point < low) | (grid.zero_point > high)):
        yield f"zero points must lie in [{low}, {high}]"
    if grid.axis is None:
        if grid.scale.ndim:
            yield f"{list(grid.scale.shape)} scales but no axis"
    elif value.shape is not None:
        yield from _grid_shape(value.shape, grid, grid.axis)


def _grid_shape(shape: tuple[int | str | None, ...], grid: QuantInfo, axis: int) -> Problems:
    if not -len(shape) <= axis < len(shape):
        yield f"axis {axis} of a tensor of rank {len(shape)}"
        return
    expected = list(shape) if grid.block else [shape[axis]]
    along = expected[axis] if grid.block else None
    if isinstance(along, int):
        expected[axis] = -(-along // grid.block)
    found = list(grid.scale.shape)
    sizes = zip(expected, found, strict=False)
    if len(found) != len(expected) or any(isinstance(e, int) and e != f for e, f in sizes):
        yield f"scales of shape {found}, the tensor {list(shape)} needs {expected}"


CHECKS: dict[str, Callable[[Graph], Problems]] = {
    "uses-recorded": _uses_recorded,
    "uses-true": _uses_true,
    "edges": _edges,
    "producers": _producers,
    "operands-exist": _operands_exist,
    "acyclic": _acyclic,
    "ranks": _ranks,
    "inputs": _inputs,
    "outputs": _outputs,
    "interface": _interface,
    "constants": _constants,
    "captures": _captures,
    "opsets": _opsets,
    "grids": _grids,
}
"""What is checked of every graph and body; each yields one line per problem."""


def _one_owner(graph: Graph) -> Problems:
    """No value belongs to two graphs: bodies see outer values only as captures."""
    owners: dict[Value, Graph] = {}
    for _, part in _parts(graph):
        for value in _values(part):
            if owners.setdefault(value, part) is not part:
                yield f"'{value.name}' is in '{owners[value].name}' and in '{part.name}'"


def _parts(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """The graph, its bodies and the model's functions, with words that say where."""
    yield from _nested(graph, "")
    for (domain, name, _), function in graph.info.functions.items():
        yield from _nested(function, f"function {domain}::{name}: ")


def _nested(graph: Graph, where: str) -> Iterator[tuple[str, Graph]]:
    yield where, graph
    for node in graph.nx:
        for name, body in node.bodies.items():
            yield from _nested(body, f"{where}{name} of {node.label}: ")


def _values(graph: Graph) -> dict[Value, None]:
    """All values, each once; unlike `Graph.values` it needs no order."""
    found = dict.fromkeys((*graph.inputs, *graph.captures))
    for node in graph.nx:
        found.update(dict.fromkeys(v for _, v in node.operands()))
        found.update(dict.fromkeys(node.outputs))
    return found


def _operand(node: Node, slot: int) -> Value | None:
    if slot >= 0:
        return node.input(slot)
    return node.captures[-1 - slot] if -slot <= len(node.captures) else None


def _differ(one: DType | None, other: DType | None) -> bool:
    return one is not None and other is not None and one is not other
