"""Keeps engines from hiding products of stored tensors behind the biases added to them."""

from __future__ import annotations

from ..ir import Graph, Node, Value
from .base import single_reader


def keep_apart(graph: Graph) -> int:
    """Let MatMuls in Q/DQ form be fused with their Q/DQ nodes by ONNX Runtime; how many were not.

    Its optimizer makes a Gemm of a MatMul and the bias behind it, with a Reshape in front where the
    operand is no matrix (`MatMulAddFusion`, version 1.32). When it looks for products of stored
    tensors later, no DequantizeLinear is in front of this one: the weights are dequantized in every
    run and floats are multiplied. A bias with leading dimensions of 1 is not a Gemm's.
    """
    found = [pair for node in graph.order() if (pair := _joined(node)) is not None]
    for add, bias, rank in found:
        array = bias.numpy()
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        wide = graph.constant(array, f"{bias.name}_wide")
        for slot, value in enumerate(add.inputs):
            if value is bias:
                graph.set_input(add, slot, wide)
    return len(found)


def _joined(node: Node) -> tuple[Node, Value, int] | None:
    """The Add behind a product of stored tensors, its constant bias, and the rank of the sum."""
    if not node.is_op("MatMul") or not any(
        value and value.producer and value.producer.is_op("DequantizeLinear")
        for value in node.inputs
    ):
        return None
    add, rank = single_reader(node.output), node.output.rank
    if rank is None or rank < 3 or add is None or not add.is_op("Add"):
        return None
    for bias in add.inputs:
        if bias is not None and bias.const is not None and (bias.rank or rank) < 3:
            return add, bias, rank
    return None
