"""Which channels of which tensors must be rescaled (or shifted) together, and where that ends.

Dividing a channel by s > 0 where it is made and multiplying the weights that read it by s changes
nothing, provided that all between lets the factor through: the identity of cross-layer equalization
(Nagel et al., 1906.04721). Subtracting a constant from a channel and adding what readers make of
it to their biases is the same for linear paths. The analysis names every channel of every tensor
by a number, an id. `Channels.of[value]` is an array of ids that broadcasts against the tensor:
size 1 along the axes that share one id. Moving data is then numpy indexing of ids, so channel
shuffles, Concat or Flatten need no bookkeeping of their own. What an operator does is in
`region_ops`.

Id 0 stands for all that keeps its scale and offset. An element `x` of a tensor becomes
`x / factors[id]`, or `x - amounts[id]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..ir import DType, Graph, Node, Tensor, Value
from ..ir.tensor import Array
from .base import Skip

Kind = Literal["scale", "shift"]
UNCHANGED = "it meets a tensor that keeps its scale"


@dataclass(eq=False)
class Linear:
    """An operator with constant weights, where factors and shifts begin and end.

    Attributes:
        node: the operator.
        slot: of the weights.
        ins: ids that the weights read, in a shape that broadcasts against the weights.
        outs: ids that the weights write, likewise.
        axis: the weights' axis of output channels.
        bias: where the bias is or would be: operator and slot.
        bias_ids: ids of the bias, [output channels].
        source: the tensor read.
        result: the tensor made, bias included.
    """

    node: Node
    slot: int
    ins: Array
    outs: Array
    axis: int
    bias: tuple[Node, int]
    bias_ids: Array
    source: Value
    result: Value

    @property
    def weights(self) -> Array:
        """The constant weights."""
        value = self.node.inputs[self.slot]
        assert value is not None
        return value.numpy()

    @property
    def magnitudes(self) -> Array:
        """Largest magnitude of the weights for each pair of ids, axes with one id merged."""
        sizes = zip(self.ins.shape, self.outs.shape, strict=True)
        merged = tuple(k for k, (n, m) in enumerate(sizes) if n == m == 1)
        found: Array = np.abs(self.weights).max(axis=merged, keepdims=True)
        return found


@dataclass(eq=False)
class Offset:
    """A constant added to a tensor: it lives on the tensor's scale."""

    node: Node
    slot: int
    ids: Array


@dataclass(eq=False)
class Bound:
    """A Clip whose bounds must follow the scale of what it clips."""

    node: Node
    ids: Array


@dataclass(eq=False)
class Region:
    """Channels that one decision is about, because tensors tie them together.

    Attributes:
        ids: its ids, none of them frozen.
        values: tensors with any of these.
        producers: operators that make some of them.
        consumers: operators that end some of them.
    """

    ids: Array
    values: list[Value] = field(default_factory=list)
    producers: list[Linear] = field(default_factory=list)
    consumers: list[Linear] = field(default_factory=list)


@dataclass(eq=False)
class Channels:
    """Result of the analysis.

    Attributes:
        kind: whether ids tell about factors or about shifts.
        of: ids of each tensor that has any.
        linears: operators with weights, in topological order.
        offsets: constants that must be rescaled or shifted with their tensor.
        bounds: Clips whose bounds must be rescaled with their tensor.
        joins: (out, parts): the ids `out` of a result that depends on several operands; its
            amounts are the sums of those of `parts`. In topological order.
        label: id -> number of the set of ids that must have one factor; 0 for frozen ids.
        regions: those with at least one producer and one consumer.
        frozen: operators none of whose output channels may change, with the reason.
    """

    kind: Kind
    of: dict[Value, Array]
    linears: list[Linear]
    offsets: list[Offset]
    bounds: list[Bound]
    joins: list[tuple[Array, list[Array]]]
    label: Array
    regions: list[Region]
    frozen: list[tuple[Linear, str]]


class Walk:
    """Collects ids and what ties them, one operator after another."""

    def __init__(self, kind: Kind, caps: bool) -> None:
        """Start with no ids but 0."""
        self.kind, self.caps = kind, caps
        self.count = 1
        self.of: dict[Value, Array] = {}
        self.linears: list[Linear] = []
        self.offsets: list[Offset] = []
        self.bounds: list[Bound] = []
        self.joins: list[tuple[Array, list[Array]]] = []
        self.links: list[tuple[Array, Array]] = []
        self.freezes: list[tuple[Array, str]] = [(np.zeros(1, np.int64), UNCHANGED)]

    def fresh(self, value: Value, shape: Sequence[int]) -> Array:
        """Give `value` new ids."""
        self.of[value] = self._new(shape)
        return self.of[value]

    def _new(self, shape: Sequence[int]) -> Array:
        size = int(np.prod(shape))
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)

    def still(self, shape: Sequence[int]) -> Array:
        """New ids of channels that stay as they are."""
        ids = self._new(shape)
        self.freeze(ids, UNCHANGED)
        return ids

    def link(self, a: Array, b: Array) -> None:
        """What broadcasts together must have the same factor."""
        left, right = np.broadcast_arrays(a, b)
        self.links.append((left.ravel(), right.ravel()))

    def join(self, value: Value, parts: list[Array]) -> None:
        """Give the result of an elementwise operator new ids, that share factors with `parts`."""
        out = self.fresh(value, np.broadcast_shapes(*(p.shape for p in parts)))
        for part in parts:
            self.link(part, out)
        self.joins.append((out, parts))

    def freeze(self, ids: Array, reason: str) -> None:
        """These channels must stay as they are."""
        self.freezes.append((ids.ravel(), reason))

    def ids(self, value: Value | None, rank: int | None = None) -> Array:
        """Ids of an operand; zeros of `rank` dimensions when it has none."""
        if value in self.of:
            return self.of[value]
        rank = value.rank if rank is None and value is not None else rank
        if rank is None:
            raise Skip("the rank of an operand is unknown")
        return np.zeros((1,) * rank, np.int64)

    def along(self, value: Value | None, rank: int, axis: int, n: int) -> Array:
        """Ids [n] of the `n` channels along `axis`; zeros, frozen, when they lie otherwise."""
        ids = self.ids(value, rank)
        if ids.ndim == rank and ids.shape[axis] in (1, n) and ids.size == ids.shape[axis]:
            return np.broadcast_to(ids.ravel(), n)
        self.freeze(ids, "its channels do not lie along the axis that the weights read")
        return np.zeros(n, np.int64)


def float_constant(node: Node, slot: int) -> Tensor | None:
    """The float32 constant operand `slot`, None when it is anything else."""
    value = node.input(slot)
    constant = value is not None and value.is_constant and value.dtype is DType.FLOAT
    return value.const if constant and value is not None else None


def find_channels(graph: Graph, kind: Kind, *, caps: bool = False) -> Channels:
    """Analyse `graph` (without its bodies) for factors or for shifts.

    Shapes must be known where operators reshape or concatenate channels (`ir.shapes.infer`).
    With `caps`, factors pass a Clip with absolute bounds, which get one value per channel.
    """
    from .region_ops import visit

    walk = Walk(kind, caps)
    for node in graph.order():
        visit(walk, node)
    for value in graph.outputs:
        if value in walk.of:
            walk.freeze(walk.of[value], "the graph returns the tensor")
    label, reasons = _labels(walk)
    regions = _regions(walk, label)
    frozen = [
        (linear, reasons[ids[0]])
        for linear in walk.linears
        if (ids := linear.outs[linear.outs > 0]).size and not label[ids].any()
    ]
    return Channels(
        kind, walk.of, walk.linears, walk.offsets, walk.bounds, walk.joins, label, regions, frozen
    )


def _components(count: int, links: Iterable[tuple[Array, Array]]) -> Array:
    """Component number of each of `count` vertices."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = list(links)
    left = np.concatenate([a for a, _ in pairs]) if pairs else np.zeros(0, np.int64)
    right = np.concatenate([b for _, b in pairs]) if pairs else np.zeros(0, np.int64)
    matrix = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    found: Array = connected_components(matrix, directed=False)[1]
    return found


def _labels(walk: Walk) -> tuple[Array, dict[int, str]]:
    """Label of each id, and the first reason for each frozen id."""
    component = _components(walk.count, walk.links)
    reason_of: dict[int, str] = {}
    for ids, reason in walk.freezes:
        for c in np.unique(component[ids]):
            reason_of.setdefault(int(c), reason)
    frozen = np.isin(component, list(reason_of))
    reasons = {int(i): reason_of[int(component[i])] for i in np.flatnonzero(frozen)}
    return np.where(frozen, 0, component + 1), reasons


def _regions(walk: Walk, label: Array) -> list[Region]:
    free = {value: np.unique(ids[label[ids] > 0]) for value, ids in walk.of.items()}
    chains = [(ids[:-1], ids[1:]) for ids in free.values()]
    tie = _components(walk.count, [*walk.links, *chains])
    everyone = np.flatnonzero(label)
    everyone = everyone[np.argsort(tie[everyone], kind="stable")]
    starts = np.flatnonzero(np.diff(tie[everyone], prepend=-1))
    regions = {int(tie[ids[0]]): Region(ids) for ids in np.split(everyone, starts[1:]) if ids.size}
    for value, ids in free.items():
        for number in np.unique(tie[ids]):
            regions[number].values.append(value)
    for linear in walk.linears:
        for number in np.unique(tie[linear.outs[label[linear.outs] > 0]]):
            regions[number].producers.append(linear)
        for number in np.unique(tie[linear.ins[label[linear.ins] > 0]]):
            regions[number].consumers.append(linear)
    return [r for r in regions.values() if r.producers and r.consumers]
