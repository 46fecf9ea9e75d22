"""What must hold of every graph, as a table of named checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from .dtypes import DType
from .errors import GraphError
from .garbage import without_gc
from .graph import Graph, Node
from .quant import QuantInfo
from .tensor import Array
from .value import Value

Problems = Iterator[str]
_SHOWN = 20
"""Problems that a message lists in full."""
_SCALES = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)
_FEW = 16
"""Elements."""


class Part(NamedTuple):
    """A graph to check.

    Attributes:
        where: words that say which body or function of the model it is.
        graph: the graph.
        is_body: whether it is held by an attribute; names of its interface do not matter then.
        nodes: its nodes, the sink included.
        reads: every operand, by the node and the slot that read it.
        values: all its values, each once.
        bodies: the nodes that hold graphs, with these by attribute name.
    """

    where: str
    graph: Graph
    is_body: bool
    nodes: dict[Node, None]
    reads: dict[tuple[Node, int], Value]
    values: dict[Value, None]
    bodies: list[tuple[Node, dict[str, Graph]]]


def verify(graph: Graph) -> None:
    """Check `graph`, the bodies inside it and the model's functions; time linear in their size.

    Raises:
        GraphError: lists every problem with the name of the check that found it.
    """
    with without_gc():
        problems = _problems(graph)
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        lines = "\n  ".join(problems[:_SHOWN] + more)
        raise GraphError(f"graph '{graph.name}' is malformed:\n  {lines}")


def _problems(graph: Graph) -> list[str]:
    parts = list(_parts(graph))
    problems = [
        f"[{name}] {part.where}{problem}"
        for part in parts
        for name, check in CHECKS.items()
        for problem in check(part)
    ]
    return problems + [f"[one-owner] {problem}" for problem in _one_owner(parts)]


def _uses_recorded(part: Part) -> Problems:
    """Every operand lists the reader among its uses."""
    for use, value in part.reads.items():
        if use not in value.uses:
            node, slot = use
            yield f"{node.label} reads '{value.name}' as operand {slot}, which has no such use"


def _uses_true(part: Part) -> Problems:
    """Every use listed is the operand of a node of the graph."""
    if sum(len(value.uses) for value in part.values) == len(part.reads):
        return  # each operand is recorded, or `_uses_recorded` says so: there are no others
    for value in part.values:
        for use in value.uses:
            if part.reads.get(use) is not value:
                node, slot = use
                if node not in part.nodes:
                    yield f"'{value.name}' has a use by {node.label}, which is not in the graph"
                else:
                    yield f"'{value.name}' has a use as operand {slot} of {node.label}, not so"


def _edges(part: Part) -> Problems:
    """The edges are exactly those that the operands say."""
    reads = part.reads.items()
    wanted = {(v.producer, node) for (node, _), v in reads if v.producer is not None}
    found = {(node, after) for node, behind in part.graph.nx.adjacency() for after in behind}
    for producer, node in wanted - found:
        yield f"no edge from {producer.label} to {node.label}, which reads its result"
    for producer, node in found - wanted:
        yield f"edge from {producer.label} to {node.label}, which reads none of its results"


def _producers(part: Part) -> Problems:
    """Every result knows its producer and position."""
    for node in part.nodes:
        for index, value in enumerate(node.outputs):
            if value.producer is not node or value.index != index:
                yield f"result {index} of {node.label}, '{value.name}', has another producer"
            if value.const is not None:
                yield f"result '{value.name}' of {node.label} holds constant data"


def _operands_exist(part: Part) -> Problems:
    """Every operand is a result, an input, a constant or a capture of this very graph."""
    free = {*part.graph.inputs, *part.graph.captures}
    for (node, _), value in part.reads.items():
        if value.producer is None:
            if value.const is None and value not in free:
                yield f"{node.label} reads '{value.name}', which nothing produces"
        elif value.producer not in part.nodes:
            yield f"{node.label} reads '{value.name}' of another graph"


def _acyclic(part: Part) -> Problems:
    """There is an order in which the operators can run."""
    try:
        part.graph.order()
    except GraphError as error:
        yield str(error)


def _ranks(part: Part) -> Problems:
    """Ranks differ, so that the order is well defined."""
    seen: dict[tuple[float, int], Node] = {}
    for node in part.nodes:
        if node is not part.graph.sink and seen.setdefault(node.rank, node) is not node:
            yield f"{node.label} has the rank of {seen[node.rank].label}"


def _inputs(part: Part) -> Problems:
    """Inputs are listed once, have no producer, and data only as a default."""
    if len(set(part.graph.inputs)) != len(part.graph.inputs):
        yield "an input is listed twice"
    for value in part.graph.inputs:
        if value.producer is not None:
            yield f"input '{value.name}' is a result of {value.producer.label}"
        if value.is_constant:
            yield f"input '{value.name}' holds constant data but cannot be overridden"


def _outputs(part: Part) -> Problems:
    """Every output has a value and a name."""
    if part.graph.sink not in part.nodes or part.graph.sink.outputs:
        yield "the sink is damaged"
    if len(part.graph.output_names) != len(part.graph.sink.inputs):
        yield f"{len(part.graph.sink.inputs)} outputs have {len(part.graph.output_names)} names"
    for slot, value in enumerate(part.graph.sink.inputs):
        if value is None:
            yield f"output {slot} has no value"


def _interface(part: Part) -> Problems:
    """Names of inputs and outputs are unique; an input returned as it is keeps its name."""
    if part.is_body:
        return
    owners: dict[str, Value] = {}
    for value in part.graph.inputs:
        if not value.name:
            yield "an input has no name"
        elif owners.setdefault(value.name, value) is not value:
            yield f"two inputs are called '{value.name}'"
    returned = set()
    for value, name in zip(part.graph.outputs, part.graph.output_names, strict=False):
        if not name:
            yield "an output has no name"
        elif name in returned:
            yield f"two outputs are called '{name}'"
        elif owners.get(name, value) is not value:
            yield f"output '{name}' has the name of an input"
        returned.add(name)


def _constants(part: Part) -> Problems:
    """Constants have the type and shape of their data."""
    for value in part.values:
        tensor = value.const
        if tensor is None:
            continue
        if tensor.dtype is DType.UNDEFINED:
            yield f"constant '{value.name}' has no element type"
        if value.dtype != tensor.dtype:
            yield f"constant '{value.name}' is called {value.dtype!r}, its data is {tensor!r}"
        elif value.shape != tensor.shape and value.is_constant:
            yield f"constant '{value.name}' is called {value.shape}, its data is {tensor!r}"


def _captures(part: Part) -> Problems:
    """Bodies and the nodes that hold them agree on what is read of the enclosing graph."""
    holders = {node for node, _ in part.bodies}
    for node in part.nodes:
        if node.captures and node not in holders:
            yield f"{node.label} captures values but has no body"
    for node, bodies in part.bodies:
        if len(set(node.captures)) != len(node.captures):
            yield f"{node.label} captures a value twice"
        for name, body in bodies.items():
            for value, position in body.captures.items():
                where = f"'{value.name}' in {name} of {node.label}"
                if not 0 <= position < len(node.captures):
                    yield f"{where} stands for capture {position}, which the node does not have"
                elif _differ(value.dtype, node.captures[position].dtype):
                    yield f"{where} is {value.dtype!r}, {node.captures[position]!r} is not"
                if value.producer is not None or value.const is not None:
                    yield f"{where} is a stand-in with a producer or data of its own"


def _opsets(part: Part) -> Problems:
    """The model imports the operator set of every node."""
    known = {*part.graph.info.opsets, *({""} if part.graph.info.ir_version < 3 else ())}
    for node in part.nodes:
        if node.domain not in known and node is not part.graph.sink:
            yield f"{node.label} is of operator set '{node.domain}', which is not imported"


def _grids(part: Part) -> Problems:
    """Grids are sound and fit their values."""
    for value in part.values:
        if value.quant is not None:
            for problem in _grid(value, value.quant):
                yield f"grid of '{value.name}': {problem}"


def _grid(value: Value, grid: QuantInfo) -> Problems:
    if grid.dtype is DType.FLOAT16:
        if value.const is None or grid.axis is not None or np.any(grid.scale != 1):
            yield "only constants are stored in half precision, without scales"
        return
    if not grid.dtype.is_integer:
        yield f"{grid.dtype!r} is not an integer type"
        return
    if value.dtype is not None and not value.dtype.is_float and value.dtype is not grid.dtype:
        yield f"a tensor of {value.dtype!r} cannot be stored as {grid.dtype!r}"
    if grid.scale.shape != grid.zero_point.shape:
        yield f"{list(grid.scale.shape)} scales, {list(grid.zero_point.shape)} zero points"
    if not _within(grid.scale, _SCALES):
        yield "scales must be positive and finite"
    if not _within(grid.zero_point, limits := grid.dtype.integer_range):
        yield f"zero points must lie in {list(limits)}"
    if grid.integers is not None:
        if value.const is None or grid.integers.shape != value.const.shape:
            yield "integers are chosen for a constant of their shape only"
        elif not _within(grid.integers, grid.limits):
            yield f"chosen integers must lie in {list(grid.limits)}"
    if grid.axis is None:
        if grid.scale.ndim:
            yield f"{list(grid.scale.shape)} scales but no axis"
    elif value.shape is not None:
        yield from _grid_shape(value.shape, grid, grid.axis)


def _within(array: Array, limits: tuple[float, float]) -> bool:
    """True when all elements are; of a handful Python asks, as numpy's calls take longer."""
    low, high = limits
    if array.size <= _FEW:
        return all(low <= element <= high for element in array.ravel().tolist())
    return bool(np.all((low <= array) & (array <= high)))


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


CHECKS: dict[str, Callable[[Part], Problems]] = {
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


def _one_owner(parts: list[Part]) -> Problems:
    """No value belongs to two graphs: bodies see outer values only as captures."""
    owners: dict[Value, Graph] = {}
    for part in parts if len(parts) > 1 else ():
        for value in part.values:
            owner = owners.setdefault(value, part.graph)
            if owner is not part.graph:
                yield f"'{value.name}' is in '{owner.name}' and in '{part.graph.name}'"


def _parts(graph: Graph) -> Iterator[Part]:
    """The graph, its bodies and the model's functions."""
    yield from _nested(graph, "", is_body=False)
    for (domain, name, _), function in graph.info.functions.items():
        yield from _nested(function, f"function {domain}::{name}: ", is_body=False)


def _nested(graph: Graph, where: str, is_body: bool) -> Iterator[Part]:
    nodes = dict.fromkeys(graph.nx)
    reads = {(node, slot): value for node in nodes for slot, value in node.operands()}
    results = chain.from_iterable(node.outputs for node in nodes)
    values = dict.fromkeys(chain(graph.inputs, graph.captures, reads.values(), results))
    bodies = [(node, held) for node in nodes if node.attrs and (held := node.bodies)]
    yield Part(where, graph, is_body, nodes, reads, values, bodies)
    for node, held in bodies:
        for name, body in held.items():
            yield from _nested(body, f"{where}{name} of {node.label}: ", is_body=True)


def _differ(one: DType | None, other: DType | None) -> bool:
    return one is not None and other is not None and one is not other
