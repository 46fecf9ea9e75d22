"""Writes a plan out: QuantizeLinear and DequantizeLinear nodes, integer weights, int32 biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..ir import DType, Graph, Node, QuantInfo, Tensor, Value
from ..ir.garbage import without_gc
from ..ir.target import Target
from .base import Context, Pass
from .float_products import keep_in_float
from .opset import raise_opset
from .product_sums import keep_apart
from .qoperator import write_qoperator
from .sums import bias_grid, check_sums
from .units import bias_slot, data_inputs, weight_slot

MINIMUM_OPSET = 13
"""The first whose QuantizeLinear and DequantizeLinear know channels."""
RECENT_OPSET = 21
"""The first that knows 4 and 16 bits, and blocks."""
NEWEST_OPSET = 25
"""The first that knows 2 bits."""
BYTES = (DType.UINT8, DType.INT8)


@dataclass(frozen=True)
class Quantize(Pass):
    """Store planned tensors as integers, between QuantizeLinear and DequantizeLinear nodes.

    Attributes:
        format: `qdq`, or `qoperator`: integer operators (QLinearConv, and ONNX Runtime's own for
            what the standard lacks) wherever an operator reads and returns integers.
    """

    name: ClassVar[str] = "quant"
    requires: ClassVar[tuple[str, ...]] = ("plan", "filters", "accumulators")
    establishes: ClassVar[tuple[str, ...]] = ("quantized",)
    invalidates: ClassVar[tuple[str, ...]] = ("clean",)

    format: Literal["qdq", "qoperator"] = "qdq"

    def run(self, graph: Graph, context: Context) -> None:
        """Rewrite the graph."""
        check_sums(graph, context.target)
        with without_gc():
            context.report.rewritten = write_qdq(graph, context.target)
        if context.target.rounds_float_weights:
            keep_in_float(graph)
        if context.target.joins_sums:
            keep_apart(graph)
        if self.format == "qoperator":
            merged = write_qoperator(graph, context.target)
            context.report.note(f"{merged} operators read and return integers")


def needed_opset(graph: Graph) -> int:
    """The first version of the standard operators that can express the graph's grids."""
    grids = [value.quant for value in graph.values() if value.quant is not None]
    if any(info.dtype.bits == 2 for info in grids):
        return NEWEST_OPSET
    recent = any(info.block or info.dtype not in (*BYTES, DType.FLOAT16) for info in grids)
    return RECENT_OPSET if recent else MINIMUM_OPSET


def write_qdq(graph: Graph, target: Target) -> int:
    """Turn an annotated graph into Q/DQ form in place; how many values are stored as integers.

    The operator set is raised to the first that has the grids.

    A value whose producer runs in integers exists as integers only: all its readers get it
    dequantized. A value made in float is quantized for those readers that run in integers, the
    others keep reading the float. Weights that no operator in integers reads are stored as integers
    for those that multiply floats by them.
    """
    raise_opset(graph, max(needed_opset(graph), target.opset))
    integer = [node for node in graph.order() if node.precision == "int8"]
    inside = set(integer)
    stored: dict[Value, Value] = {}
    for node in integer:
        quantize_bias(graph, node, target)
    for value in list(graph.values()):
        if value.quant is None:
            continue
        if value.const is not None:
            stored[value] = constant_pair(graph, value)
        else:
            stored[value] = activation_pair(graph, value)
    for value, pair in stored.items():
        made = value.producer in inside
        assert pair.producer is not None
        quantizer = pair.producer.inputs[0].producer if pair.producer.inputs[0] else None
        uses = [use for use in value.uses if use[0] is not quantizer]
        served = uses if made else [use for use in uses if wants_integers(*use, inside)]
        if value.const is not None and not served:
            served = [(reader, slot) for reader, slot in uses if slot == weight_slot(reader)]
        for reader, slot in served:
            graph.set_input(reader, slot, pair)
    graph.sweep()
    return len(stored)


def wants_integers(node: Node, slot: int, inside: set[Node]) -> bool:
    """True when `node` runs in integers and reads slot as an activation or as weights."""
    if node not in inside:
        return False
    return slot == weight_slot(node) or any(slot == s for s, _ in data_inputs(node))


def parameters(graph: Graph, info: QuantInfo, name: str) -> tuple[Value, Value]:
    """Scale and zero point of a grid as constants."""
    zero = Tensor(info.zero_point.astype(info.dtype.numpy), dtype=info.dtype)
    return graph.constant(info.scale, f"{name}_scale"), graph.constant(zero, f"{name}_zero_point")


def constant_pair(graph: Graph, value: Value) -> Value:
    """A dequantized integer constant that stands for `value`, or one of half precision."""
    info = value.quant
    assert info is not None
    if info.dtype.is_float:
        return widened(graph, value, info)
    stored = graph.constant(info.tensor(value.numpy()), f"{value.name}_quantized")
    return dequantize(graph, stored, value, info, next(iter(value.uses))[0])


def widened(graph: Graph, value: Value, info: QuantInfo) -> Value:
    """A constant of half precision, cast to float, that stands for `value`."""
    halves = graph.constant(info.stored(value.numpy()), f"{value.name}_half")
    like = next(iter(value.uses))[0]
    name = f"{value.name}_widen"
    result = graph.add("Cast", [halves], {"to": int(DType.FLOAT)}, name=name, like=like).output
    result.name, result.dtype, result.shape = f"{value.name}_widened", value.dtype, value.shape
    return result


def activation_pair(graph: Graph, value: Value) -> Value:
    """`value` quantized and dequantized again."""
    info = value.quant
    assert info is not None
    like = value.producer or next(iter(value.uses))[0]
    scale, zero = parameters(graph, info, value.name)
    node = graph.add(
        "QuantizeLinear", [value, scale, zero], name=f"{value.name}_quantize", like=like
    )
    stored = node.output
    stored.name, stored.dtype, stored.shape = f"{value.name}_quantized", info.dtype, value.shape
    return dequantize(graph, stored, value, info, like, scale, zero)


def dequantize(
    graph: Graph,
    stored: Value,
    value: Value,
    info: QuantInfo,
    like: Node,
    scale: Value | None = None,
    zero: Value | None = None,
) -> Value:
    """The real numbers that `stored` stands for, in place of `value`."""
    if scale is None or zero is None:
        scale, zero = parameters(graph, info, value.name)
    attrs = {} if info.axis is None else {"axis": info.axis}
    if info.block:
        attrs["block_size"] = info.block
    name = f"{value.name}_dequantize"
    node = graph.add("DequantizeLinear", [stored, scale, zero], attrs, name=name, like=like)
    result = node.output
    result.name, result.dtype, result.shape = f"{value.name}_dequantized", value.dtype, value.shape
    result.origin = value.origin
    return result


def quantize_bias(graph: Graph, node: Node, target: Target) -> None:
    """Store the bias of `node`, if any, as int32 on the accumulator's grid, scale sx * sw.

    It stays in float where the sums have no one grid (blocks) or 32 bits do not hold them (operands
    of 16 bits).
    """
    slot = bias_slot(node)
    bias = node.input(slot) if slot is not None else None
    if slot is None or bias is None or bias.const is None:
        return
    data, weights = node.inputs[0], node.inputs[1]
    assert data is not None and weights is not None
    info = bias_grid(data.quant, weights.quant, target.bias)
    if info is None:
        return
    reals = bias.numpy().astype(np.float64).reshape(-1)
    integers = np.rint(reals / info.scale.astype(np.float64))
    low, high = info.dtype.integer_range
    stored = np.clip(integers, low, high).astype(info.dtype.numpy)
    constant = graph.constant(Tensor(stored, dtype=info.dtype), f"{bias.name}_quantized")
    graph.set_input(node, slot, dequantize(graph, constant, bias, info, node))
