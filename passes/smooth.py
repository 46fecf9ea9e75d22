"""Moves outlying channels of activations into the weights that read them: SmoothQuant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import Graph, Node, Value, grid
from ..ir.reach import out_of_reach
from ..ir.shapes import infer
from ..ir.target import Target
from ..ir.tensor import Array
from .base import Context, Pass
from .channel_data import ChannelData, collect
from .grids import weight_grid
from .parts import multiplied
from .regions import float_constant
from .rescale import dead
from .select import rule_of
from .units import find_units

ALPHAS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of a channel's range that may move into the weights."""
WORTH = 0.8
"""The error of the layers must fall below this share of what it was: a Mul may be needed for it."""
ROWS = 256
"""Most rows of activations that are multiplied to measure the error."""


@dataclass(frozen=True)
class Smooth(Pass):
    """Divide channels that a matrix product reads by what its weights are multiplied with.

    For tensors that are made in float and read by matrix products, as those behind
    LayerNormalization and GELU are. The factors max|x|^alpha / max|w|^(1 - alpha) go into the scale
    and bias of a LayerNormalization that nothing else reads, else into a Mul. Of several alphas,
    and none, the one with the least error of the quantized products on samples stays. Source: Xiao
    et al. 2022, SmoothQuant, arXiv:2211.10438.

    Attributes:
        samples: use at most so many.
        limit: factors lie between 1/limit and limit.
    """

    name: ClassVar[str] = "smooth"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded")
    invalidates: ClassVar[tuple[str, ...]] = ("ranges", "plan")
    preserves_function: ClassVar[bool] = True

    samples: int = 32
    limit: float = 100.0

    def __post_init__(self) -> None:
        """Check the options."""
        if self.samples < 1 or not self.limit > 1:
            raise ValueError("samples must be at least 1, limit greater than 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Smooth every tensor that gains."""
        infer(graph)
        products = find_products(graph, context.target)
        context.report.matched = len(products)
        if not products:
            return
        if context.target.activations is None or context.target.weights is None:
            context.report.note("activations or weights stay in float: nothing to balance")
            return
        samples = context.need_samples(self.name).head(self.samples)
        with context.progress("smoothing", len(samples)) as advance:
            axes: dict[Value, int | None] = {v: v.rank - 1 for v in products if v.rank}
            data = collect(graph, axes, samples, advance)
        for value, readers in products.items():
            if value not in data:
                context.report.skip("its elements are not known or not finite", value)
                continue
            factors = best_factors(data[value], readers, context.target, self.limit)
            if factors is None:
                context.report.skip("no alpha lowers the error of what reads it by 1 dB", value)
                continue
            divide(graph, value, readers, factors)
            context.report.rewritten += 1


def find_products(graph: Graph, target: Target) -> dict[Value, list[Node]]:
    """Tensors that are made in float anyway, each with the products with weights that read it."""
    hidden = out_of_reach(graph)
    in_float: set[Value] = set()
    for unit in find_units(graph, target):
        follows = unit.kind != "compute" and any(v in in_float for v in unit.node.inputs)
        if unit.kind is None or unit.reason or follows:
            in_float.update(unit.results)
    found: dict[Value, list[Node]] = {}
    for node in graph.order():
        value = node.input(0)
        weights = float_constant(node, 1) if node.is_op("MatMul", "Gemm") else None
        if value not in in_float or value in hidden or weights is None or node.attrs.get("transA"):
            continue
        if target.kind(node.op) == "compute" and len(weights.shape) == 2 and value is not None:
            found.setdefault(value, []).append(node)
    return found


def best_factors(
    data: ChannelData, readers: Sequence[Node], target: Target, limit: float
) -> Array | None:
    """The factors with the least error of the products; None where none of them is worth it."""
    weights = [_by_input(reader) for reader in readers]
    strongest = np.max([np.maximum(w.max(axis=1), -w.min(axis=1)) for w in weights], axis=0)
    best, least = None, WORTH * _error(data, readers, weights, np.ones(len(strongest)), target)
    for alpha in ALPHAS:
        factors = smoothing_factors(data.reach, strongest, alpha, limit)
        error = _error(data, readers, weights, factors, target)
        if error < least:
            best, least = factors, error
    return best


def smoothing_factors(activations: Array, weights: Array, alpha: float, limit: float) -> Array:
    """max|x|^alpha / max|w|^(1 - alpha) relative to the typical channel; 1 for dead channels.

    Args:
        activations: largest magnitude of each channel.
        weights: largest magnitude of what multiplies it.
        alpha: 0 makes the weights of all channels alike, 1 the activations.
        limit: the factors lie in [1/limit, limit].
    """
    alive = ~(dead(activations) | dead(weights))
    x, w = (np.where(alive, np.asarray(r, np.float64), 1.0) for r in (activations, weights))
    levels = alpha * np.log(x) - (1 - alpha) * np.log(w)
    levels -= np.median(levels[alive]) if alive.any() else 0.0
    return np.where(alive, np.clip(np.exp(levels), 1 / limit, limit), 1.0)


def _error(
    data: ChannelData,
    readers: Sequence[Node],
    weights: Sequence[Array],
    factors: Array,
    target: Target,
) -> float:
    """Energy of the error of the quantized products relative to theirs, summed over readers.

    The range of the activations is that of one half of the samples, the error that of the other.
    """
    learned, unseen = data.half(odd=False), data.half(odd=True)
    rows = unseen.elements.transpose(0, 2, 1).reshape(-1, len(factors)).astype(np.float32)
    rows = rows[:: -(-len(rows) // ROWS)]
    low, high = (learned.low / factors).min(), (learned.high / factors).max()
    rule = target.activations
    assert rule is not None
    info = grid(low, high, rule.dtype, symmetric=rule.symmetric)
    rounded, error = info.fake(rows / factors.astype(np.float32)), 0.0
    for reader, matrix in zip(readers, weights, strict=True):
        scaled = _like(reader, multiplied(matrix, factors[:, None]))
        weight_rule = rule_of(reader, target)
        assert weight_rule is not None
        product = rows @ matrix
        wrong = -product
        for part, info in weight_grid(scaled, reader, weight_rule).parts(scaled.shape):
            kept = info.kept(scaled[part])
            if reader.attrs.get("transB", 0):
                wrong[:, part] += rounded @ kept.T
            else:
                wrong += rounded[:, part] @ kept
        error += float(np.square(wrong).sum() / max(np.square(product).sum(), 1e-30))
    return error


def _by_input(node: Node) -> Array:
    """The weights [inputs, outputs]."""
    weights = node.inputs[1]
    assert weights is not None
    return _like(node, weights.numpy())


def _like(node: Node, matrix: Array) -> Array:
    """Between [inputs, outputs] and the way `node` stores its weights."""
    return matrix.T if node.attrs.get("transB", 0) else matrix


def divide(graph: Graph, value: Value, readers: Sequence[Node], factors: Array) -> None:
    """Divide the channels of `value` by `factors` for `readers`, whose weights take them."""
    norm = value.producer
    assert norm is not None
    uses = {(reader, 0) for reader in readers}
    if norm.is_op("LayerNormalization") and set(value.uses) == uses and _is_affine(norm, factors):
        for slot in range(1, len(norm.inputs)):
            _replace(graph, norm, slot, 1 / factors)
    else:
        inverse = graph.constant((1 / factors).astype(np.float32), f"{value.name}_smoothing")
        smoothed = graph.add("Mul", [value, inverse], like=norm).output
        smoothed.name = f"{value.name}_smooth"
        smoothed.dtype, smoothed.shape = value.dtype, value.shape
        for reader in readers:
            graph.set_input(reader, 0, smoothed)
    for reader in readers:
        _replace(graph, reader, 1, _like(reader, factors[:, None]))


def _is_affine(norm: Node, factors: Array) -> bool:
    """True when the constants of a LayerNormalization have one element per channel."""
    constants = [float_constant(norm, slot) for slot in range(1, len(norm.inputs))]
    return all(c is not None and c.shape == factors.shape for c in constants)


def _replace(graph: Graph, node: Node, slot: int, change: Array) -> None:
    """Multiply a constant by `change`; a fresh one, as others may share it."""
    old = node.inputs[slot]
    assert old is not None
    new = multiplied(old.numpy(), change)
    graph.set_input(node, slot, graph.constant(new, old.name))
