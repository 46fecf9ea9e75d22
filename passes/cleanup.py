"""Removes what quantization left over: double conversions, dead operators, unused data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..ir import Graph, Node, Value
from .base import Context, Pass
from .canonical.noops import bypass
from .driver import Rewriter, Rule, apply

Q, DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Cleanup(Pass):
    """Remove conversions between equal grids, dead operators and data that nobody reads."""

    name: ClassVar[str] = "cleanup"
    requires: ClassVar[tuple[str, ...]] = ("quantized",)
    establishes: ClassVar[tuple[str, ...]] = ("clean",)
    preserves_function: ClassVar[bool] = True

    def run(self, graph: Graph, context: Context) -> None:
        """Rewrite until nothing changes."""
        graph.sweep()
        apply(graph, RULES, context.report)
        for inner in graph.graphs():
            inner.sweep()
            if inner.rest is not None:
                for unread in ("initializer", "sparse_initializer"):
                    inner.rest.ClearField(unread)


def round_trip(node: Node, rw: Rewriter) -> bool:
    """Quantizing what was dequantized from the same grid gives the integers back."""
    real = node.inputs[0]
    before = real.producer if real is not None else None
    if before is None or not before.is_op(DQ) or grid_key(before) != grid_key(node):
        return False
    stored = before.inputs[0]
    if stored is None or grid_key(node) is None:
        return False
    rw.replace(node.output, stored)
    return True


def same_conversion(node: Node, rw: Rewriter) -> bool:
    """One conversion of a value to a grid serves all its readers."""
    value, key = node.inputs[0], grid_key(node)
    if value is None or key is None:
        return False
    for other in value.consumers:
        if other is node:
            return False
        if other.is_op(node.op) and other.inputs[0] is value and grid_key(other) == key:
            rw.replace(node.output, other.output)
            return True
    return False


def grid_key(node: Node) -> tuple[Any, ...] | None:
    """What tells the grid of a Q or DQ node from others, by value; None when it is computed."""
    scale, zero = node.inputs[1], node.input(2)
    if scale is None or not scale.is_constant or not (zero is None or zero.is_constant):
        return None
    steps = scale.numpy()
    dtype = _integer_type(node, zero)
    offsets = zero.numpy().tobytes() if zero is not None and zero.numpy().any() else b""
    axis, data = node.attrs.get("axis", 1), node.inputs[0]
    if data is not None and data.rank:
        axis %= data.rank
    axis = axis if steps.ndim else None
    block = node.attrs.get("block_size", 0)
    return dtype, steps.dtype, steps.shape, steps.tobytes(), offsets, axis, block


def _integer_type(node: Node, zero: Value | None) -> int | None:
    integer = zero if zero is not None else node.output if node.op == Q else node.inputs[0]
    if integer is not None and integer.dtype is not None:
        return int(integer.dtype)
    return int(node.attrs.get("output_dtype", 0)) or None


RULES = (
    Rule("round-trip", (Q,), round_trip),
    Rule("same-conversion", (Q, DQ), same_conversion),
    Rule("no-op", ("Identity",), bypass),
)
