"""What operators do to per-channel factors and shifts: the table behind `regions`.

A rule gives the results of an operator their ids. An operator without a rule, and a rule that
raises `Skip`, freezes what it reads. Legality follows from what the operator computes: a factor
s > 0 passes where f(s x) = s f(x); a shift only where f(x - a) = f(x) - f'(a) for all x, hence
through no clamp and no zero padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from ..ir import Node
from ..ir.value import Shape
from .base import Skip
from .pattern import scalar
from .region_linear import (
    batch_normalization,
    conv,
    conv_transpose,
    gemm,
    matmul,
    normalization,
    padded,
)
from .regions import Bound, Offset, Walk, float_constant
from .units import clamp_limits

MOST_ELEMENTS = 1 << 24
"""Largest tensor (batch left out) whose reshaping is followed element by element."""

BOUNDLESS = 1e38
"""A bound of this size is none: exporters write the largest float32."""


@dataclass(frozen=True)
class Rule:
    """How to visit an operator.

    Attributes:
        visit: gives the results their ids.
        data: operands whose ids the rule knows how to treat, None for all.
        shift: whether shifts pass as well, where `visit` does not decline.
        starts: whether results get ids even when no operand has any.
    """

    visit: Callable[[Walk, Node], None]
    data: tuple[int, ...] | None = (0,)
    shift: bool = False
    starts: bool = False


def visit(walk: Walk, node: Node) -> None:
    """Give the results of `node` their ids, and freeze what it reads where nothing may pass."""
    rule = None if node.domain or node.captures else RULES.get(node.op)
    known = {slot: walk.of[value] for slot, value in node.operands() if value in walk.of}
    if not known and not (rule and rule.starts):
        return
    try:
        if rule is None or not (walk.kind == "scale" or rule.shift or rule.starts):
            raise Skip(f"no {'factor' if walk.kind == 'scale' else 'shift'} passes it")
        for slot, ids in known.items():
            if rule.data is not None and slot not in rule.data:
                walk.freeze(ids, f"{node.op}: it takes the tensor for a parameter")
        rule.visit(walk, node)
    except Skip as declined:
        for ids in known.values():
            walk.freeze(ids, f"{node.op}: {declined}")
        for value in node.outputs:
            walk.of.pop(value, None)


def ignore(walk: Walk, node: Node) -> None:
    """The result does not depend on the elements."""


def keep(walk: Walk, node: Node) -> None:
    """Each element of the result depends on the same element of operand 0."""
    walk.of[node.output] = walk.ids(node.input(0))


def clip(walk: Walk, node: Node) -> None:
    """Homogeneous when its bounds are 0 or infinite, or when they may follow the factors."""
    absolute = False
    for slot, name in ((1, "min"), (2, "max")):
        given = node.input(slot)
        bound = node.attrs.get(name, np.inf) if given is None else scalar(given)
        absolute |= bound is None or 0 < abs(bound) < BOUNDLESS
    if absolute and (not walk.caps or clamp_limits(node) is None):
        raise Skip("its bounds are absolute, a factor would move them")
    keep(walk, node)
    if absolute:
        walk.bounds.append(Bound(node, walk.of[node.output]))


def add(walk: Walk, node: Node) -> None:
    """All operands and the result share factors; the shifts of operands add up."""
    for slot in (0, 1):
        constant = float_constant(node, slot)
        if constant is not None:
            ids = walk.ids(node.input(1 - slot))
            rank = max(ids.ndim, len(constant.shape))
            walk.of[node.output] = ids.reshape((1,) * (rank - ids.ndim) + ids.shape)
            if walk.kind == "scale":
                walk.offsets.append(Offset(node, slot, ids))
            return
    walk.join(node.output, [walk.ids(value) for value in node.inputs])


def share(walk: Walk, node: Node) -> None:
    """Sub, Max, Min: operands and result share factors; constants per channel follow them."""
    constants = [float_constant(node, slot) for slot in range(len(node.inputs))]
    follow = [k for k, c in enumerate(constants) if c is not None and c.size > 1]
    operands = [v for k, v in enumerate(node.inputs) if k not in follow and scalar(v) != 0]
    rank = max(len(c.shape) for c in constants if c is not None) if follow else 0
    parts = [walk.ids(value) for value in operands]
    walk.join(node.output, [p.reshape((1,) * (rank - p.ndim) + p.shape) for p in parts])
    ids = walk.of[node.output]
    walk.offsets += [Offset(node, slot, ids) for slot in follow]


def multiply(walk: Walk, node: Node) -> None:
    """A product carries the factors of one operand; the other's must be 1."""
    data = 0 if node.input(0) in walk.of else 1
    if data and node.op == "Div":
        raise Skip("its divisor may carry no factor")
    other = node.input(1 - data)
    ids, beside = walk.ids(node.input(data)), walk.ids(other)
    walk.freeze(beside, f"{node.op}: only one operand may carry factors")
    rank = max(ids.ndim, beside.ndim)
    walk.of[node.output] = ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


def pool(walk: Walk, node: Node) -> None:
    """Windows over axes 2 and up; zero padding that counts is a constant that no shift moves."""
    if any(n > 1 for n in walk.ids(node.input(0)).shape[2:]):
        raise Skip("it mixes channels")
    counts = node.op == "AveragePool" and node.attrs.get("count_include_pad", 0)
    if walk.kind == "shift" and (node.attrs.get("ceil_mode", 0) or (counts and padded(node))):
        raise Skip("its padding would not be shifted")
    keep(walk, node)


def reduce(walk: Walk, node: Node) -> None:
    """Over axes along which nothing differs; a sum would multiply a shift."""
    ids = walk.ids(node.input(0))
    if walk.kind == "shift" and node.op in ("ReduceSum", "ReduceL1", "ReduceL2"):
        raise Skip("it does not keep a shift")
    axes = _integers(node, 1, "axes")
    if axes is None and node.attrs.get("noop_with_empty_axes", 0):
        raise Skip("it reduces nothing")
    reduced = range(ids.ndim) if axes is None else [k % ids.ndim for k in axes]
    if any(ids.shape[k] > 1 for k in reduced):
        raise Skip("it mixes channels")
    keeps = node.attrs.get("keepdims", 1)
    walk.of[node.output] = ids if keeps else np.squeeze(ids, tuple(reduced))


def resize(walk: Walk, node: Node) -> None:
    """Interpolates between elements of one channel; weights of the linear mode sum to 1."""
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Skip("it fills in a constant")
    if walk.kind == "shift" and node.attrs.get("mode", "nearest") not in ("nearest", "linear"):
        raise Skip("its weights do not sum to 1")
    before, after = node.inputs[0], node.output
    ids = walk.ids(before)
    for axis in (k for k, n in enumerate(ids.shape) if n > 1):
        sizes = [v.shape[axis] if v and v.shape else None for v in (before, after)]
        if not isinstance(sizes[0], int) or sizes[0] != sizes[1]:
            raise Skip("it may resize channels")
    keep(walk, node)


def pad(walk: Walk, node: Node) -> None:
    """With zeros, or with what is there."""
    ids = walk.ids(node.input(0))
    mode = node.attrs.get("mode", "constant")
    pads = _integers(node, 1, "pads")
    if mode == "constant":
        value = 0.0 if node.input(2) is None else scalar(node.input(2))
        if value != 0 or node.attrs.get("value", 0.0) or walk.kind == "shift":
            raise Skip("it pads with a constant")
    if pads is None or node.input(3) is not None:
        raise Skip("its axes are not all axes")
    for axis, n in enumerate(ids.shape):
        if n > 1 and (pads[axis] or pads[axis + ids.ndim]):
            raise Skip("it pads channels")
    keep(walk, node)


# -- moving data -----------------------------------------------------------------------------------


def reshape(walk: Walk, node: Node) -> None:
    """Follow every element, batch aside, then find again the axes along which ids differ."""
    value, ids = node.inputs[0], walk.ids(node.input(0))
    assert value is not None
    before, after = _sizes(value.shape), _sizes(node.output.shape)
    if before and after and ids.shape[0] == 1 and prod(before[1:]) == prod(after[1:]) > 0:
        before, after = (1, *before[1:]), (1, *after[1:])  # so the batch sizes agree as well
    if not 0 < prod(before) == prod(after) <= MOST_ELEMENTS:
        raise Skip("the shapes are not known")
    ids = np.broadcast_to(ids, before).reshape(after)
    for axis in range(ids.ndim):
        first = ids.take([0], axis)
        if (ids == first).all():
            ids = first
    walk.of[node.output] = ids


def _sizes(shape: Shape | None) -> tuple[int, ...]:
    """Dimensions, 0 where unknown."""
    return (0,) if shape is None else tuple(d if isinstance(d, int) else 0 for d in shape)


def transpose(walk: Walk, node: Node) -> None:
    """Permute axes."""
    ids = walk.ids(node.input(0))
    walk.of[node.output] = ids.transpose(node.attrs.get("perm"))


def concat(walk: Walk, node: Node) -> None:
    """Join channels; along another axis the operands share theirs."""
    parts = [walk.ids(value) for value in node.inputs]
    axis = int(node.attrs["axis"]) % parts[0].ndim
    if all(p.shape[axis] == 1 for p in parts):
        if walk.kind == "shift" and len(parts) > 1:
            raise Skip("it does not join channels")
        for other in parts[1:]:
            walk.link(parts[0], other)
        walk.of[node.output] = np.broadcast_arrays(*parts)[0]
        return
    sizes = [v.shape[axis] if v and v.shape else None for v in node.inputs]
    if not all(isinstance(n, int) for n in sizes):
        raise Skip("the sizes of its operands are not known")
    common = np.broadcast_shapes(*((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts))
    spread = []
    for value, part, n in zip(node.inputs, parts, sizes, strict=True):
        shape = (*common[:axis], n, *common[axis + 1 :])
        known = value in walk.of
        spread.append(np.broadcast_to(part, shape) if known else walk.still(shape))
    walk.of[node.output] = np.concatenate(spread, axis)


def split(walk: Walk, node: Node) -> None:
    """Part channels."""
    ids = walk.ids(node.input(0))
    axis = int(node.attrs.get("axis", 0)) % ids.ndim
    sizes = [v.shape[axis] if v.shape else None for v in node.outputs]
    if ids.shape[axis] > 1 and not all(isinstance(n, int) for n in sizes):
        raise Skip("the sizes of its results are not known")
    start = 0
    for value, size in zip(node.outputs, sizes, strict=True):
        if ids.shape[axis] == 1:
            walk.of[value] = ids
        else:
            assert isinstance(size, int)
            walk.of[value] = ids.take(range(start, start + size), axis)
            start += size


def cut(walk: Walk, node: Node) -> None:
    """Slice along constant ranges."""
    ids = walk.ids(node.input(0))
    starts, ends = _integers(node, 1, "starts") or [], _integers(node, 2, "ends") or []
    axes = _integers(node, 3, "axes") or range(len(starts))
    steps = _integers(node, 4, "steps") or [1] * len(starts)
    index = [slice(None)] * ids.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if ids.shape[axis] > 1:
            index[axis] = slice(start, end, step)
    walk.of[node.output] = ids[tuple(index)]


def gather(walk: Walk, node: Node) -> None:
    """Pick channels by constant indices."""
    ids = walk.ids(node.input(0))
    indices = node.input(1)
    axis = int(node.attrs.get("axis", 0)) % ids.ndim
    if indices is None or not indices.is_constant:
        raise Skip("its indices are not constant")
    picks = indices.numpy()
    if ids.shape[axis] == 1:
        picks = np.zeros((1,) * picks.ndim, np.int64)
    walk.of[node.output] = ids.take(picks, axis)


def depth_to_space(walk: Walk, node: Node) -> None:
    """The channels that become one must share it."""
    block = int(node.attrs["blocksize"]) ** 2
    n = walk.ids(node.input(0)).shape[1]
    channels = walk.along(node.input(0), 4, 1, n)
    if n % block:
        raise Skip("its channels do not lie along axis 1")
    crd = node.attrs.get("mode", "DCR") == "CRD"
    rows = channels.reshape(-1, block).T if crd else channels.reshape(block, -1)
    walk.link(rows[:1], rows)
    walk.of[node.output] = rows[0].reshape(1, -1, 1, 1)


def space_to_depth(walk: Walk, node: Node) -> None:
    """A channel becomes several."""
    n = walk.ids(node.input(0)).shape[1]
    channels = walk.along(node.input(0), 4, 1, n)
    block = int(node.attrs["blocksize"]) ** 2 if n > 1 else 1
    walk.of[node.output] = np.tile(channels, block).reshape(1, -1, 1, 1)


def _integers(node: Node, slot: int, name: str) -> list[int] | None:
    """Integers of a constant operand or, in earlier operator sets, attribute; None when absent."""
    value = node.input(slot)
    if value is None:
        found = node.attrs.get(name)
        return None if found is None else [int(k) for k in found]
    if not value.is_constant:
        raise Skip(f"its {name} are not constant")
    return [int(k) for k in value.numpy().ravel()]


RULES = {
    "Add": Rule(add, None, shift=True),
    "AveragePool": Rule(pool, shift=True),
    "BatchNormalization": Rule(batch_normalization, starts=True),
    "Clip": Rule(clip),
    "Concat": Rule(concat, None, shift=True),
    "Conv": Rule(conv, starts=True),
    "ConvTranspose": Rule(conv_transpose, starts=True),
    "DepthToSpace": Rule(depth_to_space),
    "Div": Rule(multiply, None),
    "Dropout": Rule(keep, shift=True),
    "Flatten": Rule(reshape, shift=True),
    "Gather": Rule(gather, shift=True),
    "Gemm": Rule(gemm, starts=True),
    "Identity": Rule(keep, shift=True),
    "InstanceNormalization": Rule(normalization, starts=True),
    "LayerNormalization": Rule(normalization, starts=True),
    "MatMul": Rule(matmul, starts=True),
    "Max": Rule(share, None),
    "Min": Rule(share, None),
    "Mul": Rule(multiply, None),
    "PRelu": Rule(keep),
    "Pad": Rule(pad, shift=True),
    "Reshape": Rule(reshape, shift=True),
    "Resize": Rule(resize, shift=True),
    "Slice": Rule(cut, shift=True),
    **{op: Rule(ignore, shift=True) for op in ("Shape", "Size")},
    "SpaceToDepth": Rule(space_to_depth, shift=True),
    "Split": Rule(split, shift=True),
    "Squeeze": Rule(reshape, shift=True),
    "Sub": Rule(share, None),
    "Transpose": Rule(transpose, shift=True),
    "Unsqueeze": Rule(reshape, shift=True),
    **{op: Rule(pool, shift=True) for op in ("GlobalAveragePool", "GlobalMaxPool", "MaxPool")},
    **{op: Rule(keep) for op in ("Abs", "LeakyRelu", "Neg", "Relu")},
    **{
        op: Rule(reduce, shift=True)
        for op in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
    },
}
