"""Which values have no range to learn: custom operators or infinite constants are in the way."""

from __future__ import annotations

import numpy as np
import onnx

from .graph import Graph, Node
from .tensor import Tensor
from .value import Value

BUILT_IN = ("ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training")
VENDORS = ("com.microsoft", "com.ms.")
"""Domains (or how they begin) of ONNX Runtime's own operators, which `onnx` does not list."""


def out_of_reach(graph: Graph) -> dict[Value, Node]:
    """Values of `graph` that cannot be computed -> the first unknown operator they depend on."""
    found: dict[Value, Node] = {}
    for node in graph:
        behind = (found[value] for _, value in node.operands() if value in found)
        culprit = node if is_unknown(node, graph) else next(behind, None)
        if culprit is not None:
            found.update((value, culprit) for value in node.outputs)
    return found


def is_unknown(node: Node, graph: Graph) -> bool:
    """True for an operator (or one with such in its bodies) that ONNX Runtime does not have."""
    for body in node.bodies.values():
        if any(is_unknown(inner, body) for inner in body):
            return True
    if (node.domain, node.op, node.overload) in graph.info.functions:
        return False
    if node.domain.startswith(VENDORS):
        return False
    return node.domain not in ("", *BUILT_IN) or not onnx.defs.has(node.op, node.domain)


BOUNDED = {
    *("Clip", "Erf", "Exp", "HardSigmoid", "Max", "MaxPool", "GlobalMaxPool", "Min", "ReduceMax"),
    *("ReduceMin", "Sigmoid", "Sign", "Softmax", "Softplus", "Softsign", "Tanh"),
}
"""Operators behind which a mask of -inf is gone (a Softmax), or that take infinity as a bound."""


def infinite(graph: Graph) -> set[Value]:
    """Computed values that hold infinity because a constant does: masks, padding before MaxPool."""
    found: set[Value] = set()
    for node in graph:
        if node.is_op(*BOUNDED):
            continue
        constants = [value.const for _, value in node.operands() if value.const is not None]
        constants += [given for given in node.attrs.values() if isinstance(given, Tensor)]
        if any(value in found for _, value in node.operands()) or any(map(has_infinity, constants)):
            found.update(v for v in node.outputs if v.dtype is None or v.dtype.is_float)
    return found


def has_infinity(tensor: Tensor) -> bool:
    """True when an element of a floating point tensor is infinite."""
    return tensor.dtype.is_float and bool(np.isinf(tensor.numpy().astype(np.float32)).any())
