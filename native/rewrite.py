"""Operators of float parts, replaced by ones that do the same in less time."""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, Value
from ..ir.tensor import Array


def hasten(graph: Graph) -> bool:
    """Rewrite what can be; whether anything was. New values have no shapes yet."""
    return any([_scatter_rows(graph, node) for node in graph.order()])


def _scatter_rows(graph: Graph, node: Node) -> bool:
    """ScatterND where whole rows go to one place each: one index a row, not one an element.

    Exporters write `y[rows] = updates` as ScatterElements with indices expanded to all elements.
    """
    if not node.is_op("ScatterElements") or node.attrs.get("axis", 0) != 0:
        return False
    data, indices, updates = node.inputs
    assert data is not None and indices is not None and updates is not None
    expand = indices.producer
    rows = expand.input(0) if expand is not None and expand.is_op("Expand") else None
    if rows is None or node.attrs.get("reduction", "none") not in ("none", b"none"):
        return False
    row, given, index = (
        value.shape[1:] if value.shape else None for value in (data, updates, rows)
    )
    if not row or row != given or index is None or len(index) != len(row):
        return False
    if not all(isinstance(n, int) for n in row) or any(n != 1 for n in index):
        return False

    def new(op: str, *inputs: Value | Array, name: str = "", **attrs: int) -> Value:
        values = [v if isinstance(v, Value) else graph.constant(v) for v in inputs]
        return graph.add(op, values, attrs, name=name, like=node).output

    count = new("Gather", new("Shape", updates), np.array([0]))
    column = new("Reshape", rows, np.array([-1, 1]))
    where = new("Expand", column, new("Concat", count, np.array([1]), axis=0))
    result = new("ScatterND", data, where, updates, name=node.name)
    result.dtype, result.shape = node.output.dtype, node.output.shape
    graph.replace(node.output, result)
    graph.erase(node)
    return True
