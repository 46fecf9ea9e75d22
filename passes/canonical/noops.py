"""Operators that change nothing are gone; pairs that undo or repeat each other become one."""

from __future__ import annotations

import numpy as np

from ...ir import DType, Node, Value
from ..base import single_reader
from ..driver import Rewriter, Rule

ALONE = ("Concat", "Max", "Mean", "Min", "Sum")


def bypass(node: Node, rw: Rewriter) -> bool:
    """An operator whose result is its first operand."""
    data = node.input(0)
    if data is None or any(v.uses for v in node.outputs[1:]):
        return False
    if not (node.op == "Identity" or _CHANGES_NOTHING[node.op](node, data)):
        return False
    if data.shape is None:
        data.shape = node.output.shape
    rw.replace(node.output, data)
    return True


def _dropout(node: Node, _data: Value) -> bool:
    mode = node.input(2)
    return mode is None or (mode.is_constant and not mode.numpy().any())


def _cast(node: Node, data: Value) -> bool:
    return data.dtype is not None and DType(node.attrs["to"]) == data.dtype


def _reshape(node: Node, data: Value) -> bool:
    """The result has the operand's shape: by inference, or since at most one size is computed."""
    if _same_shape(node, data):
        return True
    wanted = node.inputs[1]
    if data.shape is None or wanted is None or not wanted.is_constant:
        return False
    sizes = wanted.numpy().tolist()
    if len(sizes) != len(data.shape) or node.attrs.get("allowzero", 0):
        return False
    kept = [size in (0, dim) for size, dim in zip(sizes, data.shape, strict=True)]
    computed = [k for k, size in enumerate(sizes) if size == -1]
    return all(kept) or (len(computed) == 1 and kept.count(False) == 1)


def _same_shape(node: Node, data: Value) -> bool:
    """Both shapes are known and equal; symbols count, unknown dimensions do not."""
    return data.shape is not None and None not in data.shape and data.shape == node.output.shape


def _flatten(node: Node, data: Value) -> bool:
    return data.rank == 2 and node.attrs.get("axis", 1) in (1, -1)


def _transpose(node: Node, _data: Value) -> bool:
    perm = node.attrs.get("perm")
    return perm is not None and list(perm) == list(range(len(perm)))


def _slice(node: Node, data: Value) -> bool:
    """From the start to beyond the end, forwards."""
    if not all(v is None or v.is_constant for v in node.inputs[1:]):
        return False
    starts, ends = (v.numpy() for v in node.inputs[1:3] if v is not None)
    steps = node.input(4)
    if starts.any() or (steps is not None and (steps.numpy() != 1).any()):
        return False
    axes = node.input(3)
    places = axes.numpy().tolist() if axes is not None else range(len(starts))
    known = data.shape or ()
    for axis, end in zip(places, ends.tolist(), strict=True):
        dim = known[axis] if -len(known) <= axis < len(known) else None
        if end < (dim if isinstance(dim, int) else np.iinfo(np.int32).max):
            return False
    return True


def _pad(node: Node, _data: Value) -> bool:
    pads = node.input(1)
    return pads is not None and pads.is_constant and not pads.numpy().any()


def _alone(node: Node, _data: Value) -> bool:
    return len(node.inputs) == 1


def _clip(node: Node, _data: Value) -> bool:
    return len(node.inputs) == 1 and not {"min", "max"} & node.attrs.keys()


_CHANGES_NOTHING = {
    "Cast": _cast,
    "Clip": _clip,
    "Dropout": _dropout,
    "Expand": _same_shape,
    "Flatten": _flatten,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Tile": _same_shape,
    "Transpose": _transpose,
    **{op: _alone for op in ALONE},
}


def merge_transposes(node: Node, rw: Rewriter) -> bool:
    """Transpose of a Transpose is one Transpose."""
    inner = _inner(node)
    if inner is None or "perm" not in node.attrs or "perm" not in inner.attrs:
        return False
    perm = [inner.attrs["perm"][k] for k in node.attrs["perm"]]
    new = rw.add("Transpose", inner.inputs[0], name=node.name, like=node.output, perm=perm)
    rw.replace(node.output, new)
    return True


def merge_reshapes(node: Node, rw: Rewriter) -> bool:
    """Only the last of several Reshapes matters, when it says all sizes."""
    inner, wanted = _inner(node), node.inputs[1]
    if inner is None or wanted is None or not wanted.is_constant or not wanted.numpy().all():
        return False
    new = rw.add("Reshape", inner.inputs[0], wanted, name=node.name, like=node.output)
    rw.replace(node.output, new)
    return True


def _inner(node: Node) -> Node | None:
    """The operator of the same type just before, when nobody else reads its result."""
    data = node.inputs[0]
    inner = data.producer if data is not None else None
    if data is None or inner is None or not inner.is_op(node.op) or single_reader(data) is not node:
        return None
    return inner


RULES = (
    Rule("no-op", ("Identity", *_CHANGES_NOTHING), bypass),
    Rule("transpose-transpose", ("Transpose",), merge_transposes),
    Rule("reshape-reshape", ("Reshape",), merge_reshapes),
)
