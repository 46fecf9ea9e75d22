"""Operators that move data: on integers of any grid or function, or on floats, unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..ir import Node
from .handlers import axis_of, constant_of, handles
from .lowering import Lowering, known_shape
from .model import NUMPY, Array, Kind, Type
from .orders import plain
from .values import Abstract, Const, Declined, Grid, Pending, Raw, Stored, Target, static


def operand(low: Lowering, node: Node, axis_free: bool = True) -> Grid | Raw:
    """The first operand; a function by channel only where channels stay what they are."""
    assert node.inputs[0] is not None
    found = low.values.get(node.inputs[0])
    if isinstance(found, Raw) and found.stored.stage % 2 and found.stored.stage > 0:
        raise Declined("its operand is computed by ONNX Runtime")
    if not isinstance(found, Grid | Raw):
        raise Declined("an operand is not stored")
    if axis_free and isinstance(found, Grid) and found.table is not None and found.table.ndim == 2:
        raise Declined("a function by channel whose channels move")
    return found


def rewrap(found: Grid | Raw, stored: Stored) -> Abstract:
    """`stored` with what was known of the operand."""
    return Raw(stored) if isinstance(found, Raw) else replace(found, stored=stored)


def walk(
    low: Lowering, stored: Stored, view: Callable[[Array], Array], shape: Sequence[int]
) -> Stored:
    """Copy through a view of the elements in ONNX's order, to a tensor of `shape`.

    Dimensions keep their layout if `view` keeps their number.
    """
    stage = low.stage([stored])
    window = low.window(stored)
    rank = len(static(stored))
    seen = view(window)
    same_rank = seen.ndim == rank == len(shape)
    order = stored.order if same_rank else plain(len(shape))
    seen = seen.transpose(order) if same_rank else seen
    y = low.make(stage, stored.dtype, shape, order, stored.scale, stored.zero_point)
    offset = seen.__array_interface__["data"][0] - window.__array_interface__["data"][0]
    low.copy(low.models[stage], low.id(stored, stage), y.ids[stage], seen, offset)
    return y


@handles("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(low: Lowering, node: Node) -> list[Abstract]:
    """Another shape for the same elements; a pending result takes it once it is computed."""
    assert node.inputs[0] is not None
    pending, wanted = low.values.get(node.inputs[0]), known_shape(node.output)
    if isinstance(pending, Pending) and wanted is not None:

        def emit(target: Target | None) -> Stored:
            stored = low.finish(pending, target)
            return low.reshape(stored, wanted, stored.stage)

        return [low.pending(emit)]
    found = operand(low, node)
    shape = known_shape(node.output) or _shape_after(low, node, static(found.stored))
    return [rewrap(found, low.reshape(found.stored, shape, low.stage([found.stored])))]


def _shape_after(low: Lowering, node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape where inference gave up, as it does behind operators of other domains."""
    if node.op == "Flatten":
        axis = int(node.attrs.get("axis", 1))
        axis += len(shape) if axis < 0 else 0
        return int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))
    given = constant_of(low, node, 1)
    wanted = node.attrs.get("axes") if given is None else [int(n) for n in given.reshape(-1)]
    if node.op == "Reshape" and wanted is not None:
        sizes = [shape[i] if n == 0 else n for i, n in enumerate(wanted)]
        rest = int(np.prod(shape)) // max(1, int(np.prod([n for n in sizes if n > 0])))
        return tuple(rest if n == -1 else n for n in sizes)
    if node.op == "Unsqueeze" and wanted is not None:
        rank = len(shape) + len(wanted)
        places = {axis_of(a, rank) for a in wanted}
        rest_ = iter(shape)
        return tuple(1 if d in places else next(rest_) for d in range(rank))
    if wanted is None:
        return tuple(n for n in shape if n != 1)
    dropped = {axis_of(a, len(shape)) for a in wanted}
    return tuple(n for d, n in enumerate(shape) if d not in dropped)


@handles("Transpose")
def transpose(low: Lowering, node: Node) -> list[Abstract]:
    """Only the order of the dimensions changes, not the memory."""
    found = operand(low, node, axis_free=False)
    stored = found.stored
    shape = static(stored)
    perm = list(node.attrs.get("perm", reversed(range(len(shape)))))
    where = {d: i for i, d in enumerate(perm)}
    stage = low.stage([stored])
    moved = Stored(
        stored.dtype,
        tuple(shape[d] for d in perm),
        tuple(where[d] for d in stored.order),
        stage,
        {stage: low.id(stored, stage)},
        stored.scale,
        stored.zero_point,
    )
    if isinstance(found, Grid):
        return [replace(found, stored=moved, axis=where.get(found.axis, 0))]
    return [Raw(moved)]


@handles("Slice")
def slice_(low: Lowering, node: Node) -> list[Abstract]:
    """A pending result that nothing else reads is cut once it is computed."""
    value = node.inputs[0]
    assert value is not None
    pending, known = low.values.get(value), known_shape(value)
    if isinstance(pending, Pending) and known is not None and len(value.uses) == 1:
        cut, size = _cut(low, node, known)

        def emit(target: Target | None) -> Stored:
            return walk(low, low.finish(pending, target), cut, size)

        return [low.pending(emit)]
    found = operand(low, node)
    return [rewrap(found, walk(low, found.stored, *_cut(low, node, static(found.stored))))]


def _cut(
    low: Lowering, node: Node, shape: tuple[int, ...]
) -> tuple[Callable[[Array], Array], tuple[int, ...]]:
    """The view that a Slice of constant starts, ends, axes and steps takes, and its shape."""
    if low.graph.info.opset < 10:
        raise Declined("a Slice before opset 10")
    starts, ends = constant_of(low, node, 1), constant_of(low, node, 2)
    assert starts is not None and ends is not None
    axes, steps = constant_of(low, node, 3), constant_of(low, node, 4)
    where = range(len(starts)) if axes is None else [axis_of(int(a), len(shape)) for a in axes]
    picks = [slice(None)] * len(shape)
    for i, axis in enumerate(where):
        step = 1 if steps is None else int(steps[i])
        start, end, n = int(starts[i]), int(ends[i]), shape[axis]
        start, end = (v + n if v < 0 else v for v in (start, end))
        if step > 0:
            picks[axis] = slice(min(max(start, 0), n), min(max(end, 0), n), step)
        else:
            stop = min(max(end, -1), n - 1)
            picks[axis] = slice(min(max(start, 0), n - 1), None if stop < 0 else stop, step)
    out = tuple(len(range(*p.indices(n))) for p, n in zip(picks, shape, strict=True))
    if 0 in out:
        raise Declined("an empty result")
    return lambda a: a[tuple(picks)], out


@handles("Split")
def split(low: Lowering, node: Node) -> list[Abstract]:
    """Parts along one axis, equal unless told."""
    found = operand(low, node)
    shape = static(found.stored)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(shape))
    given = constant_of(low, node, 1)
    sizes = list(node.attrs.get("split", [])) if given is None else [int(n) for n in given]
    if not sizes:
        part = -(-shape[axis] // len(node.outputs))
        sizes = [part] * (len(node.outputs) - 1)
        sizes.append(shape[axis] - sum(sizes))
    results, at = [], 0
    for size in sizes:
        pick = tuple(slice(at, at + size) if d == axis else slice(None) for d in range(len(shape)))
        out = tuple(size if d == axis else n for d, n in enumerate(shape))
        if size < 1:
            raise Declined("an empty result")
        results.append(
            rewrap(found, walk(low, found.stored, lambda a, pick=pick: a[pick], out))  # type: ignore[misc]
        )
        at += size
    return results


@handles("Expand")
def expand(low: Lowering, node: Node) -> list[Abstract]:
    """Broadcasting."""
    found = operand(low, node)
    shape = known_shape(node.output)
    if shape is None:
        raise Declined("its shape is unknown")
    return [rewrap(found, walk(low, found.stored, lambda a: np.broadcast_to(a, shape), shape))]


@handles("DepthToSpace", "SpaceToDepth")
def depth_space(low: Lowering, node: Node) -> list[Abstract]:
    """Blocks of channels to pixels and back."""
    found = operand(low, node)
    n, c, h, w = static(found.stored)
    b = int(node.attrs["blocksize"])
    mode = node.attrs.get("mode", "DCR")

    def view(a: Array) -> Array:
        if node.op == "SpaceToDepth":
            split_ = a.reshape(n, c, h // b, b, w // b, b)
            return split_.transpose(0, 3, 5, 1, 2, 4)
        if mode in ("DCR", b"DCR"):
            return a.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
        return a.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)

    down = node.op == "SpaceToDepth"
    out = (n, c * b * b, h // b, w // b) if down else (n, c // (b * b), h * b, w * b)
    stage = low.stage([found.stored])
    flat = low.arrange(found.stored, plain(4), stage)
    return [rewrap(found, walk(low, flat, view, out))]


@handles("Pad")
def pad(low: Lowering, node: Node) -> list[Abstract]:
    """Constant, edge or reflect; a constant must be on the grid."""
    found = operand(low, node)
    stored = found.stored
    shape = static(stored)
    mode = node.attrs.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    given = constant_of(low, node, 1)
    pads = list(node.attrs.get("pads", [])) if given is None else [int(p) for p in given]
    if node.input(3) is not None or any(p < 0 for p in pads):
        raise Declined("chosen axes or negative pads")
    begin, end = pads[: len(shape)], pads[len(shape) :]
    if mode in ("edge", "reflect"):
        for axis, width in enumerate(zip(begin, end, strict=True)):
            positions = np.arange(shape[axis])
            if width != (0, 0):
                reflected = mode == "reflect"
                index = np.pad(positions, width, mode="reflect" if reflected else "edge")
                stored = gather(low, stored, index, axis)
        return [rewrap(found, stored)]
    if mode != "constant":
        raise Declined(f"padding by {mode}")
    constant = constant_of(low, node, 2)
    fill = 0.0 if constant is None else float(constant.reshape(-1)[0])
    value = int(fill)
    if isinstance(found, Grid):
        close = np.flatnonzero(found.reals() == np.float32(fill))
        if not close.size:
            raise Declined("the padding is not on the grid")
        value = int(close[0])
        value = value - 256 if stored.dtype == Type.S8 and value > 127 else value
    elif NUMPY[stored.dtype].itemsize > 1 and fill != 0:
        raise Declined("floats padded with other than 0")
    stage = low.stage([stored])
    out = [n + b + e for n, b, e in zip(shape, begin, end, strict=True)]
    y = low.make(stage, stored.dtype, out, stored.order, stored.scale, stored.zero_point)
    into = low.window(y)
    offset = sum(b * s for b, s in zip(begin, into.strides, strict=True))
    part = into[tuple(slice(0, n) for n in shape)].transpose(stored.order)
    source = low.window(stored).transpose(stored.order)
    number = low.id(stored, stage)
    low.copy(low.models[stage], number, y.ids[stage], source, 0, value, part, offset)
    return [rewrap(found, y)]


def gather(low: Lowering, stored: Stored, index: Array, axis: int) -> Stored:
    """Constant indices along one dimension."""
    stage = low.stage([stored])
    shape = tuple(index.size if d == axis else n for d, n in enumerate(static(stored)))
    y = low.make(stage, stored.dtype, shape, stored.order, stored.scale, stored.zero_point)
    constant = low.models[stage].constant(index.astype(np.int64).reshape(-1))
    place = stored.order.index(axis)
    return low.emit(stage, Kind.GATHER, [low.id(stored, stage), constant], y, [place])


@handles("Gather")
def gather_node(low: Lowering, node: Node) -> list[Abstract]:
    """Constant indices, or 64-bit ones known at run time."""
    found = operand(low, node)
    stored = found.stored
    shape = static(stored)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(shape))
    assert node.inputs[1] is not None
    index = low.values.get(node.inputs[1])
    stage = low.stage([stored])
    if isinstance(index, Const):
        positions = np.where(index.array < 0, index.array + shape[axis], index.array)
        if positions.size == 0 or positions.min() < 0 or positions.max() >= shape[axis]:
            raise Declined("indices outside the axis")
        flat = low.arrange(stored, plain(len(shape)), stage) if positions.ndim != 1 else stored
        picked = gather(low, flat, positions, axis)
        out = (*shape[:axis], *positions.shape, *shape[axis + 1 :])
        if positions.ndim != 1:
            picked = low.reshape(picked, out, stage)
        return [rewrap(found, picked)]
    if not isinstance(index, Raw) or index.stored.dtype != Type.S64:
        raise Declined("indices that are not 64-bit integers")
    stage = low.stage([stored, index.stored])
    flat = low.arrange(stored, plain(len(shape)), stage)
    wanted = low.arrange(index.stored, plain(len(static(index.stored))), stage)
    out = (*shape[:axis], *static(index.stored), *shape[axis + 1 :])
    y = low.make(stage, stored.dtype, out, None, stored.scale, stored.zero_point)
    ids = [low.id(flat, stage), low.id(wanted, stage)]
    return [rewrap(found, low.emit(stage, Kind.GATHER, ids, y, [axis]))]
