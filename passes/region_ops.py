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

from ..ir import Node, Value
from ..ir.graph import Shape
from ..ir.tensor import Array
from .base import Skip, single_reader
from .pattern import scalar
from .regions import Linear, Offset, Walk, float_constant

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
    reason = f"no {'factor' if walk.kind == 'scale' else 'shift'} passes {node.op}"
    for slot, ids in known.items():
        if rule is None or (rule.data is not None and slot not in rule.data):
            walk.freeze(ids, reason)
    if rule is None or not (known or rule.starts):
        return
    if walk.kind == "shift" and not (rule.shift or rule.starts):
        skip: str | None = reason
    else:
        skip = None
        try:
            rule.visit(walk, node)
        except Skip as declined:
            skip = f"{node.op}: {declined}"
    if skip is not None:
        for ids in known.values():
            walk.freeze(ids, skip)
        for value in node.outputs:
            walk.of.pop(value, None)


# -- operators with weights ------------------------------------------------------------------------


def conv(walk: Walk, node: Node) -> None:
    """Weights [O, I/group, ...]; a shift of the input needs a convolution without padding."""
    weights = float_constant(node, 1)
    if weights is None:
        raise Skip("its weights are not a float32 constant")
    count, width, *kernel = weights.shape
    group = int(node.attrs.get("group", 1))
    rank = len(weights.shape)
    read = walk.along(node.input(0), rank, 1, group * width)
    if walk.kind == "shift" and _padded(node):
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
    if walk.kind == "shift" and (node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)) != (
        1,
        1,
    ):
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
        walk.freeze(read, "no shift passes BatchNormalization")
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
        walk.freeze(ids, f"no factor passes {node.op}")
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


def _padded(node: Node) -> bool:
    auto = node.attrs.get("auto_pad", "NOTSET")
    return auto not in ("NOTSET", "VALID") or any(node.attrs.get("pads", ()))


# -- arithmetic ------------------------------------------------------------------------------------


def ignore(walk: Walk, node: Node) -> None:
    """The result does not depend on the elements."""


def keep(walk: Walk, node: Node) -> None:
    """Each element of the result depends on the same element of operand 0."""
    walk.of[node.output] = walk.ids(node.input(0))


def clip(walk: Walk, node: Node) -> None:
    """Homogeneous only when its bounds are 0 or infinite."""
    for slot, name in ((1, "min"), (2, "max")):
        given = node.input(slot)
        bound = node.attrs.get(name, np.inf) if given is None else scalar(given)
        if bound is None or 0 < abs(bound) < BOUNDLESS:
            raise Skip("its bounds are absolute, a factor would move them")
    keep(walk, node)


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


def largest(walk: Walk, node: Node) -> None:
    """Sub, Max, Min: operands and result share factors; constants may only be 0."""
    walk.join(node.output, [walk.ids(value) for value in node.inputs if scalar(value) != 0])


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
    if walk.kind == "shift" and (node.attrs.get("ceil_mode", 0) or (counts and _padded(node))):
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
    shapes = [(*common[:axis], n, *common[axis + 1 :]) for n in sizes]
    spread = [np.broadcast_to(p, shape) for p, shape in zip(parts, shapes, strict=True)]
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
    "Max": Rule(largest, None),
    "Min": Rule(largest, None),
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
    "Sub": Rule(largest, None),
    "Transpose": Rule(transpose, shift=True),
    "Unsqueeze": Rule(reshape, shift=True),
    **{op: Rule(pool, shift=True) for op in ("GlobalAveragePool", "GlobalMaxPool", "MaxPool")},
    **{op: Rule(keep) for op in ("Abs", "LeakyRelu", "Neg", "Relu")},
    **{
        op: Rule(reduce, shift=True)
        for op in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
    },
}
