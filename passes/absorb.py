"""Takes y = x * scale + shift into the operators before or after it.

`scale` and `shift` are float64 and have the rank of x; a linear operator can take them in when
only their channel dimension is larger than 1. Operators that commute with a positive factor are
passed through, so is Concat of channels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir import Node, Value
from ..ir.tensor import Array
from .base import Skip, single_reader
from .driver import Rewriter

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")

Build = Callable[[], Value]


def is_constant_float(value: Value | None) -> bool:
    """True for a constant of a real floating point type."""
    return value is not None and value.is_constant and bool(value.dtype and value.dtype.is_float)


def spread(factors: Array) -> float:
    """Ratio of the largest to the smallest magnitude."""
    sizes = np.abs(factors)
    return float(sizes.max(initial=1.0) / sizes.min(initial=np.inf))


def absorb_after(x: Value, reader: Node, scale: Array, shift: Array, rw: Rewriter) -> Build | None:
    """How to compute x * scale + shift without an operator for it; nothing changes before the call.

    None when there is no linear operator before to take it in.

    Raises:
        Skip: there is one, but it cannot take it in; says why.
    """
    node = x.producer
    if node is None or not node.is_op(*LINEAR, *HOMOGENEOUS, *POOLS, "Concat"):
        return None
    if single_reader(x) is not reader:
        raise Skip("what is before it is read elsewhere or returned")
    if node.is_op(*LINEAR):
        return _into_linear(node, scale, shift, rw)
    if node.is_op("Concat"):
        return _into_branches(node, scale, shift, rw)
    if node.is_op(*HOMOGENEOUS):
        if (scale < 0).any() or shift.any():
            raise Skip(f"{node.op} before it lets only positive factors pass")
    else:
        _check_pool(node, scale, shift)
    data = node.inputs[0]
    assert data is not None
    inner = absorb_after(data, node, scale, shift, rw)
    if inner is None:
        return None
    return lambda: rw.add(node.op, inner(), *node.inputs[1:], name=node.name, like=x, **node.attrs)


def _check_pool(node: Node, scale: Array, shift: Array) -> None:
    if len(node.outputs) > 1 or max((*scale.shape[2:], *shift.shape[2:]), default=1) > 1:
        raise Skip(f"{node.op} before it does not keep positions")
    if "Max" in node.op and (scale < 0).any():
        raise Skip(f"{node.op} before it lets only positive factors pass")
    if node.op == "AveragePool" and shift.any() and _counts_padding(node):
        raise Skip("AveragePool before it counts padding")


def _counts_padding(node: Node) -> bool:
    padded = any(node.attrs.get("pads", ())) or "auto_pad" in node.attrs
    return bool(node.attrs.get("count_include_pad", 0)) and padded


def _into_branches(node: Node, scale: Array, shift: Array, rw: Rewriter) -> Build | None:
    rank = scale.ndim
    axis = node.attrs["axis"] % rank
    builds: list[Build] = []
    start = 0
    for value in node.inputs:
        size = value.shape[axis] if value is not None and value.shape else None
        if value is None or not isinstance(size, int):
            raise Skip("the shapes before Concat are not known")
        part = [
            c if c.shape[axis] == 1 else c.take(range(start, start + size), axis)
            for c in (scale, shift)
        ]
        build = absorb_after(value, node, part[0], part[1], rw)
        if build is None:
            return None
        builds.append(build)
        start += size
    return lambda: rw.add("Concat", *(build() for build in builds), name=node.name, **node.attrs)


def _into_linear(node: Node, scale: Array, shift: Array, rw: Rewriter) -> Build:
    weight, bias = node.inputs[1], node.input(2)
    if not is_constant_float(weight) or not (bias is None or is_constant_float(bias)):
        raise Skip(f"the weights of {node.op} before it are not constant")
    if node.attrs.get("alpha", 1.0) != 1 or node.attrs.get("beta", 1.0) != 1:
        raise Skip("Gemm before it has factors of its own")
    assert weight is not None
    w = weight.numpy()
    channels = output_channels(node, w.shape)
    axis = 1 if node.op != "MatMul" else scale.ndim - 1
    factor, term = (_channel_vector(c, axis, channels) for c in (scale, shift))
    new_w = _narrow(w.astype(np.float64) * _along_output(node, factor, w.shape), w)
    needs_bias = bool(term.any())
    op, attrs = node.op, dict(node.attrs)
    if op == "MatMul" and needs_bias:
        if scale.ndim != 2 or w.ndim != 2:
            raise Skip("MatMul before it has no bias")
        op, attrs = "Gemm", {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    old = bias.numpy().astype(np.float64) if bias is not None else np.zeros(1)
    if old.ndim and old.size not in (1, old.shape[-1]):
        raise Skip("the bias of Gemm before it differs from row to row")
    new_b = _narrow(old.reshape(-1) * factor + term, w)

    def build() -> Value:
        constants = [rw.constant(new_w, weight.name)]
        if bias is not None or needs_bias:
            constants.append(rw.constant(new_b, bias.name if bias is not None else ""))
        return rw.add(op, node.inputs[0], *constants, name=node.name, like=node.output, **attrs)

    return build


def output_channels(node: Node, shape: tuple[int, ...]) -> int:
    """Channels of a linear operator's result, from its weight's shape."""
    if node.op == "Conv":
        return shape[0]
    if node.op == "ConvTranspose":
        return shape[1] * int(node.attrs.get("group", 1))
    return shape[-2 if node.op == "Gemm" and node.attrs.get("transB", 0) else -1]


def _along_output(node: Node, factor: Array, shape: tuple[int, ...]) -> Array:
    """One factor per output channel, shaped to broadcast against the weight."""
    if node.op == "Conv":
        return factor.reshape(-1, *[1] * (len(shape) - 1))
    if node.op == "ConvTranspose":
        group = int(node.attrs.get("group", 1))
        rows = np.repeat(factor.reshape(group, -1), shape[0] // group, axis=0)
        return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))
    return factor[:, None] if node.attrs.get("transB", 0) else factor


def _along_input(node: Node, factor: Array, shape: tuple[int, ...]) -> Array:
    """One factor per input channel, shaped to broadcast against the weight."""
    if node.op == "Conv":
        group = int(node.attrs.get("group", 1))
        rows = np.repeat(factor.reshape(group, -1), shape[0] // group, axis=0)
        return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))
    if node.op == "ConvTranspose":
        return factor.reshape(-1, *[1] * (len(shape) - 1))
    return factor if node.attrs.get("transB", 0) else factor[:, None]


def _channel_vector(c: Array, axis: int, channels: int) -> Array:
    """The entries of `c` along `axis`; `Skip` when it varies along another."""
    if any(d != 1 for k, d in enumerate(c.shape) if k != axis):
        raise Skip("it differs from position to position")
    return np.broadcast_to(c.reshape(-1), (channels,))


def _narrow(array: Array, like: Array) -> Array:
    """`array` in the type of `like`; `Skip` when it overflows."""
    with np.errstate(over="ignore"):
        narrow: Array = array.astype(like.dtype)
    if not np.isfinite(narrow).all():
        raise Skip("the folded weights would not be finite")
    return narrow


def absorb_before(
    y: Value, scale: Array, shift: Array, rw: Rewriter
) -> Callable[[Value], None] | None:
    """How to let all readers of y = x * scale + shift read x; None unless all of them can.

    The readers' weights and biases become fresh constants, their results stay what they are.
    """
    if not y.uses or not all(slot == 0 and n.is_op(*LINEAR) for n, slot in y.uses):
        return None
    try:
        edits = [_reader_constants(node, scale, shift) for node, _ in y.uses]
    except Skip:
        return None

    def forward(x: Value) -> None:
        for node, weight, bias in edits:
            names = [v.name if v is not None else "" for v in (node.inputs[1], node.input(2))]
            rw.graph.set_input(node, 0, x)
            rw.graph.set_input(node, 1, rw.constant(weight, names[0]))
            if bias is not None:
                rw.graph.set_input(node, 2, rw.constant(bias, names[1]))

    return forward


def _reader_constants(node: Node, scale: Array, shift: Array) -> tuple[Node, Array, Array | None]:
    """Weight and bias of a linear reader of x * scale + shift once it reads x."""
    weight, bias = node.inputs[1], node.input(2)
    if not is_constant_float(weight) or not (bias is None or is_constant_float(bias)):
        raise Skip("its weights are not constant")
    attrs = node.attrs
    if attrs.get("alpha", 1.0) != 1 or attrs.get("beta", 1.0) != 1 or attrs.get("transA", 0):
        raise Skip("Gemm has factors of its own")
    assert weight is not None
    w = weight.numpy()
    if w.ndim < 2:
        raise Skip("its weight is a vector")
    axis = 1 if node.op != "MatMul" else scale.ndim - 1
    channels = input_channels(node, w.shape)
    factor, term = (_channel_vector(c, axis, channels) for c in (scale, shift))
    wide = w.astype(np.float64)
    new_w = _narrow(wide * _along_input(node, factor, w.shape), w)
    if not term.any():
        return node, new_w, None
    if node.op in ("ConvTranspose", "MatMul") or any(attrs.get("pads", ())) or "auto_pad" in attrs:
        raise Skip("a shift would differ from position to position")
    product = wide * _along_input(node, term, w.shape)
    keep = 1 if node.op == "Gemm" and not attrs.get("transB", 0) else 0
    total = product.sum(axis=tuple(k for k in range(w.ndim) if k != keep))
    old = bias.numpy().astype(np.float64) if bias is not None else np.zeros(1)
    return node, new_w, _narrow(old + total, w)


def input_channels(node: Node, shape: tuple[int, ...]) -> int:
    """Channels that a linear operator reads, from its weight's shape."""
    if node.op == "Conv":
        return shape[1] * int(node.attrs.get("group", 1))
    if node.op == "ConvTranspose":
        return shape[0]
    return shape[-1 if node.op == "Gemm" and node.attrs.get("transB", 0) else -2]
