"""Everything that bounds values becomes one Clip with scalar constants; Relu6 is Clip(0, 6)."""

from __future__ import annotations

import math

import numpy as np

from ...ir import DType, Node, Value
from ..base import single_reader
from ..driver import Rewriter, Rule
from ..pattern import is_constant_float, scalar

LARGEST_FLOAT, LARGEST_FLOAT16 = 3.4e38, 65504.0
"""Bounds from here on are none."""

Bounds = tuple[float, float]


def bounds(node: Node) -> Bounds | None:
    """Lower and upper bound of a Clip or Relu, infinite where there is none; None when computed."""
    if node.op == "Relu":
        return 0.0, math.inf
    found = []
    for slot, default in ((1, -math.inf), (2, math.inf)):
        value = node.input(slot)
        bound = scalar(value) if value is not None else default
        if bound is None:
            return None
        found.append(bound)
    return found[0], found[1]


def clamp(node: Node, rw: Rewriter) -> bool:
    """Min or Max with a scalar constant is a Clip."""
    if len(node.inputs) != 2:
        return False
    for x, c in (node.inputs, node.inputs[::-1]):
        if x is None or c is None or c.const is None or not is_constant_float(c) or x.is_constant:
            continue
        bound = scalar(c)
        if bound is None or (c.const.shape and len(c.const.shape) > (x.rank or 0)):
            continue
        limits = (-math.inf, bound) if node.op == "Min" else (bound, math.inf)
        _replace_by_clip(node, x, limits, rw)
        return True
    return False


def clip_of_clip(node: Node, rw: Rewriter) -> bool:
    """Clip after Clip or Relu is one Clip."""
    x = node.inputs[0]
    inner = x.producer if x is not None else None
    if x is None or inner is None or not inner.is_op("Clip", "Relu"):
        return False
    if inner.op == node.op == "Relu" or single_reader(x) is not node:
        return False
    first, second = bounds(inner), bounds(node)
    if first is None or second is None or first[0] > first[1] or second[0] > second[1]:
        return False
    low, high = np.clip(first, *second)
    data = inner.inputs[0]
    assert data is not None
    _replace_by_clip(node, data, (float(low), float(high)), rw)
    return True


def clip_at_zero(node: Node, rw: Rewriter) -> bool:
    """Clip from 0 without an upper bound is Relu; bounds beyond every float are none."""
    limits, x = bounds(node), node.inputs[0]
    if limits is None or x is None or x.dtype is None or not x.dtype.is_float:
        return False
    largest = LARGEST_FLOAT16 if x.dtype is DType.FLOAT16 else LARGEST_FLOAT
    low, high = limits
    if low == 0 and high >= largest:
        rw.replace(node.output, rw.add("Relu", x, name=node.name, like=node.output))
        return True
    for slot, infinite in ((1, low <= -largest), (2, high >= largest)):
        if infinite and node.input(slot) is not None:
            rw.graph.set_input(node, slot, None)
            return True
    return False


def _replace_by_clip(node: Node, x: Value, limits: Bounds, rw: Rewriter) -> None:
    dtype = x.dtype or node.output.dtype
    kind = dtype.numpy if dtype is not None else np.float32
    low, high = (
        rw.constant(np.asarray(bound, kind)) if math.isfinite(bound) else None for bound in limits
    )
    operands = [x, low, high] if high is not None else [x, low] if low is not None else [x]
    rw.replace(node.output, rw.add("Clip", *operands, name=node.name, like=node.output))


RULES = (
    Rule("clamp", ("Min", "Max"), clamp),
    Rule("clip-of-clip", ("Clip", "Relu"), clip_of_clip),
    Rule("clip-at-zero", ("Clip",), clip_at_zero),
)
