"""Sums, differences and products with constants take one form: at most one Mul, then one Add.

A difference x - c becomes x + (-c), x / c becomes x * (1 / c), (x + a) * b becomes x * b + a * b.
"""

from __future__ import annotations

import numpy as np

from ...ir import DType, Node, Value
from ...ir.tensor import Array
from ..base import Skip, single_reader
from ..driver import Rewriter, Rule
from ..pattern import is_constant_float
from .gates import ends_gelu

LARGEST = 1e30
"""Constants beyond this are masks, not factors; products of them may overflow."""


def sum_to_adds(node: Node, rw: Rewriter) -> bool:
    """Sum of several values is a chain of Add."""
    total = node.inputs[0]
    for value in node.inputs[1:-1]:
        fits = total is not None and value is not None and total.shape == value.shape
        total = rw.add("Add", total, value, like=total if fits else None)
        total.dtype = node.output.dtype
    rw.replace(node.output, rw.add("Add", total, node.inputs[-1], name=node.name, like=node.output))
    return True


def subtract_constant(node: Node, rw: Rewriter) -> bool:
    """Subtracting a constant is adding its negative."""
    x, c = node.inputs
    if x is None or c is None or not is_constant_float(c) or x.is_constant:
        return False
    negative = rw.constant(-c.numpy(), c.name)
    rw.replace(node.output, rw.add("Add", x, negative, name=node.name, like=node.output))
    return True


def divide_by_constant(node: Node, rw: Rewriter) -> bool:
    """Dividing by a constant is multiplying with its inverse; Div before Erf stays, see `gelu`."""
    x, c = node.inputs
    if x is None or c is None or not is_constant_float(c) or x.is_constant:
        return False
    if any(reader.is_op("Erf") for reader in node.output.consumers):
        return False
    divisor = c.numpy().astype(np.float64)
    smallest = 1e-4 if c.dtype is DType.FLOAT16 else 1e-37
    if not np.all((np.abs(divisor) > smallest) & (np.abs(divisor) < LARGEST)):
        raise Skip("its divisor is too small or too large to invert")
    inverse = rw.constant((1 / divisor).astype(c.numpy().dtype), c.name)
    rw.replace(node.output, rw.add("Mul", x, inverse, name=node.name, like=node.output))
    return True


def constant_second(node: Node, rw: Rewriter) -> bool:
    """The constant operand of a commutative operator comes second."""
    x, c = node.inputs
    if x is None or c is None or not x.is_constant or c.is_constant:
        return False
    rw.replace(node.output, rw.add(node.op, c, x, name=node.name, like=node.output))
    return True


def collapse(node: Node, rw: Rewriter) -> bool:
    """Mul and Add of constants in a row: products merge, sums merge, Mul goes first."""
    x, c = node.inputs
    inner = x.producer if x is not None else None
    if x is None or c is None or inner is None or not inner.is_op("Mul", "Add"):
        return False
    if not is_constant_float(c) or single_reader(x) is not node or ends_gelu(inner):
        return False
    data, before = inner.inputs
    if data is None or before is None or not is_constant_float(before) or data.is_constant:
        return False
    if node.op == "Add" and inner.op == "Mul":
        return False  # the form wanted
    a, b = before.numpy().astype(np.float64), c.numpy().astype(np.float64)
    with np.errstate(all="ignore"):
        both = _checked(a + b if node.op == "Add" else a * b, a, b)
    if node.op == inner.op:
        new = rw.add(node.op, data, _like(rw, both, c), name=node.name, like=node.output)
    else:
        scaled = rw.add("Mul", data, c, name=inner.name, like=x)
        new = rw.add("Add", scaled, _like(rw, both, before), name=node.name, like=node.output)
    rw.replace(node.output, new)
    return True


def _checked(both: Array, a: Array, b: Array) -> Array:
    if both.size > max(a.size, b.size):
        raise Skip("one constant for both would be larger than either")
    if not np.all(np.abs([np.abs(t).max(initial=0) for t in (a, b, both)]) < LARGEST):
        raise Skip("its constants are too large to be merged")
    return both


def _like(rw: Rewriter, array: Array, like: Value) -> Value:
    return rw.constant(array.astype(like.numpy().dtype), like.name)


def neutral(node: Node, rw: Rewriter) -> bool:
    """Adding 0 or multiplying with 1 changes nothing."""
    x, c = node.inputs
    if x is None or c is None or not is_constant_float(c) or c.const is None or x.shape is None:
        return False
    broadcast = c.const.shape
    if len(broadcast) > len(x.shape) or any(
        d not in (1, k) for d, k in zip(broadcast[::-1], x.shape[::-1], strict=False)
    ):
        return False
    if not np.all(c.numpy() == (1 if node.op == "Mul" else 0)):
        return False
    rw.replace(node.output, x)
    return True


RULES = (
    Rule("sum-to-adds", ("Sum",), sum_to_adds),
    Rule("subtract-constant", ("Sub",), subtract_constant),
    Rule("divide-by-constant", ("Div",), divide_by_constant),
    Rule("constant-second", ("Add", "Mul"), constant_second),
    Rule("neutral", ("Add", "Mul"), neutral),
    Rule("collapse", ("Add", "Mul"), collapse),
)
