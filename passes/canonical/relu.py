"""Relu where it is nothing, and where the operator before can take it in."""

from __future__ import annotations

from ...ir import Node, Value
from ..base import single_reader
from ..driver import Rewriter, Rule
from .clips import bounds

NEVER_NEGATIVE = ("Relu", "Sigmoid", "Softmax", "HardSigmoid", "Softplus")
KEEPS_SIGN = (
    *("AveragePool", "Concat", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
    *("Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"),
)
FUSES = ("Conv", "ConvTranspose")
"""Operators whose kernels apply a Relu on the way out."""
DEPTH = 8


def is_nonnegative(value: Value | None, depth: int = DEPTH) -> bool:
    """True when `value` is known to have no negative element."""
    node = value.producer if value is not None else None
    if value is None or node is None or value.index != 0:
        return False
    if node.is_op(*NEVER_NEGATIVE):
        return True
    if node.is_op("Clip"):
        limits = bounds(node)
        return limits is not None and limits[0] >= 0
    if not node.is_op(*KEEPS_SIGN) or depth == 0:
        return False
    operands = node.inputs if node.op == "Concat" else node.inputs[:1]
    return all(is_nonnegative(operand, depth - 1) for operand in operands)


def relu_of_nonnegative(node: Node, rw: Rewriter) -> bool:
    """Relu of a value that is never negative is nothing."""
    data = node.inputs[0]
    if data is None or not is_nonnegative(data):
        return False
    rw.replace(node.output, data)
    return True


def relu_of_concat(node: Node, rw: Rewriter) -> bool:
    """Relu goes into the branches of a Concat when each has a kernel for it or needs none."""
    data = node.inputs[0]
    concat = data.producer if data is not None else None
    if data is None or concat is None or not concat.is_op("Concat"):
        return False
    if single_reader(data) is not node or not all(_takes_relu(v, concat) for v in concat.inputs):
        return False
    branches = [v if is_nonnegative(v) else rw.add("Relu", v, like=v) for v in concat.inputs]
    new = rw.add("Concat", *branches, name=concat.name, like=node.output, **concat.attrs)
    rw.replace(node.output, new)
    return True


def _takes_relu(value: Value | None, reader: Node) -> bool:
    if value is None or value.producer is None:
        return False
    fuses = value.producer.is_op(*FUSES) and single_reader(value) is reader
    return fuses or is_nonnegative(value)


RULES = (
    Rule("relu-of-nonnegative", ("Relu",), relu_of_nonnegative),
    Rule("relu-of-concat", ("Relu",), relu_of_concat),
)
