"""Observers: run one sample and tell minimum, maximum and mean of many tensors.

Results are plain vectors of slots: slot k is tensor k as a whole; the channels of the tensors
where they were asked for follow after all tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .clone import clone
from .dtypes import DType
from .evaluate import Runner, reduce
from .graph import Graph, Node
from .histogram import Floats, Histogram
from .samples import Feeds
from .tensor import Array
from .value import Shape, Value

CHANNEL_BINS = 256
"""Bins of the histogram of one channel."""
_SMALL = 1 << 16
"""Elements of a constant that are looked through for negative ones."""
_NON_NEGATIVE = {
    *("Abs", "Exp", "HardSigmoid", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Relu", "Sigmoid"),
    *("Softmax", "Softplus", "Sqrt"),
}
_IF_FIRST_IS = {
    *("AveragePool", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool"),
    *("GlobalMaxPool", "Identity", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"),
    *("Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
_IF_ALL_ARE = {"Add", "Concat", "Div", "Max", "Mean", "Min", "Mul", "Sum"}


class Observed(NamedTuple):
    """A tensor to observe: the value; its channel axis (>= 0) and channels, if asked for."""

    value: Value
    axis: int | None = None
    channels: int = 0


class Seen(NamedTuple):
    """What one sample shows: a float64 per slot; +inf, -inf, 0 where a tensor is empty."""

    low: Floats
    high: Floats
    mean: Floats

    @property
    def there(self) -> NDArray[np.bool_]:
        """True for the slots that are not empty."""
        return np.asarray((self.low != np.inf) | (self.high != -np.inf) | (self.mean != 0))

    @property
    def is_finite(self) -> bool:
        """False when there is NaN or infinity in it."""
        return bool(np.isfinite(np.stack(self)[:, self.there]).all())


class Observer(Protocol):
    """Runs samples, one at a time."""

    def observe(self, feeds: Feeds) -> Seen:
        """Run one sample."""
        ...


class Reducing:
    """Reduces inside the ONNX Runtime graph and fetches nothing but the results.

    A tensor that cannot be negative is given the minimum 0 unseen. Feature maps go through
    GlobalMaxPool and GlobalAveragePool first: ONNX Runtime runs these on its blocked layout,
    where other reductions make it reorder the whole tensor.
    """

    def __init__(self, graph: Graph, observed: Sequence[Observed]) -> None:
        """Add the reductions to a copy of `graph` and open it."""
        copy, where = clone(graph)
        adder = _Adder(copy)
        positive = non_negative(copy)
        inside = [one._replace(value=where[one.value]) for one in observed]
        slots = [one._replace(axis=None, channels=1) for one in inside]
        slots += [one for one in inside if one.axis is not None]
        fetch = [adder.add("Min", t) for t in slots if t.value not in positive]
        fetch += [adder.add(op, t) for op in ("Max", "Mean") for t in slots]
        self._signed = np.repeat(
            [t.value not in positive for t in slots], [t.channels for t in slots]
        )
        self._runner = Runner(copy, fetch)

    def observe(self, feeds: Feeds) -> Seen:
        """Run one sample."""
        found = np.concatenate([np.atleast_1d(a) for a in self._runner.run(feeds)])
        size, lows = len(self._signed), np.count_nonzero(self._signed)
        high, mean = found[lows : lows + size], found[lows + size :]
        low = np.where(high > -np.inf, 0.0, np.inf)
        low[self._signed] = found[:lows]
        return Seen(low, high.astype(np.float64), mean.astype(np.float64))


class _Adder:
    """Adds reductions to a graph; parts that several share are added once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[Value, str], Value] = {}

    def add(self, op: str, one: Observed) -> Value:
        """The minimum, maximum or mean ("Min", "Max", "Mean"): float32 () or [channels]."""
        value = one.value
        if value.dtype is not DType.FLOAT:
            value = self.once("Cast", value, value.shape, to=int(DType.FLOAT))
        pool = {"Max": "GlobalMaxPool", "Mean": "GlobalAveragePool"}.get(op)
        shape = value.shape
        if pool and shape and one.axis in (None, 1) and _is_feature_map(shape):
            value = self.once(pool, value, shape[:2] + (1,) * (len(shape) - 2))
        return reduce(self.graph, value, f"Reduce{op}", one.axis)

    def once(self, op: str, value: Value, shape: Shape | None, **attrs: int) -> Value:
        if (value, op) not in self.made:
            made = self.graph.add(op, [value], dict(attrs)).output
            made.dtype, made.shape = DType.FLOAT, shape
            self.made[value, op] = made
        return self.made[value, op]


def _is_feature_map(shape: Shape) -> bool:
    """True for [N, C, spatial...] with known sizes but for N: only that may be 0 in a pooling."""
    return 3 <= len(shape) <= 5 and all(isinstance(d, int) and d > 0 for d in shape[1:])


class Fetching:
    """Fetches every tensor of one sample and keeps histograms.

    Attributes:
        tensors: one histogram for each.
        channels: one with a row per channel for each that has an axis.
    """

    def __init__(self, graph: Graph, observed: Sequence[Observed]) -> None:
        """Open `graph`."""
        self.observed = observed
        self.with_axis = [k for k, one in enumerate(observed) if one.axis is not None]
        self._runner = Runner(graph, [one.value for one in observed])
        self._begin()

    def _begin(self) -> None:
        channels = [self.observed[k].channels for k in self.with_axis]
        self.tensors = [Histogram() for _ in self.observed]
        self.channels = [Histogram(count, CHANNEL_BINS) for count in channels]

    def take(self) -> list[Histogram]:
        """The histograms of what was observed so far, tensors first; begins anew."""
        taken = [*self.tensors, *self.channels]
        self._begin()
        return taken

    def observe(self, feeds: Feeds) -> Seen:
        """Run one sample and count its elements; nothing is counted of a tensor with NaN or inf."""
        found = self._runner.run(feeds)
        seen = []
        for array, histogram in zip(found, self.tensors, strict=True):
            seen.append(_count(np.asarray(array, np.float32).reshape(1, -1), histogram))
        for k, rows in zip(self.with_axis, self.channels, strict=True):
            one = self.observed[k]
            data = np.moveaxis(np.asarray(found[k], np.float32), one.axis or 0, 0)
            seen.append(_count(data.reshape(one.channels, -1), rows))
        return Seen(*(np.concatenate(part) for part in zip(*seen, strict=True)))


def _count(data: Array, histogram: Histogram) -> Seen:
    """Add `data` [rows, n] to the histogram; minimum, maximum and mean of each row."""
    rows = len(data)
    if not data.size:
        return Seen(np.full(rows, np.inf), np.full(rows, -np.inf), np.zeros(rows))
    low, high = data.min(axis=1).astype(np.float64), data.max(axis=1).astype(np.float64)
    if np.isfinite(low).all() and np.isfinite(high).all():
        histogram.add(data, low, high)
    return Seen(low, high, data.mean(axis=1).astype(np.float64))


def non_negative(graph: Graph) -> set[Value]:
    """Values of `graph` that hold no negative element, whatever the inputs."""
    known: set[Value] = set()

    def is_positive(value: Value | None) -> bool:
        if value is None or not value.is_constant or value.const is None:
            return value in known
        return value.const.size <= _SMALL and bool(np.all(value.numpy() >= 0))

    for node in graph.order():
        if node.domain == "" and (
            node.op in _NON_NEGATIVE
            or (node.op in _IF_FIRST_IS and is_positive(node.input(0)))
            or (node.op in _IF_ALL_ARE and all(is_positive(v) for v in node.inputs))
            or (node.op == "Clip" and _clips_negative(node))
        ):
            known.update(node.outputs)
    return known


def _clips_negative(node: Node) -> bool:
    """True for a Clip whose lower bound is a known number >= 0 (an attribute before opset 11)."""
    bound = node.input(1)
    if bound is not None and bound.is_constant:
        return bool(np.all(bound.numpy() >= 0))
    return bound is None and node.attrs.get("min", -1.0) >= 0
