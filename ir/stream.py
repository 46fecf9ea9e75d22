"""Runs graphs whose weights exceed memory: part after part, the weights of one in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from .clone import clone, extract
from .graph import Graph, Node
from .shapes import infer
from .tensor import Array, Tensor
from .value import Value

WHOLE: ContextVar[int] = ContextVar("whole", default=1 << 31)
"""Bytes of weights up to which a graph is run as a whole: ONNX Runtime holds them twice.

Integers count as the floats they stand for: comparisons hold several quantized graphs at a time,
and what they came from was run in parts, too."""
PART = 1 / 8
"""Share of `WHOLE` that the weights of a part take, if not one operator alone takes more."""


class Runs(Protocol):
    """What a graph is run by."""

    def run(self, feeds: Mapping[str, Array]) -> list[Any]:
        """The outputs for one sample."""
        ...


class Open(Protocol):
    """Opens a session."""

    def __call__(self, graph: Graph, /) -> Runs:
        """What runs `graph`."""
        ...


@dataclass(frozen=True)
class Part:
    """Some operators that follow on each other.

    Attributes:
        graph: computes what the later parts and the caller read of them.
        gives: the names under which they find it.
        last: names that nobody reads after this part.
    """

    graph: Graph
    gives: list[str]
    last: list[str]


class Stream:
    """A graph in parts, each in a session that is open while it runs: once for every sample."""

    def __init__(self, parts: list[Part], fetch: list[str], open_session: Open) -> None:
        """Run `parts` in order and give what is called `fetch`."""
        self._parts, self._fetch, self._open = parts, fetch, open_session

    def run(self, feeds: Mapping[str, Array]) -> list[Any]:
        """The fetched values for one sample; errors as of `Runner.run`."""
        known: dict[str, Any] = dict(feeds)
        for part in self._parts:
            found = self._open(part.graph).run(known)
            known.update(zip(part.gives, found, strict=True))
            for name in part.last:
                del known[name]
        return [known[name] for name in self._fetch]


def stream(graph: Graph, fetch: Sequence[Value], open_session: Open) -> Stream | None:
    """`graph` in parts where its weights exceed `WHOLE`.

    None where they do not, and where it cannot be cut: one operator has all the weights, an input
    has a default, or a tensor between two parts is of no type that is known.
    """
    whole = WHOLE.get()
    constants = {v.const for v in graph.values() if v.const is not None}
    if sum(map(_bytes, constants)) <= whole:
        return None
    copy, where = clone(graph)
    wanted = list(dict.fromkeys(where[value] for value in fetch))
    if any(value.overridable for value in copy.inputs):
        return None
    copy.set_outputs(wanted, [f"fetch_{k}" for k in range(len(wanted))])
    copy.sweep()
    infer(copy)
    groups = _groups(copy, whole * PART)
    place = {value: k for k, group in enumerate(groups) for n in group for value in n.outputs}
    if len(groups) < 2 or any(value not in place for value in wanted):
        return None
    last = dict(place)
    for k, group in enumerate(groups):
        last.update((v, k) for node in group for _, v in node.operands() if v in place)
    last.update(dict.fromkeys(wanted, len(groups)))
    crossing = [value for value, k in place.items() if last[value] > k]
    if any(value.dtype is None for value in crossing):
        return None
    names = {value: f"between_{k}" for k, value in enumerate(crossing)}
    parts = []
    for k, group in enumerate(groups):
        gives = [value for node in group for value in node.outputs if value in names]
        reads = [value for value in crossing if place[value] < k <= last[value]]
        given = [*copy.inputs, *reads]
        part, copies = extract(copy, given, gives)
        for value in reads:
            copies[value].name = names[value]
        over = [names[value] for value in names if last[value] == k]
        parts.append(Part(part, [names[value] for value in gives], over))
    return Stream(parts, [names[where[value]] for value in fetch], open_session)


def _groups(graph: Graph, limit: float) -> list[list[Node]]:
    """The operators that follow from inputs, in order, with constants of at most `limit` each.

    What follows from constants alone (weights that are dequantized) goes with whoever reads it.
    """
    groups: list[list[Node]] = [[]]
    behind: dict[Value, frozenset[Value]] = {}
    held: set[Value] = set()
    size = 0
    for node in graph.order():
        operands = [value for _, value in node.operands()]
        constants = {v for v in operands if v.const is not None}
        constants.update(c for v in operands for c in behind.get(v, ()))
        if operands and all(v.const is not None or v in behind for v in operands):
            behind.update(dict.fromkeys(node.outputs, frozenset(constants)))
            continue
        fresh = _size(constants - held)
        size += fresh
        if groups[-1] and fresh and size > limit:
            groups.append([])
            held, size = set(), _size(constants)
        groups[-1].append(node)
        held |= constants
    return groups


def _size(constants: set[Value]) -> int:
    return sum(_bytes(value.const) for value in constants if value.const is not None)


def _bytes(tensor: Tensor) -> int:
    return max(tensor.nbytes, 4 * tensor.size)
