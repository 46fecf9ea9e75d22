"""Keeps engines from rounding the weights of products that a plan leaves in float."""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, Value
from .base import single_reader
from .units import CLAMPS, input_axis

PRODUCTS = ("Conv", "ConvTranspose", "Gemm")


def keep_in_float(graph: Graph) -> int:
    """Let float products in Q/DQ form be computed in float by ONNX Runtime; how many it would not.

    Its optimizer stores the weights of a product in int8, with one scale for all, where the operand
    is dequantized with one scale and the result is quantized and read by nobody else
    (`WeightBiasQuantization`, versions 1.20 to 1.32). A convolution that is in float for accuracy
    would lose more than in integers, and is slower. Such operands are dequantized with a scale per
    channel here, all of them equal: the same numbers, as fast.
    """
    found = [node for node in graph.order() if _would_be_rounded(node)]
    for node in found:
        source = node.inputs[0]
        assert source is not None and source.producer is not None
        axis, count = _longest_axis(node, source)
        stored, scale, zero = source.producer.inputs[:3]
        assert scale is not None and zero is not None
        scales = graph.constant(np.repeat(scale.numpy(), count), f"{source.name}_scales")
        zeros = graph.constant(np.repeat(zero.numpy(), count), f"{source.name}_zero_points")
        result = graph.add(
            "DequantizeLinear", [stored, scales, zeros], {"axis": axis}, like=node
        ).output
        result.dtype, result.shape, result.origin = source.dtype, source.shape, source.origin
        graph.set_input(node, 0, result)
    return len(found)


def _would_be_rounded(node: Node) -> bool:
    if not node.is_op(*PRODUCTS) or node.precision != "float":
        return False
    source, weights = node.inputs[0], node.inputs[1]
    if source is None or source.producer is None or not source.producer.is_op("DequantizeLinear"):
        return False
    scale = source.producer.inputs[1]
    if scale is None or scale.const is None or scale.const.size != 1:
        return False
    if weights is None or weights.const is None or _longest_axis(node, source)[1] == 1:
        return False
    reader = single_reader(node.output)
    while reader is not None and reader.is_op(*CLAMPS):
        reader = single_reader(reader.output)
    return reader is not None and reader.is_op("QuantizeLinear")


def _longest_axis(node: Node, source: Value) -> tuple[int, int]:
    """The channels of the operand and how many there are, or a longer axis behind them."""
    weights = node.inputs[1]
    assert weights is not None and weights.const is not None
    channels = 0 if node.is_op("Gemm") and node.attrs.get("transA", 0) else 1
    groups = node.attrs.get("group", 1) if node.is_op("Conv") else 1
    count = weights.const.shape[input_axis(node)] * groups
    if count > 1 or source.shape is None:
        return channels, count
    known = {k: d for k, d in enumerate(source.shape) if isinstance(d, int)}
    return max(known.items(), key=lambda item: item[1], default=(channels, count))
