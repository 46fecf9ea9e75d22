"""Before lowering: fixed input shapes, and what is constant as constants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..ir import Graph, Value
from ..ir.clone import clone, extract
from ..ir.evaluate import Runner
from ..ir.shapes import infer
from .lowering import known_shape
from .rewrite import hasten

KEPT = ("DequantizeLinear", "QuantizeLinear")
"""Quantized constants stay integers."""
LARGEST = 1 << 20
"""Elements up to which a computed constant is stored."""


def specialize(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """A copy of `graph` for inputs of `shapes`: shapes inferred, constants folded, hastened."""
    copy, _ = clone(graph)
    for value in copy.inputs:
        if value.name in shapes:
            value.shape = shapes[value.name]
    for node in copy.order():
        for value in node.outputs:
            if value.shape is not None and known_shape(value) is None:
                value.shape = None  # symbols of the old shapes
    infer(copy)
    while _fold(copy):
        infer(copy)
    if hasten(copy):
        copy.sweep()
        infer(copy)
    return copy


def _fold(graph: Graph) -> bool:
    """One round: sizes that are known, then everything computed from constants."""
    known: dict[Value, Value] = {}
    for node in graph.order():
        if node.is_op("Shape") and node.inputs[0] is not None:
            shape = known_shape(node.inputs[0])
            if shape is not None:
                stop = node.attrs.get("end", len(shape))
                part = shape[node.attrs.get("start", 0) : stop]
                known[node.output] = graph.constant(np.array(part, np.int64))
    for value, constant in known.items():
        graph.replace(value, constant)
    ready = _computable(graph)
    if ready:
        computed, where = extract(graph, [], ready)
        found = Runner(computed, [where[v] for v in ready], threads=1).run({})
        for value, array in zip(ready, found, strict=True):
            graph.replace(value, graph.constant(array))
    graph.sweep()
    return bool(known or ready)


def _computable(graph: Graph) -> list[Value]:
    """Results of nodes that read nothing but constants, where something else reads them."""
    constant: dict[Value, None] = {}
    for node in graph.order():
        operands = [v for _, v in node.operands()]
        if node.op in KEPT or node.bodies or node.domain or node.op.startswith("Random"):
            continue
        if all(v.is_constant or v in constant for v in operands):
            constant.update(dict.fromkeys(node.outputs))
    return [
        v
        for v in constant
        if any(constant.keys().isdisjoint(n.outputs) for n in v.consumers)
        and (shape := known_shape(v)) is not None
        and np.prod(shape, dtype=np.int64) <= LARGEST
        and v.dtype is not None
    ]
