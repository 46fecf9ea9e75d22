"""Pools, means, Softmax, Resize, ArgMax, Concat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Node
from .handlers import axis_of, bytes_of, constant_of, handles
from .lower_conv import Window, window_of
from .lowering import Lowering, known_shape
from .model import Array, Kind, Type
from .orders import channels_last, plain
from .values import (
    Abstract,
    Declined,
    Grid,
    Pending,
    Raw,
    Stored,
    Target,
    static,
    whole,
)

ONE = 2048
"""The unit of the kernels' interpolation weights."""


def _channels_last(low: Lowering, x: Grid, stage: int) -> Grid:
    stored = low.arrange(x.stored, channels_last(len(static(x.stored))), stage)
    return Grid(stored, x.scale, x.zero_point)


def _sizes(node: Node, shape: Sequence[int], kernel: Sequence[int], w: Window) -> list[int]:
    """Output sizes of a pool; with ceil_mode no window starts in the padding after the end."""
    sizes = []
    for d, n in enumerate(shape):
        reach = (kernel[d] - 1) * w.dilations[d] + 1
        room = n + w.begin[d] + w.end[d] - reach
        count = room // w.strides[d] + 1
        if node.attrs.get("ceil_mode", 0):
            count = -(-room // w.strides[d]) + 1
            if (count - 1) * w.strides[d] >= n + w.begin[d]:
                count -= 1
        sizes.append(count)
    return sizes


def _monotone(grid: Grid) -> bool:
    """Whether the reals grow with the stored integers, so that their maxima agree."""
    if grid.table is None:
        return True
    table = grid.table
    if grid.stored.dtype == Type.S8:
        table = np.roll(table, 128, -1)
    return bool(np.all(np.diff(table, axis=-1) >= 0))


@handles("MaxPool")
def max_pool(low: Lowering, node: Node) -> list[Abstract]:
    """On the stored integers, whatever grid or rising function they carry."""
    assert node.inputs[0] is not None
    x = low.values.get(node.inputs[0])
    if not isinstance(x, Grid | Raw) or x.stored.dtype not in (Type.U8, Type.S8):
        raise Declined("an operand is not quantized")
    if len(node.outputs) > 1 or (isinstance(x, Grid) and not _monotone(x)):
        raise Declined("indices, or a function that does not rise")
    shape, stored = static(x.stored), x.stored
    rank = len(shape)
    if not 3 <= rank <= 5:
        raise Declined("more than three spatial dimensions")
    kernel = list(node.attrs["kernel_shape"])
    window = window_of(node, kernel, shape[2:])
    stage = low.stage([stored])
    order = channels_last(rank)
    stored = low.arrange(stored, order, stage)
    sizes = _sizes(node, shape[2:], kernel, window)
    y = low.make(stage, stored.dtype, (*shape[:2], *sizes), order, stored.scale, stored.zero_point)
    attrs = [rank - 2, *kernel, *window.strides, *window.dilations, *window.begin]
    low.emit(stage, Kind.MAX_POOL, [low.id(stored, stage)], y, attrs)
    if isinstance(x, Grid):
        return [Grid(y, x.scale, x.zero_point, x.table, x.axis)]
    return [Raw(y)]


@handles("AveragePool")
def average_pool(low: Lowering, node: Node) -> list[Abstract]:
    """Sums and one rounding."""
    x = bytes_of(low, node.inputs[0])
    shape = static(x.stored)
    rank = len(shape)
    if not 3 <= rank <= 5:
        raise Declined("more than three spatial dimensions")
    kernel = list(node.attrs["kernel_shape"])
    window = window_of(node, kernel, shape[2:])
    sizes = _sizes(node, shape[2:], kernel, window)

    def emit(target: Target | None) -> Stored:
        if target is None or target.dtype != x.stored.dtype:
            raise Declined("an average that is not rounded to the operand's type")
        stage = low.stage([x.stored])
        source = _channels_last(low, x, stage)
        order = channels_last(rank)
        y = low.make(
            stage, target.dtype, (*shape[:2], *sizes), order, target.scale, target.zero_point
        )
        attrs = [rank - 2, *kernel, *window.strides, *window.dilations, *window.begin, *window.end]
        attrs.append(int(node.attrs.get("count_include_pad", 0)))
        return low.emit(stage, Kind.AVERAGE_POOL, [low.grid_id(source, stage)], y, attrs)

    return [low.pending(emit, bounded=False)]


def _mean(low: Lowering, x: Grid, axes: Sequence[int], shape: tuple[int, ...]) -> Abstract:
    """The mean over `axes`, which must be neighbours in memory in some layout."""
    if not axes:
        raise Declined("a mean over no axes")
    dims = static(x.stored)
    rank = len(dims)
    axes = sorted(a % rank for a in axes)
    kept = [d for d in range(rank) if d not in axes]

    def emit(target: Target | None) -> Stored:
        if target is not None and target.dtype == Type.S16:
            raise Declined("a mean of more than 8 bits")
        stage = low.stage([x.stored])
        stored = x.stored
        left = [d for d in stored.order if d in kept]
        if not _neighbours(stored.order, axes, dims) or left != kept:
            stored = low.arrange(stored, (*kept, *axes), stage)
        where = [stored.order.index(a) for a in axes]
        before, after = stored.dims[: min(where)], stored.dims[max(where) + 1 :]
        count = int(np.prod([dims[a] for a in axes], dtype=np.int64))
        if target is None:
            y, ends = low.make(stage, Type.F32, shape), (0, 255)
        else:
            y = low.make(stage, target.dtype, shape, None, target.scale, target.zero_point)
            ends = target.limits
        sizes = [int(np.prod(before, dtype=np.int64)), count, int(np.prod(after, dtype=np.int64))]
        source = low.grid_id(Grid(stored, x.scale, x.zero_point), stage)
        return low.emit(stage, Kind.REDUCE_MEAN, [source], y, [*sizes, *ends])

    return low.pending(emit)


def _neighbours(order: tuple[int, ...], axes: Sequence[int], dims: tuple[int, ...]) -> bool:
    where = [order.index(a) for a in axes]
    return all(d in axes or dims[d] == 1 for d in order[min(where) : max(where) + 1])


@handles("GlobalAveragePool")
def global_average_pool(low: Lowering, node: Node) -> list[Abstract]:
    """The mean over all spatial dimensions."""
    x = bytes_of(low, node.inputs[0])
    shape = static(x.stored)
    out = (*shape[:2], *[1] * (len(shape) - 2))
    return [_mean(low, x, range(2, len(shape)), out)]


@handles("ReduceMean")
def reduce_mean(low: Lowering, node: Node) -> list[Abstract]:
    """Axes as attribute or as constant operand."""
    x = bytes_of(low, node.inputs[0])
    shape = static(x.stored)
    given = constant_of(low, node, 1)
    axes = (
        list(node.attrs.get("axes", [])) if given is None else [int(a) for a in given.reshape(-1)]
    )
    if not axes:
        if node.attrs.get("noop_with_empty_axes", 0):
            raise Declined("no axes")
        axes = list(range(len(shape)))
    chosen = {axis_of(a, len(shape)) for a in axes}
    keep = node.attrs.get("keepdims", 1)
    out = tuple(1 if d in chosen else n for d, n in enumerate(shape) if keep or d not in chosen)
    return [_mean(low, x, sorted(chosen), out)]


@handles("Softmax")
def softmax(low: Lowering, node: Node) -> list[Abstract]:
    """Over one axis, which becomes the last in memory."""
    value = node.inputs[0]
    assert value is not None
    found, known = low.values.get(value), known_shape(value)
    x = found if isinstance(found, Pending) and known else bytes_of(low, value)
    shape = static(x.stored) if isinstance(x, Grid) else known or ()
    rank = len(shape)
    axis = axis_of(int(node.attrs.get("axis", -1 if low.graph.info.opset >= 13 else 1)), rank)
    flattens = low.graph.info.opset < 13 and axis != rank - 1
    if flattens and int(np.prod(shape[axis:], dtype=np.int64)) != shape[axis]:
        raise Declined("a Softmax over several dimensions")

    def last(stored: Stored) -> Stored:
        if stored.order[-1] == axis:
            return stored
        order = (*(d for d in range(rank) if d != axis), axis)
        return low.arrange(stored, order, low.stage([stored]))

    def emit(target: Target | None) -> Stored:
        if target is None:
            stored = last(low.finish(x, None) if isinstance(x, Pending) else low.dequantize(x))
            stage = low.stage([stored])
            y = low.make(stage, Type.F32, shape, stored.order)
            return low.emit(stage, Kind.SOFTMAX, [low.id(stored, stage)], y, [])
        if isinstance(x, Pending) or target.dtype not in (Type.U8, Type.S8):
            raise Declined("a Softmax of sums, or that is rounded to more than 8 bits")
        stage = low.stage([x.stored])
        stored = last(x.stored)
        y = low.make(stage, target.dtype, shape, stored.order, target.scale, target.zero_point)
        source = low.grid_id(Grid(stored, x.scale, x.zero_point), stage)
        return low.emit(stage, Kind.SOFTMAX, [source], y, [])

    return [low.pending(emit, bounded=False)]


@handles("ArgMax")
def arg_max(low: Lowering, node: Node) -> list[Abstract]:
    """Of the integers, since a grid keeps their order."""
    x = bytes_of(low, node.inputs[0])
    shape = static(x.stored)
    axis = axis_of(int(node.attrs.get("axis", 0)), len(shape))
    stage = low.stage([x.stored])
    stored = low.arrange(x.stored, plain(len(shape)), stage)
    keep = node.attrs.get("keepdims", 1)
    out = [1 if d == axis else n for d, n in enumerate(shape) if keep or d != axis]
    y = low.make(stage, Type.S64, out)
    sizes = [int(np.prod(part, dtype=np.int64)) for part in (shape[:axis], shape[axis + 1 :])]
    attrs = [sizes[0], shape[axis], sizes[1], int(node.attrs.get("select_last_index", 0))]
    return [Raw(low.emit(stage, Kind.ARG_MAX, [low.id(stored, stage)], y, attrs))]


def _text(node: Node, name: str, default: str) -> str:
    found = node.attrs.get(name, default)
    return found.decode() if isinstance(found, bytes) else str(found)


def _axis_table(node: Node, size: int, out: int, scale: float, linear: bool) -> Array:
    """Low indices, high indices and weights for one dimension."""
    mode = _text(node, "coordinate_transformation_mode", "half_pixel")
    o = np.arange(out, dtype=np.float32)
    ratio = np.float32(scale)
    if mode == "asymmetric":
        x = o / ratio
    elif mode == "align_corners":
        x = o * np.float32((size - 1) / (out - 1)) if out > 1 else np.zeros_like(o)
    elif mode in ("half_pixel", "pytorch_half_pixel"):
        x = (o + np.float32(0.5)) / ratio - np.float32(0.5)
        if mode == "pytorch_half_pixel" and out == 1:
            x = np.zeros_like(o)
    else:
        raise Declined(f"coordinates by {mode}")
    if not linear:
        rounding = _text(node, "nearest_mode", "round_prefer_floor")
        half = np.float32(0.5)
        picked = {
            "round_prefer_floor": np.ceil(x - half),
            "round_prefer_ceil": np.floor(x + half),
            "floor": np.floor(x),
            "ceil": np.ceil(x),
        }
        index = np.clip(picked[rounding], 0, size - 1)
        return np.concatenate([index, index, np.zeros_like(index)]).astype(np.int32)
    x = np.clip(x, 0, size - 1)
    lower = np.minimum(np.floor(x), max(size - 2, 0))
    weight = np.rint((x - lower) * ONE)
    return np.concatenate([lower, np.minimum(lower + 1, size - 1), weight]).astype(np.int32)


def _same(table: Array, size: int) -> bool:
    """Whether the table gives each of `size` positions itself."""
    lower, upper, weight = table.reshape(3, -1)
    places = np.where(weight == ONE, upper, lower)
    return bool(np.all((weight == 0) | (weight == ONE)) and np.array_equal(places, np.arange(size)))


@handles("Resize", "Upsample")
def resize(low: Lowering, node: Node) -> list[Abstract]:
    """Nearest and linear over the spatial dimensions."""
    mode = _text(node, "mode", "nearest")
    if mode not in ("nearest", "linear") or node.attrs.get("antialias", 0):
        raise Declined(f"interpolation by {mode}")
    if node.attrs.get("axes") or _text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Declined("a Resize of chosen axes")
    if node.op == "Upsample" or low.graph.info.opset < 11:
        raise Declined("a Resize before opset 11")
    x = bytes_of(low, node.inputs[0])
    shape = static(x.stored)
    rank = len(shape)
    scales, sizes = constant_of(low, node, 2), constant_of(low, node, 3)
    if scales is not None and scales.size:
        factors = [float(f) for f in scales]
        out = [int(np.floor(n * f)) for n, f in zip(shape, factors, strict=True)]
    elif sizes is not None and sizes.size:
        out = [int(n) for n in sizes]
        factors = [a / b for a, b in zip(out, shape, strict=True)]
    else:
        raise Declined("no sizes")
    if not 3 <= rank <= 5 or tuple(out[:2]) != shape[:2]:
        raise Declined("a Resize of batch or channels")
    linear = mode == "linear"
    tables = [_axis_table(node, shape[d], out[d], factors[d], linear) for d in range(2, rank)]

    def emit(target: Target | None) -> Stored:
        if target is None and rank == 5:
            raise Declined("a Resize of three dimensions that is not rounded to 8 bits")
        if target is not None and target.dtype not in (Type.U8, Type.S8):
            raise Declined("a Resize that is rounded to more than 8 bits")
        stage = low.stage([x.stored])
        source = _channels_last(low, x, stage)
        if target is None:
            y = low.make(stage, Type.F32, out)
        else:
            order = channels_last(rank)
            y = low.make(stage, target.dtype, out, order, target.scale, target.zero_point)
        table = low.models[stage].constant(np.concatenate(tables))
        inputs = [low.grid_id(source, stage), table]
        return low.emit(stage, Kind.RESIZE, inputs, y, [rank - 2, int(linear)])

    if all(_same(table, n) for table, n in zip(tables, shape[2:], strict=True)):
        return [x]
    if linear:
        return [low.pending(emit, bounded=False)]
    return [Grid(emit(whole(x.stored.dtype, x.scale, x.zero_point)), x.scale, x.zero_point)]


@handles("Concat")
def concat(low: Lowering, node: Node) -> list[Abstract]:
    """Inputs of any grids; functions of integers are rounded to the common grid first."""
    parts = []
    for value in node.inputs:
        found = low.values.get(value) if value is not None else None
        if not isinstance(found, Grid):
            raise Declined("an operand is not quantized")
        parts.append(found)
    shapes = [static(p.stored) for p in parts]
    rank = len(shapes[0])
    axis = axis_of(int(node.attrs["axis"]), rank)
    out = [*shapes[0]]
    out[axis] = sum(s[axis] for s in shapes)

    def emit(target: Target | None) -> Stored:
        stage = low.stage(p.stored for p in parts)
        if target is None:
            if any(part.table is not None for part in parts):
                raise Declined("functions of integers in a Concat that is not rounded to a grid")
            reals = [low.id(low.dequantize(part), stage) for part in parts]
            return low.emit(stage, Kind.CONCAT, reals, low.make(stage, Type.F32, out), [axis])
        order = parts[0].stored.order
        ids = []
        for part in parts:
            grid = part
            if part.table is not None or part.stored.dtype != target.dtype:
                moved = low.requantize(part, target)
                grid = Grid(moved, target.scale, target.zero_point)
            stored = low.arrange(grid.stored, order, stage)
            ids.append(low.grid_id(Grid(stored, grid.scale, grid.zero_point), stage))
        y = low.make(stage, target.dtype, out, order, target.scale, target.zero_point)
        return low.emit(stage, Kind.CONCAT, ids, y, [order.index(axis)])

    first = parts[0]
    same = all(
        p.table is None
        and (p.scale, p.zero_point) == (first.scale, first.zero_point)
        and p.stored.dtype == first.stored.dtype
        for p in parts
    )
    if same:
        target = whole(first.stored.dtype, first.scale, first.zero_point)
        return [Grid(emit(target), first.scale, first.zero_point)]
    return [low.pending(emit, bounded=False)]
