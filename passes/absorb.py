"""Takes y = x * scale + shift into the linear operators before or after it.

`scale` and `shift` are float64 and have the rank of x; a linear operator can take them in when
only their channel dimension is larger than 1. On the way they pass operators that commute with
them: data movement, pooling, activation functions that let positive factors through, Concat.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir import Node, Value
from ..ir.tensor import Array
from .base import Skip, single_reader
from .driver import Rewriter
from .linear_weights import (
    LINEAR,
    along_input,
    along_output,
    channel_vector,
    constants,
    input_channels,
    narrow,
    output_channels,
)

HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
MOVES = ("Transpose", "Squeeze", "Unsqueeze", "Flatten", "Reshape")

Build = Callable[[], Value]
Forward = Callable[[Value], None]
Affine = tuple[Array, Array]
"""(scale, shift)"""


def spread(factors: Array) -> float:
    """Ratio of the largest to the smallest magnitude."""
    sizes = np.abs(factors)
    return float(sizes.max(initial=1.0) / sizes.min(initial=np.inf))


# -- into what is before ---------------------------------------------------------------------------


def absorb_after(x: Value, reader: Node, affine: Affine, rw: Rewriter) -> Build | None:
    """How to compute x * scale + shift without an operator for it; nothing changes before the call.

    None when there is no linear operator before to take it in.

    Raises:
        Skip: there is one, but it cannot take it in; says why.
    """
    node = x.producer
    if node is None or not node.is_op(*LINEAR, *HOMOGENEOUS, *POOLS, *MOVES, "Concat"):
        return None
    if single_reader(x) is not reader:
        raise Skip("what is before it is read elsewhere or returned")
    if node.is_op(*LINEAR):
        return _into_linear(node, affine, rw)
    if node.is_op("Concat"):
        return _into_branches(node, affine, rw)
    data = node.inputs[0]
    before = _against(node, affine)
    if data is None or before is None:
        return None
    inner = absorb_after(data, node, before, rw)
    if inner is None:
        return None
    return lambda: rw.add(node.op, inner(), *node.inputs[1:], name=node.name, like=x, **node.attrs)


def _against(node: Node, affine: Affine) -> Affine | None:
    """What the operand of `node` is to be multiplied with for the result to be by `affine`."""
    if node.is_op(*HOMOGENEOUS, *POOLS):
        return _commuting(node, affine)
    if node.is_op("Transpose") and "perm" in node.attrs:
        return _both(affine, lambda c: c.transpose(np.argsort(node.attrs["perm"])))
    axes = _axes(node)
    if axes is not None and node.is_op("Squeeze"):
        return _both(affine, lambda c: np.expand_dims(c, axes))
    if axes is not None and node.is_op("Unsqueeze"):
        return _both(affine, lambda c: np.squeeze(c, axes))
    return None


def _commuting(node: Node, affine: Affine) -> Affine:
    """`affine` itself, when `node` lets it pass."""
    scale, shift = affine
    if node.is_op(*HOMOGENEOUS):
        if (scale < 0).any() or shift.any():
            raise Skip(f"{node.op} beside it lets only positive factors pass")
        return affine
    if len(node.outputs) > 1 or max((*scale.shape[2:], *shift.shape[2:]), default=1) > 1:
        raise Skip(f"{node.op} beside it does not keep positions")
    if "Max" in node.op and (scale < 0).any():
        raise Skip(f"{node.op} beside it lets only positive factors pass")
    if node.op == "AveragePool" and shift.any() and _counts_padding(node):
        raise Skip("AveragePool beside it counts padding")
    return affine


def _counts_padding(node: Node) -> bool:
    padded = any(node.attrs.get("pads", ())) or "auto_pad" in node.attrs
    return bool(node.attrs.get("count_include_pad", 0)) and padded


def _both(affine: Affine, change: Callable[[Array], Array]) -> Affine:
    return change(affine[0]), change(affine[1])


def _axes(node: Node) -> tuple[int, ...] | None:
    """The constant axes of Squeeze or Unsqueeze; None for all others."""
    axes = node.input(1) if node.is_op("Squeeze", "Unsqueeze") else None
    return tuple(axes.numpy().ravel().tolist()) if axes is not None and axes.is_constant else None


def _into_branches(node: Node, affine: Affine, rw: Rewriter) -> Build | None:
    axis = node.attrs["axis"] % affine[0].ndim
    builds: list[Build] = []
    start = 0
    for value in node.inputs:
        size = value.shape[axis] if value is not None and value.shape else None
        if value is None or not isinstance(size, int):
            raise Skip("the shapes before Concat are not known")
        scale, shift = (_slice(c, axis, start, size) for c in affine)
        build = absorb_after(value, node, (scale, shift), rw)
        if build is None:
            return None
        builds.append(build)
        start += size
    return lambda: rw.add("Concat", *(build() for build in builds), name=node.name, **node.attrs)


def _slice(c: Array, axis: int, start: int, size: int) -> Array:
    return c if c.shape[axis] == 1 else c.take(range(start, start + size), axis)


def _into_linear(node: Node, affine: Affine, rw: Rewriter) -> Build:
    weight, w, old = constants(node)
    channels = output_channels(node, w.shape)
    factor, term = (channel_vector(c, node, channels) for c in affine)
    new_w = narrow(w.astype(np.float64) * along_output(node, factor, w.shape), w)
    op, attrs, bias = node.op, dict(node.attrs), node.input(2)
    if op == "MatMul" and term.any():
        if affine[0].ndim != 2 or w.ndim != 2:
            raise Skip("MatMul before it has no bias")
        op, attrs = "Gemm", {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    if old is not None and old.ndim and old.size not in (1, old.shape[-1]):
        raise Skip("the bias of Gemm before it differs from row to row")
    new_b = narrow((0 if old is None else old.reshape(-1)) * factor + term, w)

    def build() -> Value:
        operands = [rw.constant(new_w, weight.name)]
        if bias is not None or term.any():
            operands.append(rw.constant(new_b, bias.name if bias is not None else ""))
        return rw.add(op, node.inputs[0], *operands, name=node.name, like=node.output, **attrs)

    return build


# -- into what is after ----------------------------------------------------------------------------


def absorb_before(y: Value, affine: Affine, rw: Rewriter) -> Forward | None:
    """How to let all readers of y = x * scale + shift read x; None unless all of them can.

    The constants of linear readers become fresh ones, their results stay what they are.
    """
    takers = [_taker(node, slot, affine, rw) for node, slot in y.uses]
    if not takers or None in takers:
        return None

    def forward(x: Value) -> None:
        for taker in takers:
            if taker is not None:
                taker(x)

    return forward


def _taker(node: Node, slot: int, affine: Affine, rw: Rewriter) -> Forward | None:
    try:
        if slot != 0:
            return None
        if node.is_op(*LINEAR):
            return _linear_taker(node, affine, rw)
        after = _with(node, affine)
    except Skip:
        return None
    inner = absorb_before(node.output, after, rw) if after is not None else None
    if inner is None:
        return None

    def forward(x: Value) -> None:
        inner(rw.add(node.op, x, *node.inputs[1:], name=node.name, like=node.output, **node.attrs))
        rw.erase_unused(node)

    return forward


def _with(node: Node, affine: Affine) -> Affine | None:
    """What the result of `node` is multiplied with when its operand is by `affine`."""
    if node.is_op(*HOMOGENEOUS, *POOLS):
        return _commuting(node, affine)
    if node.is_op("Transpose") and "perm" in node.attrs:
        return _both(affine, lambda c: c.transpose(node.attrs["perm"]))
    axes, data = _axes(node), node.inputs[0]
    if axes is not None and node.is_op("Squeeze"):
        return _both(affine, lambda c: np.squeeze(c, axes))
    if axes is not None and node.is_op("Unsqueeze"):
        return _both(affine, lambda c: np.expand_dims(c, axes))
    if not node.is_op("Flatten", "Reshape") or data is None or data.shape is None:
        return None
    sizes = [d for d in data.shape[1:] if isinstance(d, int)]
    rows = int(np.prod(sizes)) if len(sizes) == len(data.shape) - 1 else None
    if rows is None or node.output.rank != 2 or (node.output.shape or ())[1] != rows:
        return None
    if affine[0].shape[0] != 1:
        return None
    return _both(affine, lambda c: np.broadcast_to(c, (1, *sizes)).reshape(1, rows))


def _linear_taker(node: Node, affine: Affine, rw: Rewriter) -> Forward:
    weight, w, old = constants(node)
    channels = input_channels(node, w.shape)
    factor, term = (channel_vector(c, node, channels) for c in affine)
    wide = w.astype(np.float64)
    new_w = narrow(wide * along_input(node, factor, w.shape), w)
    new_b: Array | None = None
    if term.any():
        padded = any(node.attrs.get("pads", ())) or "auto_pad" in node.attrs
        if node.op in ("ConvTranspose", "MatMul") or padded:
            raise Skip("a shift would differ from position to position")
        keep = 1 if node.op == "Gemm" and not node.attrs.get("transB", 0) else 0
        product = wide * along_input(node, term, w.shape)
        total = product.sum(axis=tuple(k for k in range(w.ndim) if k != keep))
        new_b = narrow(total if old is None else old + total, w)

    def forward(x: Value) -> None:
        bias = node.input(2)
        rw.graph.set_input(node, 0, x)
        rw.graph.set_input(node, 1, rw.constant(new_w, weight.name))
        if new_b is not None:
            name = bias.name if bias is not None else ""
            rw.graph.set_input(node, 2, rw.constant(new_b, name))

    return forward
