"""Which values ONNX Runtime can compute: custom operators it does not have are in the way."""

from __future__ import annotations

import onnx

from .graph import Graph, Node, Value

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
