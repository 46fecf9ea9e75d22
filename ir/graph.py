"""The graph: operators and the values between them.

`Graph.nx` is a `networkx.DiGraph` whose nodes are `Node` objects; an edge says that the second
node reads at least one value of the first. Order and multiplicity live in `Node.inputs`,
`Node.outputs` and `Value.uses`. Only `add`, `erase`, `set_input`, `replace` and `set_outputs`
change both, so that they cannot drift apart; `verify` recomputes one from the other.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import networkx as nx
import numpy as np

from .dtypes import DType
from .errors import GraphError
from .tensor import Tensor
from .value import SINK, Shape, Value


class Node:
    """One operator.

    Attributes:
        op, domain, overload: what it computes; domain "" is the ONNX standard's.
        inputs: operands by position, None for an optional one left out.
        outputs: results by position; an output nobody named has an empty name.
        captures: values of the enclosing graph that bodies in `attrs` read. A body sees them as
            values of its own, paired in `Graph.captures`; as uses they have slots -1, -2, ...
        attrs: attributes: int, float, str, bytes, lists of those, `Tensor`, `Graph`, or a proto
            that is kept as it is.
        rest: annotations of the file that have no field here, kept for saving.
        rank: place among nodes that could run in any order, see `Graph.order`.
        precision: "int8", "float" ... once a plan decided it.
    """

    __slots__ = (
        "attrs",
        "captures",
        "domain",
        "inputs",
        "name",
        "op",
        "outputs",
        "overload",
        "precision",
        "rank",
        "rest",
    )

    def __init__(self, op: str, domain: str = "", name: str = "", overload: str = "") -> None:
        """Make a node that belongs to no graph yet; `Graph.add` is the way to do it."""
        self.op = op
        self.domain = "" if domain == "ai.onnx" else domain
        self.overload = overload
        self.name = name
        self.inputs: list[Value | None] = []
        self.outputs: list[Value] = []
        self.captures: list[Value] = []
        self.attrs: dict[str, Any] = {}
        self.rest: Any = None
        self.rank: tuple[float, int] = (0.0, 0)
        self.precision: str | None = None

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    def input(self, slot: int) -> Value | None:
        """Operand `slot`, None when absent or beyond the last."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def operands(self) -> list[tuple[int, Value]]:
        """All values read, with their slots: inputs from 0, captures from -1 down."""
        read = [(slot, value) for slot, value in enumerate(self.inputs) if value is not None]
        if self.captures:
            read += [(-1 - k, value) for k, value in enumerate(self.captures)]
        return read

    @property
    def bodies(self) -> dict[str, Graph]:
        """The graphs held by attributes (If, Loop, Scan), by attribute name."""
        return {k: v for k, v in self.attrs.items() if isinstance(v, Graph)}

    def is_op(self, *ops: str) -> bool:
        """True when the node is one of the standard's operators `ops`."""
        return self.domain == "" and self.op in ops

    @property
    def label(self) -> str:
        """What messages call the node: its type and name, or its first output's when unnamed."""
        name = self.name or next((v.name for v in self.outputs if v.name), "")
        return f"{self.op} '{name}'" if name else self.op

    def __repr__(self) -> str:
        """The label."""
        return f"Node({self.label})"


@dataclass
class ModelInfo:
    """What a model file says beside its graph; shared by a graph and the bodies inside it."""

    ir_version: int = 10
    opsets: dict[str, int] = field(default_factory=lambda: {"": 21})
    functions: dict[tuple[str, str, str], Graph] = field(default_factory=dict)
    rest: Any = None

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return self.opsets.get("", 1)


class Graph:
    """Operators over `networkx`, edited through five methods; see the module's text.

    Attributes:
        nx: the dependency graph over `Node` objects, the sink included.
        inputs: the graph's inputs in order (initializers that are inputs too have `overridable`).
        sink: a node whose inputs are the graph's outputs.
        output_names: names of the interface, one per output; a file's outputs keep these names
            whatever value stands behind them.
        captures: for a body, its stand-ins for values of the enclosing graph, each with the
            position of that value in the holding node's `captures`.
        version: grows with every edit.
    """

    def __init__(self, name: str = "graph", info: ModelInfo | None = None) -> None:
        """Make an empty graph."""
        self.name = name
        self.info = info or ModelInfo()
        self.nx: nx.DiGraph[Node] = nx.DiGraph()
        self.inputs: list[Value] = []
        self.output_names: list[str] = []
        self.captures: dict[Value, int] = {}
        self.rest: Any = None
        self.sink = Node(SINK)
        self.nx.add_node(self.sink)
        self.version = 0
        self.touched: dict[Node, None] | None = None
        self._order: tuple[int, list[Node]] = (-1, [])
        self._holders: tuple[int, list[Node]] = (-1, [])  # of bodies
        self._serial = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickles: see `travel`."""
        from .travel import restored, tables

        return restored, tables(self)

    # -- reading ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of operators."""
        return len(self.nx) - 1

    def __iter__(self) -> Iterator[Node]:
        """The operators in topological order."""
        return iter(self.order())

    def __contains__(self, node: Node) -> bool:
        """True when `node` is an operator of this very graph."""
        return node in self.nx

    @property
    def outputs(self) -> list[Value]:
        """The values returned, in order."""
        return [v for v in self.sink.inputs if v is not None]

    def order(self) -> list[Node]:
        """All operators, producers first; among those that are free to run, file order decides."""
        if self._order[0] != self.version:
            self._order = (self.version, self._sort())
        return self._order[1]

    def _sort(self) -> list[Node]:
        waiting = dict(self.nx.in_degree())
        ready = [(node.rank, node) for node, n in waiting.items() if n == 0]  # ranks are unique
        heapq.heapify(ready)
        order: list[Node] = []
        while ready:
            node = heapq.heappop(ready)[1]
            order.append(node)
            for after in self.nx.succ[node]:
                waiting[after] -= 1
                if not waiting[after]:
                    heapq.heappush(ready, (after.rank, after))
        if len(order) != len(waiting):
            stuck, seen = next(node for node, n in waiting.items() if n > 0), set[Node]()
            while stuck not in seen:  # against the edges, into the cycle that it waits for
                seen.add(stuck)
                stuck = next(node for node in self.nx.pred[stuck] if waiting[node] > 0)
            raise GraphError(f"graph '{self.name}' has a cycle through {stuck.label}")
        order.remove(self.sink)
        return order

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, captures, then operands and results in topological order."""
        lists: list[Sequence[Value | None]] = [self.inputs, [*self.captures]]
        for node in self.order():
            lists += node.inputs, node.captures, node.outputs
        found = dict.fromkeys(chain(*lists, self.sink.inputs))
        return (value for value in found if value is not None)

    def graphs(self) -> Iterator[Graph]:
        """This graph and all bodies inside it, outermost first."""
        yield self
        if self._holders[0] != self.version:
            self._holders = (self.version, [n for n in self.order() if n.attrs and n.bodies])
        for node in self._holders[1]:
            for body in node.bodies.values():
                yield from body.graphs()

    def find(self, name: str) -> Value:
        """The value called `name`; `GraphError` when there is none."""
        for value in self.values():
            if value.name == name:
                return value
        raise GraphError(f"graph '{self.name}' has no value '{name}'")

    # -- editing ---------------------------------------------------------------------------------

    def input(self, name: str, dtype: DType, shape: Shape | None) -> Value:
        """Append a graph input."""
        value = Value(name, dtype, shape)
        self.inputs.append(value)
        self.version += 1
        return value

    def constant(self, array: Any, name: str = "", dtype: DType | None = None) -> Value:
        """Make a constant from an array or a `Tensor`; the graph has it once something reads it."""
        tensor = array if isinstance(array, Tensor) else Tensor(np.asarray(array), dtype=dtype)
        value = Value(name, const=tensor)
        value.origin = None
        return value

    def add(
        self,
        op: str,
        inputs: Sequence[Value | None] = (),
        attrs: dict[str, Any] | None = None,
        outputs: int | Sequence[Value] = 1,
        *,
        domain: str = "",
        name: str = "",
        overload: str = "",
        captures: Sequence[Value] = (),
        like: Node | None = None,
    ) -> Node:
        """Add an operator.

        Args:
            op: operator type.
            inputs: operands, None for an optional one left out.
            attrs: attributes; bodies must have their captures set up already.
            outputs: how many fresh results to make, or the values that become the results.
            domain: operator set.
            name: node name, may be empty.
            overload: overload of a model-local function.
            captures: values of this graph that the bodies read.
            like: take this node's place in the order (it need not stay in the graph).
        """
        node = Node(op, domain, name, overload)
        self._serial += 1
        node.rank = (like.rank[0] if like else float(self._serial), self._serial)
        node.attrs = dict(attrs or {})
        self.nx.add_node(node)
        results = [Value() for _ in range(outputs)] if isinstance(outputs, int) else outputs
        for index, value in enumerate(results):
            if value.producer is not None or value.const is not None:
                raise GraphError(f"value '{value.name}' has a producer already")
            value.producer, value.index = node, index
            node.outputs.append(value)
        for value_ in inputs:
            node.inputs.append(None)
            self._connect(node, len(node.inputs) - 1, value_)
        for value in captures:
            self.capture(node, value)
        self._changed(node)
        return node

    def capture(self, node: Node, value: Value) -> int:
        """Let the bodies of `node` read `value` of this graph; its position in `node.captures`."""
        if value in node.captures:
            return node.captures.index(value)
        node.captures.append(value)
        self._link(node, -len(node.captures), value)
        self._changed(node)
        return len(node.captures) - 1

    def erase(self, node: Node) -> None:
        """Remove an operator whose results nobody reads."""
        for value in node.outputs:
            if value.uses:
                user = next(iter(value.uses))[0]
                raise GraphError(f"cannot erase {node.label}: {user.label} reads '{value.name}'")
        for slot, value in node.operands():
            self._unlink(node, slot, value)
            if self.touched is not None and value.producer is not None:
                self.touched[value.producer] = None
        node.inputs, node.captures = [], []
        self.nx.remove_node(node)
        if self.touched is not None:
            self.touched.pop(node, None)
        self.version += 1

    def set_input(self, node: Node, slot: int, value: Value | None) -> None:
        """Make `value` operand `slot` of `node`; slots up to it are created as left out."""
        while slot >= len(node.inputs):
            node.inputs.append(None)
        old = node.inputs[slot] if slot >= 0 else node.captures[-1 - slot]
        if old is value:
            return
        if old is not None:
            self._unlink(node, slot, old)
        self._connect(node, slot, value)
        while slot >= 0 and node.inputs and node.inputs[-1] is None and node is not self.sink:
            node.inputs.pop()
        self._changed(node)

    def replace(self, old: Value, new: Value) -> None:
        """Let every reader of `old`, graph outputs included, read `new` instead.

        `new` inherits the origin of `old` unless it has one: it stands for the same FP32 tensor.
        """
        if new.origin is None:
            new.origin = old.origin
        for node, slot in list(old.uses):
            self.set_input(node, slot, new)

    def set_outputs(self, values: Sequence[Value], names: Sequence[str] | None = None) -> None:
        """Set the values returned; interface names default to the values' names."""
        for slot, value in self.sink.operands():
            self._unlink(self.sink, slot, value)
        self.sink.inputs = [None] * len(values)
        for slot, value in enumerate(values):
            self._connect(self.sink, slot, value)
        self.output_names = list(names) if names is not None else [v.name for v in values]
        self._changed(self.sink)

    def set_attrs(self, node: Node, **attrs: Any) -> None:
        """Set attributes of an operator; None removes one."""
        for name, value in attrs.items():
            if value is None:
                node.attrs.pop(name, None)
            else:
                node.attrs[name] = value
        self._changed(node)

    def sweep(self) -> int:
        """Erase operators that no output needs; how many."""
        before = len(self)
        for node in reversed(self.order()):
            if not any(value.uses for value in node.outputs):
                self.erase(node)
        return before - len(self)

    # -- keeping slots and edges together ----------------------------------------------------------

    def _connect(self, node: Node, slot: int, value: Value | None) -> None:
        if slot >= 0:
            node.inputs[slot] = value
        else:
            assert value is not None
            node.captures[-1 - slot] = value
        if value is not None:
            self._link(node, slot, value)

    def _link(self, node: Node, slot: int, value: Value) -> None:
        value.uses[node, slot] = None
        if value.producer is not None:
            if value.producer not in self.nx:
                raise GraphError(f"{node.label} cannot read '{value.name}' of another graph")
            self.nx.add_edge(value.producer, node)

    def _unlink(self, node: Node, slot: int, value: Value) -> None:
        del value.uses[node, slot]
        producer = value.producer
        if producer is None:
            return
        if not any(user is node for out in producer.outputs for user, _ in out.uses):
            self.nx.remove_edge(producer, node)
        if self.touched is not None:
            self.touched[producer] = None

    def _changed(self, node: Node) -> None:
        self.version += 1
        if self.touched is not None and node is not self.sink:
            self.touched[node] = None
