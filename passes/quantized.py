"""What a model brings quantized: it stays as it is, and what reads it takes its grid."""

from __future__ import annotations

import numpy as np

from ..ir import DType, Graph, Node, QuantInfo, Value, grid
from ..ir.grid_rule import GridRule
from .select import WEIGHTED

ALREADY = "it is quantized already"
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
FAMILIES = (*CONVERSIONS, "DynamicQuantize", "ConvInteger", "MatMulInteger", "QLinear", "QGemm")
"""Beginnings of the names of integer operators, the standard's and ONNX Runtime's."""


def computes_in_integers(node: Node) -> bool:
    """True for conversions and integer operators."""
    return node.op.startswith(FAMILIES)


def quantized_already(graph: Graph) -> set[Node]:
    """Operators of `graph` that are in integers, as engines see it.

    These are conversions and integer operators; products with weights behind a DequantizeLinear;
    and what lies between a DequantizeLinear and a QuantizeLinear, unless it has weights in float.
    """
    order = graph.order()
    integers = {node for node in order if computes_in_integers(node)}
    if not integers:
        return integers
    kept, between = set(integers), set()
    weights: set[Value] = set()
    for node in order:
        operands = [value for _, value in node.operands()]
        stored = bool(weights.intersection(operands))
        reals = [v for v in operands if not v.is_constant and v.dtype in (DType.FLOAT, None)]
        if (node in integers or stored) and all(v.is_constant or v in weights for v in operands):
            weights.update(node.outputs)
            kept.add(node)
        elif node.is_op(*WEIGHTED) and stored:
            kept.add(node)
        elif node.is_op(*WEIGHTED) and any(v.is_constant for v in operands[:2]):
            continue
        if reals and all(v.producer in integers or v.producer in between for v in reals):
            between.add(node)
    for node in reversed(order):
        readers = [reader for value in node.outputs for reader in value.consumers]
        if not readers or not all(r in integers or r in between for r in readers):
            between.discard(node)
    return kept | between


def brought_grid(value: Value, rule: GridRule) -> QuantInfo | None:
    """The grid of the conversion that makes `value` or reads it alone, where `rule` allows it."""
    readers = value.consumers
    around = [value.producer] if value.producer is not None else []
    around += readers if len(readers) == 1 else []
    found = (_grid(node, rule) for node in around if node.is_op(*CONVERSIONS))
    return next((info for info in found if info is not None), None)


def _grid(conversion: Node, rule: GridRule) -> QuantInfo | None:
    """The grid of a conversion per tensor, None where it is computed or `rule` makes no such."""
    scale, zero = conversion.input(1), conversion.input(2)
    integers = conversion.output if conversion.op == "QuantizeLinear" else conversion.input(0)
    if scale is None or not all(v is None or v.is_constant for v in (scale, zero)):
        return None
    steps, offset = scale.numpy(), np.zeros((), np.int32)
    if zero is not None:
        offset = zero.numpy().astype(np.int32).reshape(-1)[0]
    types = (scale.dtype, integers.dtype if integers is not None else None)
    if types != (DType.FLOAT, rule.dtype) or steps.shape or not steps > 0:
        return None
    if rule.symmetric and offset != grid(-1, 1, rule.dtype, symmetric=True).zero_point:
        return None
    return QuantInfo(rule.dtype, steps, np.asarray(offset))
