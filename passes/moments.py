"""What BatchNormalization tells of activations: means, deviations and ranges without samples.

A normalized channel has mean beta and deviation |gamma|: that is how the network was trained. Taken
as a normal distribution, what Relu, Clip, sums, Concat, pooling and layers without a normalization
make of it follows in closed form, with channels and operands as if independent (Nagel et al. 2019,
arXiv:1906.04721, appendix C). Everything here is an estimate; only bounds by clamps are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Node, Value
from ..ir.ranges import distinguish, key
from ..ir.tensor import Array
from ..ir.value import Shape
from .base import Report
from .layers import Layer, find_layers
from .pattern import is_constant_float
from .region_ops import visit
from .regions import Channels, Walk
from .units import clamp_limits

MOVES = frozenset({
    *("AveragePool", "Concat", "Dropout", "Flatten", "Gather", "GlobalAveragePool"),
    *("GlobalMaxPool", "Identity", "MaxPool", "ReduceMean", "Reshape", "Resize", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
})  # fmt: skip
"""Operators each element of whose results is one of an operand, or comes from neighbours in one
channel. These are alike, so mean and deviation are taken to stay; means of a maximum are larger."""
POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(33)
"""Gauss-Hermite quadrature for standard normal variables; weights sum to sqrt(2 pi)."""


def _hard_swish(x: Array) -> Array:
    return np.asarray(x * np.clip(x / 6 + 0.5, 0, 1))


def _sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "HardSwish": _hard_swish, "Sigmoid": _sigmoid, "Tanh": np.tanh,
}  # fmt: skip
"""Elementwise functions that are integrated numerically."""


@dataclass(frozen=True)
class Statistic:
    """Mean and standard deviation of the channels (axis 1) of a tensor, float64 [channels]."""

    mean: Array
    deviation: Array


@dataclass(frozen=True)
class Moments:
    """A tensor's distribution; float64 arrays that broadcast against the tensor.

    Attributes:
        mean, variance: of the elements.
        low, high: the range that is expected.
    """

    mean: Array
    variance: Array
    low: Array
    high: Array

    def channels(self, axis: int, count: int) -> Moments | None:
        """Those of `count` channels along `axis`, arrays [count]; None when other axes differ."""
        n = self.mean.size
        if n != 1 and (n != count or self.mean.shape[axis] != count):
            return None
        parts = (self.mean, self.variance, self.low, self.high)
        return Moments(*(np.broadcast_to(part.reshape(-1), count) for part in parts))

    def clipped(self, low: Array | float, high: Array | float) -> Moments:
        """Behind a clamp to [low, high], which broadcast against the tensor."""
        mean, variance = clipped_normal(self.mean, np.sqrt(self.variance), low, high)
        return Moments(mean, variance, clamped(self.low, low, high), clamped(self.high, low, high))

    def moved(self, factor: Array | float, term: Array | float) -> Moments:
        """Of x * factor + term."""
        ends = np.stack([self.low * factor + term, self.high * factor + term])
        mean = self.mean * factor + term
        variance = np.broadcast_to(self.variance * np.square(factor), mean.shape)
        return Moments(mean, variance, ends.min(axis=0), ends.max(axis=0))


def clipped_normal(
    mean: Array, deviation: Array, low: Array | float, high: Array | float
) -> tuple[Array, Array]:
    """Mean and variance of a normal variable clamped to [low, high]; bounds may be infinite.

    Args:
        mean: float64.
        deviation: float64, same shape, not negative; 0 stands for a constant.
        low: lower bound, broadcasts against the mean.
        high: upper bound, not below `low`.
    """
    from scipy.special import ndtr  # a quarter of a second, spent where it is needed

    spread = np.where(deviation > 0, deviation, 1.0)
    a, b = (low - mean) / spread, (high - mean) / spread
    below, above = ndtr(a), ndtr(-b)
    inside = 1 - below - above
    edge_a, edge_b = (np.exp(-np.square(z) / 2) / np.sqrt(2 * np.pi) for z in (a, b))
    # nothing is clamped at an infinite bound: its terms are 0
    a, b, low_term, high_term = (np.where(np.isfinite(z), z, 0.0) for z in (a, b, low, high))
    # of the part inside, first and second moment about the mean, in deviations
    first = edge_a - edge_b
    second = inside + a * edge_a - b * edge_b
    total = mean * inside + spread * first + low_term * below + high_term * above
    square = mean**2 * inside + 2 * mean * spread * first + spread**2 * second
    square = square + low_term**2 * below + high_term**2 * above
    fixed = deviation <= 0
    found = np.where(fixed, clamped(mean, low, high), total)
    return found, np.where(fixed, 0.0, np.maximum(square - total**2, 0.0))


def clamped(x: Array | float, low: Array | float, high: Array | float) -> Array:
    """`x` within [low, high]; numpy's `clip` takes several times as long for a few elements."""
    return np.asarray(np.minimum(np.maximum(x, low), high))


# -- recording ------------------------------------------------------------------------------------


def record(graph: Graph, statistics: dict[str, Statistic]) -> None:
    """Remember what every BatchNormalization of `graph` (not of its bodies) makes."""
    nodes = [node for node in graph.order() if node.is_op("BatchNormalization")]
    if nodes:
        distinguish(graph)
    for node in nodes:
        constants = node.inputs[1:5]
        if node.attrs.get("training_mode", 0) or not all(map(is_constant_float, constants)):
            continue
        gamma, beta, _, variance = (v.numpy().astype(np.float64) for v in constants if v)
        deviation = np.sqrt(variance / (variance + node.attrs.get("epsilon", 1e-5)))
        statistics[key(node.output)] = Statistic(beta, np.abs(gamma) * deviation)


def follow(
    statistics: dict[str, Statistic],
    channels: Channels,
    factors: Array,
    amounts: Array | None = None,
) -> None:
    """Let statistics follow channels from which `amounts` were taken and that `factors` divide."""
    for value, ids in channels.of.items():
        known = statistics.get(key(value))
        if known is None:
            continue
        if ids.ndim < 2 or ids.size != ids.shape[1]:
            del statistics[key(value)]
            continue
        along = ids.reshape(-1)
        shift = 0.0 if amounts is None else amounts[along]
        statistics[key(value)] = Statistic(
            (known.mean - shift) / factors[along], known.deviation / factors[along]
        )


# -- propagating ----------------------------------------------------------------------------------


def propagate(
    graph: Graph, statistics: Mapping[str, Statistic], reach: float = 6.0
) -> dict[Value, Moments]:
    """The moments of every tensor of `graph` that follow from `statistics`.

    Args:
        graph: with shapes.
        statistics: of some tensors.
        reach: deviations from the mean that a range covers.
    """
    layers = {layer.adder: layer for layer in find_layers(graph, Report(""))}
    found: dict[Value, Moments] = {}
    for node in graph.order():
        for value in node.outputs:
            known = statistics.get(key(value))
            if known is not None and value.rank is not None:
                found[value] = _normal(known, value.rank, reach)
        if not any(value in found for value in node.outputs):
            results = _through(node, found, layers)
            found.update(zip(node.outputs, results, strict=False))
    return found


def _normal(known: Statistic, rank: int, reach: float) -> Moments:
    shape = [-1 if k == 1 else 1 for k in range(rank)]
    mean, deviation = known.mean.reshape(shape), known.deviation.reshape(shape)
    return Moments(mean, deviation**2, mean - reach * deviation, mean + reach * deviation)


def _through(
    node: Node, found: Mapping[Value, Moments], layers: Mapping[Node, Layer]
) -> Sequence[Moments]:
    """Of the results of one operator; empty when they are not known."""
    layer = layers.get(node)
    if layer is not None:
        return _layer(layer, found.get(layer.data))
    if node.domain or not node.inputs:
        return ()
    if node.op in MOVES:
        return _moved(node, found)
    if node.op in ("Add", "Mul"):
        return _arithmetic(node, found)
    if _limits(node) is not None:
        return _clamped(node, found)
    operand = found.get(node.inputs[0]) if node.inputs[0] is not None else None
    if operand is not None and node.op in FUNCTIONS:
        return [_mapped(operand, FUNCTIONS[node.op])]
    return ()


def _clamped(node: Node, found: Mapping[Value, Moments]) -> Sequence[Moments]:
    """Behind clamps: of several in a row what stands before the first is normal."""
    chain, value = [], node.inputs[0]
    before: Node | None = node
    while before is not None and (limits := _limits(before)) is not None:
        chain.append(limits)
        value = before.inputs[0]
        before = value.producer if value is not None else None
    operand = found.get(value) if value is not None else None
    low: Array | float = -np.inf
    high: Array | float = np.inf
    for limits in reversed(chain):
        low, high = clamped(low, *limits), clamped(high, *limits)
    return [operand.clipped(low, high)] if operand is not None else ()


def _limits(node: Node) -> tuple[Array | float, Array | float] | None:
    """Bounds of Relu, Clip, Min and Max between which the first operand passes."""
    if not node.is_op("Min", "Max"):
        return clamp_limits(node)
    constant = node.input(1)
    if constant is None or not is_constant_float(constant) or len(node.inputs) != 2:
        return None
    bound = constant.numpy().astype(np.float64)
    return (-np.inf, bound) if node.op == "Min" else (bound, np.inf)


def _layer(layer: Layer, data: Moments | None) -> Sequence[Moments]:
    """Of a weighted sum of independent terms, and a bias."""
    rank = layer.output.rank
    given = data.channels(layer.axis, layer.inputs) if data is not None else None
    if given is None or rank is None:
        return ()
    weights = layer.weights.numpy().astype(np.float64)
    reached = np.maximum(given.high - given.mean, given.mean - given.low)
    squares = np.square(weights)
    mean = layer.response(weights, given.mean[None])
    variance, beyond = (
        layer.response(squares, row[None]) for row in (given.variance, np.square(reached))
    )
    if layer.bias is not None:
        mean = mean + layer.bias.numpy().reshape(1, -1)
    axes = [-1 if k == layer.axis % rank else 1 for k in range(rank)]
    mean, variance, reached = (a.reshape(axes) for a in (mean, variance, np.sqrt(beyond)))
    return [Moments(mean, variance, mean - reached, mean + reached)]


def _moved(node: Node, found: Mapping[Value, Moments]) -> Sequence[Moments]:
    """Of data movers: the analysis of channels tells which element comes from where."""
    walk, rows = Walk("scale", caps=False), [np.zeros((4, 1))]
    for value in dict.fromkeys(v for v in node.inputs if v is not None and v in found):
        moments = found[value]
        parts = np.stack([moments.mean, moments.variance, moments.low, moments.high])
        if node.op == "Concat" and value.shape:
            parts = _spread(parts, int(node.attrs["axis"]) % len(value.shape), value.shape)
        walk.fresh(value, parts.shape[1:])
        rows.append(parts.reshape(4, -1))
    table = np.concatenate(rows, axis=1)
    visit(walk, node)
    results = []
    for value in node.outputs:
        ids = walk.of.get(value)
        if ids is None or not ids.size or ids.min() == 0 or ids.max() >= table.shape[1]:
            return ()
        results.append(Moments(*(row[ids] for row in table)))
    return results


def _spread(parts: Array, axis: int, shape: Shape) -> Array:
    """`parts` with all elements along `axis` of the tensor, where their number is known."""
    size = shape[axis]
    if not isinstance(size, int):
        return parts
    return np.broadcast_to(parts, (*parts.shape[: axis + 1], size, *parts.shape[axis + 2 :]))


def _arithmetic(node: Node, found: Mapping[Value, Moments]) -> Sequence[Moments]:
    """Of sums and products of independent operands, or with a constant."""
    for value, other in (node.inputs, node.inputs[::-1]):
        if value is not None and value in found and other and is_constant_float(other):
            constant = other.numpy().astype(np.float64)
            factor, term = (1.0, constant) if node.op == "Add" else (constant, 0.0)
            return [found[value].moved(factor, term)]
    x, z = (found.get(value) if value is not None else None for value in node.inputs)
    if x is None or z is None or _related(*node.inputs):
        return ()
    if node.op == "Mul":
        ends = np.stack([a * b for a in (x.low, x.high) for b in (z.low, z.high)])
        power = (x.variance + x.mean**2) * (z.variance + z.mean**2)
        mean = x.mean * z.mean
        return [Moments(mean, power - mean**2, ends.min(axis=0), ends.max(axis=0))]
    mean = x.mean + z.mean
    up, down = np.hypot(x.high - x.mean, z.high - z.mean), np.hypot(x.mean - x.low, z.mean - z.low)
    return [Moments(mean, x.variance + z.variance, mean - down, mean + up)]


def _related(a: Value | None, b: Value | None) -> bool:
    """True when one operand is computed from the other at once, as in x * Sigmoid(x)."""
    pairs = ((a, b), (b, a))
    return a is b or any(u and u.producer and v in u.producer.inputs for u, v in pairs)


def _mapped(operand: Moments, function: Callable[[Array], Array]) -> Moments:
    """Behind a function of one variable."""
    rank = operand.mean.ndim
    points, weights = (a.reshape(-1, *(1,) * rank) for a in (POINTS, WEIGHTS / WEIGHTS.sum()))
    values = function(operand.mean + np.sqrt(operand.variance) * points)
    mean = (weights * values).sum(axis=0)
    variance = (weights * np.square(values - mean)).sum(axis=0)
    ends = function(np.linspace(operand.low, operand.high, 129))
    return Moments(mean, variance, ends.min(axis=0), ends.max(axis=0))
