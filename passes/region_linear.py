"""Operators with constant weights, where factors and shifts begin and end; see `region_ops`."""

from __future__ import annotations

import numpy as np

from ..ir import Node, Value
from ..ir.tensor import Array
from .base import Skip, single_reader
from .regions import Linear, Offset, Walk, float_constant


def conv(walk: Walk, node: Node) -> None:
    """Weights [O, I/group, ...]; a shift of the input needs a convolution without padding."""
    weights = float_constant(node, 1)
    if weights is None:
        raise Skip("its weights are not a float32 constant")
    count, width, *kernel = weights.shape
    group = int(node.attrs.get("group", 1))
    rank = len(weights.shape)
    read = walk.along(node.input(0), rank, 1, group * width)
    if walk.kind == "shift" and padded(node):
        walk.freeze(read, "Conv: its zero padding would not be shifted")
    ins = read.reshape(group, 1, width).repeat(count // group, 1) if group > 1 else read
    ins = ins.reshape(-1, width, *(1 for _ in kernel))
    outs = walk.fresh(node.output, (1, count, *(1 for _ in kernel))).ravel()
    _linear(walk, node, ins, outs.reshape(-1, *(1,) * (rank - 1)), 0, outs)


def conv_transpose(walk: Walk, node: Node) -> None:
    """Weights [I, O/group, ...]; border sums differ, so that no shift of the input is exact."""
    weights = float_constant(node, 1)
    if weights is None:
        raise Skip("its weights are not a float32 constant")
    count, width, *kernel = weights.shape
    group = int(node.attrs.get("group", 1))
    ones = tuple(1 for _ in kernel)
    read = walk.along(node.input(0), len(weights.shape), 1, count)
    if walk.kind == "shift":
        walk.freeze(read, "ConvTranspose: a shift would change its borders")
    outs = walk.fresh(node.output, (1, group * width, *ones)).ravel()
    spread = outs.reshape(group, 1, width).repeat(count // group, 1) if group > 1 else outs
    _linear(walk, node, read.reshape(-1, 1, *ones), spread.reshape(-1, width, *ones), 1, outs)


def gemm(walk: Walk, node: Node) -> None:
    """Weights [K, N], or [N, K] when transposed."""
    weights = float_constant(node, 1)
    if weights is None or node.attrs.get("transA", 0):
        raise Skip("its weights are not a float32 constant on the right")
    transposed = bool(node.attrs.get("transB", 0))
    depth, count = weights.shape[::-1] if transposed else weights.shape
    read = walk.along(node.input(0), 2, 1, depth)
    outs = walk.fresh(node.output, (1, count)).ravel()
    plain = all(node.attrs.get(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    if walk.kind == "shift" and not plain:
        for ids in (read, outs):
            walk.freeze(ids, "Gemm: alpha or beta is not 1")
    if transposed:
        _linear(walk, node, read[None, :], outs[:, None], 0, outs)
    else:
        _linear(walk, node, read[:, None], outs[None, :], 1, outs)


def matmul(walk: Walk, node: Node) -> None:
    """Constant [K, N] on the right; shifts need an Add of a constant behind it to go into."""
    weights = float_constant(node, 1)
    if weights is None or len(weights.shape) != 2:
        raise Skip("its right operand is not a float32 constant matrix")
    depth, count = weights.shape
    rank = walk.ids(node.input(0)).ndim
    read = walk.along(node.input(0), rank, rank - 1, depth)
    outs = walk.fresh(node.output, (*(1,) * (rank - 1), count)).ravel()
    bias = _added(node.output) if walk.kind == "shift" else None  # else the Add is on its own
    if walk.kind == "shift" and bias is None:
        for ids in (read, outs):
            walk.freeze(ids, "MatMul: no bias follows that could take the shift")
    _linear(walk, node, read[:, None], outs[None, :], 1, outs, bias)


def batch_normalization(walk: Walk, node: Node) -> None:
    """Scale, bias and mean take factors of input and output; shifts only those of the output."""
    scale = float_constant(node, 1)
    if scale is None or float_constant(node, 3) is None or node.attrs.get("training_mode", 0):
        raise Skip("its parameters are not float32 constants")
    rank = walk.ids(node.input(0)).ndim
    read = walk.along(node.input(0), rank, 1, scale.shape[0])
    outs = walk.fresh(node.output, (1, scale.shape[0], *(1,) * (rank - 2))).ravel()
    if walk.kind == "shift":
        walk.freeze(read, "BatchNormalization: no shift passes it")
    else:
        walk.offsets.append(Offset(node, 3, read))
    _linear(walk, node, read, outs, 0, outs)


def normalization(walk: Walk, node: Node) -> None:
    """LayerNormalization over the last axis, InstanceNormalization: their affine part begins."""
    scale = float_constant(node, 1)
    rank = walk.ids(node.input(0)).ndim
    layer = node.op == "LayerNormalization"
    if layer and node.attrs.get("axis", -1) not in (-1, rank - 1):
        raise Skip("it normalizes more than the last axis")
    if scale is None or len(scale.shape) != 1:
        raise Skip("its scale is not a float32 constant")
    axis = rank - 1 if layer else 1
    for ids in (walk.of[v] for _, v in node.operands() if v in walk.of):
        walk.freeze(ids, f"{node.op}: no factor passes it")
    shape = [scale.shape[0] if k == axis else 1 for k in range(rank)]
    outs = walk.fresh(node.output, shape).ravel()
    _linear(walk, node, np.zeros_like(outs), outs, 0, outs)


def _linear(
    walk: Walk,
    node: Node,
    ins: Array,
    outs: Array,
    axis: int,
    bias_ids: Array,
    bias: tuple[Node, int] | None = None,
) -> None:
    """Record an operator whose bias, if it has any, is operand 2."""
    if node.input(2) is not None and float_constant(node, 2) is None:
        walk.freeze(outs, f"{node.op}: its bias is not a float32 constant")
    source = node.inputs[0]
    assert source is not None
    where = bias or (node, 2)
    result = where[0].output
    walk.linears.append(Linear(node, 1, ins, outs, axis, where, bias_ids, source, result))


def _added(value: Value) -> tuple[Node, int] | None:
    """The Add that alone reads `value`, and the slot of its float32 constant."""
    node = single_reader(value)
    if node is None or not node.is_op("Add"):
        return None
    return next(((node, slot) for slot in (0, 1) if float_constant(node, slot)), None)


def padded(node: Node) -> bool:
    """True when zeros may be put around the input."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    return auto not in ("NOTSET", "VALID") or any(node.attrs.get("pads", ()))
