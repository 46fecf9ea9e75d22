"""Masks of -inf or -3e38 before Softmax get a value that a grid can hold.

Softmax gives exactly 0 in float32 where an input lies more than 104 below the row's largest. The
masks of attention use the lowest float; `MASK` does the same as long as unmasked scores of one row
differ by less than 9,896 and no row is masked as a whole. A mask that is a constant is checked for
such rows; scores of that size would have lost their own fraction in float16.
"""

from __future__ import annotations

import numpy as np

from ...ir import DType, Graph, Node, Value
from ..base import Report
from .arithmetic import LARGEST

MASK = -1e4
CARRIES = frozenset(
    (
        *("Add", "Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "Mul"),
        *("Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where"),
    )
)
"""Operators through which a mask value reaches Softmax unchanged, or multiplied with 0 or 1."""


def clip_masks(graph: Graph, report: Report) -> None:
    """Replace mask constants in `graph` and its bodies; name those that have to stay."""
    for inner in graph.graphs():
        for value in _candidates(inner):
            array = value.numpy()
            huge = ~(np.abs(array) <= LARGEST)
            if not huge.any() or np.isnan(array).any():
                continue
            if (array[huge] > 0).any() or not _only_masks(value):
                readers = ", ".join(dict.fromkeys(node.op for node in value.consumers))
                report.note(f"'{value.name}' holds {array[huge].flat[0]:.3g}, read by {readers}")
                continue
            clipped = np.maximum(array, np.asarray(MASK, array.dtype))
            inner.replace(value, inner.constant(clipped, value.name))
            report.note(f"mask '{value.name}' clipped from {array.min():.3g} to {MASK:g}")


def _candidates(graph: Graph) -> list[Value]:
    """Constants that could hold a mask: real numbers that no weighted operator reads."""
    operands = (v for node in graph.order() if node.is_op(*CARRIES) for v in node.inputs)
    return [
        value
        for value in dict.fromkeys(v for v in operands if v is not None)
        if value.is_constant and value.dtype in (DType.FLOAT, DType.DOUBLE, DType.BFLOAT16)
    ]


def _only_masks(value: Value) -> bool:
    """True when all ways from `value` end in Softmax."""
    seen: set[Value] = set()
    stack = [value]
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        for node, slot in at.uses:
            if node.is_op("Softmax"):
                continue
            if not node.outputs or slot < 0 or not node.is_op(*CARRIES) or _masks_rows(node, at):
                return False
            stack.extend(node.outputs)
    return True


def _masks_rows(node: Node, value: Value) -> bool:
    """True for a constant mask added to scores that leaves nothing of some row."""
    if not node.is_op("Add") or not value.is_constant:
        return False
    array = value.numpy()
    return bool(array.ndim and (array < -LARGEST).all(axis=-1).any())
