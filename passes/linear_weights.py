"""Factors per channel in the weights of linear operators: which axis, which group."""

from __future__ import annotations

import numpy as np

from ..ir import Node, Value
from ..ir.tensor import Array
from .base import Skip
from .pattern import is_constant_float

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def constants(node: Node) -> tuple[Value, Array, Array | None]:
    """Weight, its elements and the bias (float64, None when left out) of a linear operator.

    Raises:
        Skip: they are not constant, or the operator has factors of its own.
    """
    weight, bias = node.inputs[1], node.input(2)
    if not is_constant_float(weight) or not (bias is None or is_constant_float(bias)):
        raise Skip(f"the weights of {node.op} are not constant")
    if node.attrs.get("alpha", 1.0) != 1 or node.attrs.get("beta", 1.0) != 1:
        raise Skip("Gemm has factors of its own")
    assert weight is not None
    w = weight.numpy()
    if w.ndim < 2 or node.attrs.get("transA", 0):
        raise Skip(f"{node.op} does not keep channels apart")
    return weight, w, bias.numpy().astype(np.float64) if bias is not None else None


def output_channels(node: Node, shape: tuple[int, ...]) -> int:
    """Channels of the result, from the weight's shape."""
    if node.op == "Conv":
        return shape[0]
    if node.op == "ConvTranspose":
        return shape[1] * int(node.attrs.get("group", 1))
    return shape[-2 if node.attrs.get("transB", 0) else -1]


def input_channels(node: Node, shape: tuple[int, ...]) -> int:
    """Channels of the operand, from the weight's shape."""
    if node.op == "Conv":
        return shape[1] * int(node.attrs.get("group", 1))
    if node.op == "ConvTranspose":
        return shape[0]
    return shape[-1 if node.attrs.get("transB", 0) else -2]


def along_output(node: Node, factor: Array, shape: tuple[int, ...]) -> Array:
    """One factor per output channel, shaped to broadcast against the weight."""
    if node.op == "Conv":
        return _first_axis(factor, shape)
    if node.op == "ConvTranspose":
        return _grouped(node, factor, shape)
    return factor[:, None] if node.attrs.get("transB", 0) else factor


def along_input(node: Node, factor: Array, shape: tuple[int, ...]) -> Array:
    """One factor per input channel, shaped to broadcast against the weight."""
    if node.op == "Conv":
        return _grouped(node, factor, shape)
    if node.op == "ConvTranspose":
        return _first_axis(factor, shape)
    return factor if node.attrs.get("transB", 0) else factor[:, None]


def _first_axis(factor: Array, shape: tuple[int, ...]) -> Array:
    return factor.reshape(-1, *[1] * (len(shape) - 1))


def _grouped(node: Node, factor: Array, shape: tuple[int, ...]) -> Array:
    """Factors of the axis that a group sees its own part of."""
    group = int(node.attrs.get("group", 1))
    rows = np.repeat(factor.reshape(group, -1), shape[0] // group, axis=0)
    return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))


def channel_vector(c: Array, node: Node, channels: int) -> Array:
    """The entries of `c` along the channels of `node`; `Skip` when it varies along other axes."""
    axis = c.ndim - 1 if node.op == "MatMul" else 1
    if any(d != 1 for k, d in enumerate(c.shape) if k != axis):
        raise Skip("it differs from position to position")
    return np.broadcast_to(c.reshape(-1), (channels,))


def narrow(array: Array, like: Array) -> Array:
    """`array` in the type of `like`; `Skip` when it overflows."""
    with np.errstate(over="ignore"):
        found: Array = array.astype(like.dtype)
    if not np.isfinite(found).all():
        raise Skip("the folded weights would not be finite")
    return found
