"""Batch normalization and per-channel constants move into the weights of their neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import Graph, Node, Value
from ..ir.tensor import Array
from .absorb import absorb_after, absorb_before, spread
from .base import Context, Pass, Skip, single_reader
from .canonical import relu
from .canonical.arithmetic import collapse
from .canonical.gates import ends_gelu
from .driver import Rewriter, Rule, apply
from .linear_weights import LINEAR
from .moments import record
from .pattern import is_constant_float


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold BatchNormalization and per-channel Mul and Add into convolutions and matrix products.

    Backwards into the producer, also through Relu, pooling and Concat where that is exact, else
    forwards into the readers. What is left of a BatchNormalization is one Mul and one Add.

    Options:
        max_spread: largest ratio of the factors of two channels that may move over an Add, past
            which one channel would lose the others' grid.
    """

    name: ClassVar[str] = "fold-bn"
    requires: ClassVar[tuple[str, ...]] = ("canonical",)
    establishes: ClassVar[tuple[str, ...]] = ("folded",)
    invalidates: ClassVar[tuple[str, ...]] = ("ranges", "plan")
    preserves_function: ClassVar[bool] = True

    max_spread: float = 4.0

    def run(self, graph: Graph, context: Context) -> None:
        """Fold until nothing changes."""
        record(graph, context.statistics)
        rules = [
            Rule("fold-backwards", ("BatchNormalization", "Mul", "Add"), backwards),
            Rule("fold-forwards", ("Mul", "Add"), forwards),
            Rule("factor-over-sum", ("Add",), self._factor_over_sum),
            Rule("sum-after-pooling", ("MaxPool",), sum_after_pooling),
            # what could not be done while a normalization stood between
            Rule("collapse", ("Mul", "Add"), collapse),
            *relu.RULES,
        ]
        apply(graph, rules, context.report)

    def _factor_over_sum(self, node: Node, rw: Rewriter) -> bool:
        """Write x * a + b as (x + b / a) * a: the factor can then go on into the readers."""
        found = constant_operand(node)
        mul = found[0].producer if found else None
        inner = constant_operand(mul) if mul is not None and mul.is_op("Mul") else None
        if found is None or mul is None or inner is None or single_reader(found[0]) is not node:
            return False
        x, a, b = inner[0], *np.broadcast_arrays(inner[1], found[1])
        if not np.all(a != 0) or spread(a) > self.max_spread:
            return False
        forward = absorb_before(node.output, (a, np.zeros_like(a)), rw)
        if forward is None:
            return False
        dtype = x.dtype.numpy if x.dtype is not None else np.float32
        total = rw.add("Add", x, rw.constant((b / a).astype(dtype)), name=node.name, like=x)
        forward(total)
        rw.erase_unused(node)
        return True


def backwards(node: Node, rw: Rewriter) -> bool:
    """Fold y = x * scale + shift into what computes x."""
    x = node.inputs[0]
    if node.op == "BatchNormalization":
        scale, shift = _normalization(node)
    else:
        found = constant_operand(node)
        if found is None:
            return False
        x, c = found
        scale, shift = (c, np.zeros_like(c)) if node.op == "Mul" else (np.ones_like(c), c)
    assert x is not None
    is_normalization = node.op == "BatchNormalization"
    try:
        build = absorb_after(x, node, (scale, shift), rw)
        reason = "nothing before it can take it in"
    except Skip as blocked:
        if node.op == "Mul" and (scale < 0).any():
            return _magnitude_backwards(node, x, scale, rw)
        if not is_normalization:
            if x.producer is not None and x.producer.is_op(*LINEAR):
                raise
            return False
        build, reason = None, str(blocked)
    if build is None and not is_normalization:
        return False
    if build is None:
        rw.report.skip(f"not folded backwards: {reason}", node)
    new = build() if build is not None else _written_out(node, x, scale, shift, rw)
    new.dtype, new.shape = node.output.dtype, node.output.shape
    rw.replace(node.output, new)
    return True


def _magnitude_backwards(node: Node, x: Value, scale: Array, rw: Rewriter) -> bool:
    """Fold |scale| and keep its sign, where only positive factors pass."""
    if np.all(np.abs(scale) == 1):
        return False
    build = absorb_after(x, node, (np.abs(scale), np.zeros_like(scale)), rw)
    if build is None:
        return False
    scaled = build()
    scaled.dtype, scaled.shape = x.dtype, x.shape
    sign = np.where(scale < 0, -1, 1).astype(x.dtype.numpy if x.dtype is not None else np.float32)
    signed = rw.add("Mul", scaled, rw.constant(sign), name=node.name, like=node.output)
    rw.replace(node.output, signed)
    return True


def _normalization(node: Node) -> tuple[Array, Array]:
    """(scale, shift) of a BatchNormalization, shaped to broadcast against its input."""
    x, parameters = node.inputs[0], node.inputs[1:5]
    if node.attrs.get("training_mode", 0):
        raise Skip("it is in training mode")
    if not all(v is not None and is_constant_float(v) for v in parameters):
        raise Skip("its parameters are not constant")
    if x is None or x.rank is None:
        raise Skip("the rank of its input is not known")
    gamma, beta, mean, variance = (v.numpy().astype(np.float64) for v in parameters if v)
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    shape = [1, -1, *[1] * (x.rank - 2)]
    return scale.reshape(shape), (beta - mean * scale).reshape(shape)


def _written_out(node: Node, x: Value, scale: Array, shift: Array, rw: Rewriter) -> Value:
    dtype = x.dtype.numpy if x.dtype is not None else np.float32
    factor, term = (rw.constant(c.astype(dtype)) for c in (scale, shift))
    product = rw.add("Mul", x, factor, name=node.name, like=node.output)
    return rw.add("Add", product, term, name=node.name, like=node.output)


def constant_operand(node: Node) -> tuple[Value, Array] | None:
    """(x, c) of x * c or x + c, c in float64 with the rank of x; None when c would widen x."""
    x, c = node.inputs
    if x is None or c is None or not is_constant_float(c) or c.const is None:
        return None
    rank = x.rank
    if rank is None or len(c.const.shape) > rank:
        return None
    if any(
        k != 1 and k != d for k, d in zip(c.const.shape[::-1], (x.shape or ())[::-1], strict=False)
    ):
        return None
    array = c.numpy().astype(np.float64)
    return x, array.reshape((1,) * (rank - array.ndim) + array.shape)


def forwards(node: Node, rw: Rewriter) -> bool:
    """Fold x * scale, or x + shift, into everything that reads it."""
    found = constant_operand(node)
    if found is None or ends_gelu(node):
        return False
    x, c = found
    scale, shift = (c, np.zeros_like(c)) if node.op == "Mul" else (np.ones_like(c), c)
    forward = absorb_before(node.output, (scale, shift), rw)
    if forward is None:
        return False
    forward(x)
    rw.erase_unused(node)
    return True


def sum_after_pooling(node: Node, rw: Rewriter) -> bool:
    """The maximum of x + c is the maximum of x, plus c: fewer elements, and nearer to readers."""
    y = node.inputs[0]
    add = y.producer if y is not None else None
    if y is None or add is None or not add.is_op("Add") or single_reader(y) is not node:
        return False
    found = constant_operand(add)
    if found is None or len(node.outputs) > 1 or any(d != 1 for d in found[1].shape[2:]):
        return False
    pooled = rw.add("MaxPool", found[0], name=node.name, like=node.output, **node.attrs)
    new = rw.add("Add", pooled, add.inputs[1], name=add.name, like=node.output)
    rw.replace(node.output, new)
    return True
