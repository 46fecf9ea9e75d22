"""Conv, ConvTranspose, Gemm and MatMul."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import DType, Node, Value
from .handlers import bytes_of, constant_of, grid_of, handles
from .lowering import Lowering
from .model import ABSENT, Array, Kind, Type
from .orders import channels_last, plain
from .values import (
    ACCUMULATOR,
    LIMITS,
    Abstract,
    Const,
    ConstGrid,
    Declined,
    Grid,
    Pending,
    Stored,
    Target,
    spread,
    static,
)

BYTES = (DType.INT8, DType.UINT8, DType.INT4, DType.UINT4, DType.INT2, DType.UINT2)
"""Types of weights; those below 8 bits become int8."""
FEW_CHANNELS = 64
"""Up to these a padded copy of the input pays: rows of the window are then read at once."""


@dataclass(frozen=True)
class Weights:
    """Operands of a convolution: int8 [O, k..., C/groups], its zero point, scales, bias."""

    integers: Array
    scale: Array
    zero_point: int
    bias: Array | None


def weights_of(
    low: Lowering, value: Value | None, channel_axis: int, order: Sequence[int]
) -> Weights:
    """A quantized constant with its output channels first.

    Args:
        low: the lowering.
        value: the operand.
        channel_axis: the only axis along which scales may differ.
        order: transposition to [O, k..., C/groups].
    """
    found = low.values.get(value) if value is not None else None
    if not isinstance(found, ConstGrid):
        raise Declined("the weights are not a quantized constant")
    if found.block:
        raise Declined("the weights have a scale per block")
    integers, zero = found.integers, found.zero_point.astype(np.int32)
    if found.scale.size > 1 and found.axis != channel_axis:
        raise Declined("the weights' scales are not per output channel")
    if DType.of(integers) not in BYTES:
        raise Declined(f"the weights are {integers.dtype}")
    wide, offset = integers.astype(np.int32), 0
    centred = wide - spread(zero, wide.shape, found.axis, 0)
    if centred.min(initial=0) >= -128 and centred.max(initial=0) <= 127:
        wide = centred
    elif np.any(zero != zero.flat[0]):
        raise Declined("the weights' zero points differ")
    else:
        shift = 128 if integers.dtype == np.uint8 else 0
        wide, offset = wide - shift, int(zero.flat[0]) - shift
    scale = np.atleast_1d(found.scale).astype(np.float32).reshape(-1)
    return Weights(np.ascontiguousarray(wide.transpose(order).astype(np.int8)), scale, offset, None)


def bias_of(low: Lowering, node: Node, slot: int, x_scale: float, scale: Array) -> Array | None:
    """The bias in units of the accumulator, int32 per output channel."""
    value = node.input(slot)
    found = low.values.get(value) if value is not None else None
    unit = np.float32(x_scale) * scale
    if isinstance(found, ConstGrid) and found.integers.dtype == np.int32:
        expected = unit if found.scale.size == unit.size else unit[0]
        if not np.any(found.zero_point) and np.allclose(found.scale, expected, rtol=1e-5):
            return found.integers.reshape(-1)
    reals = constant_of(low, node, slot)
    if reals is None:
        return None
    steps = np.rint(reals.reshape(-1).astype(np.float64) / unit.astype(np.float64))
    if np.any(np.abs(steps) >= 2**31):
        raise Declined("the bias does not fit 32 bits")
    return steps.astype(np.int32)


@dataclass(frozen=True)
class Window:
    """Spatial attributes, one entry per dimension."""

    groups: int
    strides: list[int]
    dilations: list[int]
    begin: list[int]
    end: list[int]


def window_of(node: Node, kernel: Sequence[int], size: Sequence[int]) -> Window:
    """The attributes of a convolution or pool, automatic padding worked out."""
    n = len(kernel)
    strides = list(node.attrs.get("strides", [1] * n))
    dilations = list(node.attrs.get("dilations", [1] * n))
    pads = list(node.attrs.get("pads", [0] * (2 * n)))
    auto = node.attrs.get("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    begin, end = pads[:n], pads[n:]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for d in range(n):
            count = -(-size[d] // strides[d])
            total = max(0, (count - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 - size[d])
            small = total // 2
            begin[d] = small if auto == "SAME_UPPER" else total - small
            end[d] = total - begin[d]
    elif auto == "VALID":
        begin, end = [0] * n, [0] * n
    elif auto != "NOTSET":
        raise Declined(f"padding by '{auto}'")
    return Window(int(node.attrs.get("group", 1)), strides, dilations, begin, end)


@dataclass(frozen=True)
class Convolution:
    """One CONV or CONV_TRANSPOSE to be emitted; `x` is channels-last as stored."""

    kind: Kind
    x: Grid
    weights: Weights
    window: Window
    shape: tuple[int, ...]

    def emit(self, low: Lowering, target: Target | None) -> Stored:
        """Append the operator, its result channels-last."""
        rank = len(self.shape)
        order = channels_last(rank)
        stage = low.stage([self.x.stored])
        stored = low.arrange(self.x.stored, order, stage)
        x = Grid(stored, self.x.scale, self.x.zero_point)
        begin = self.window.begin
        kernel = self.weights.integers.shape[1:-1]
        rows = kernel[-1] > 1 or (static(stored)[-1] == 1 and max(kernel) > 1)
        few = static(stored)[1] <= FEW_CHANNELS and self.window.groups == 1 and rows
        if few and self.kind == Kind.CONV and any(begin + self.window.end):
            x, begin = pad_with_zero_point(low, x, self.window, stage), [0] * len(begin)
        model = low.models[stage]
        weights = model.constant(self.weights.integers, 1.0, self.weights.zero_point)
        scales = model.constant(self.weights.scale)
        bias = ABSENT if self.weights.bias is None else model.constant(self.weights.bias)
        number = low.grid_id(x, stage)
        if target is None or target is ACCUMULATOR:
            y = low.make(stage, Type.F32 if target is None else Type.S32, self.shape, order)
            ends, grid = (0, 255), model.grid(number)
        else:
            y = low.make(stage, target.dtype, self.shape, order, target.scale, target.zero_point)
            ends, grid = target.limits, model.grid(y.ids[stage])
        n = rank - 2
        inputs = [number, weights, scales, bias, grid, *[ABSENT] * 4]
        attrs = [n, self.window.groups, *self.window.strides, *self.window.dilations, *begin]
        wide = LIMITS[Type.U8] if target is None else LIMITS.get(target.dtype, (0, 255))
        return low.emit(stage, self.kind, inputs, y, [*attrs, *wide, *ends])

    def pending(self, low: Lowering) -> Pending:
        """The result, waiting for its grid."""
        return low.pending(lambda target: self.emit(low, target))


def pad_with_zero_point(low: Lowering, x: Grid, window: Window, stage: int) -> Grid:
    """The padded input as a tensor of its own: cheap where there are few channels."""
    shape = static(x.stored)
    sizes = [n + b + e for n, b, e in zip(shape[2:], window.begin, window.end, strict=True)]
    y = low.make(stage, x.stored.dtype, (*shape[:2], *sizes), x.stored.order, x.scale, x.zero_point)
    into = np.empty(y.dims, np.int8)
    offset = sum(b * into.strides[1 + d] for d, b in enumerate(window.begin))
    part = into[tuple(slice(0, n) for n in x.stored.dims)]
    low.copy(
        low.models[stage], low.grid_id(x, stage), y.ids[stage], np.empty(x.stored.dims, np.int8),
        0, x.zero_point, part, offset,
    )  # fmt: skip
    return Grid(y, x.scale, x.zero_point)


@handles("Conv")
def conv(low: Lowering, node: Node) -> list[Abstract]:
    """One to three spatial dimensions."""
    x = grid_of(low, node.inputs[0])
    shape = static(x.stored)
    rank = len(shape)
    if not 3 <= rank <= 5:
        raise Declined("more than three spatial dimensions")
    order = (0, *range(2, rank), 1)
    w = weights_of(low, node.inputs[1], 0, order)
    bias = bias_of(low, node, 2, x.scale, w.scale)
    kernel = w.integers.shape[1:-1]
    window = window_of(node, kernel, shape[2:])
    sizes = [
        (shape[2 + d] + window.begin[d] + window.end[d] - (kernel[d] - 1) * window.dilations[d] - 1)
        // window.strides[d] + 1
        for d in range(rank - 2)
    ]  # fmt: skip
    weights = Weights(w.integers, w.scale, w.zero_point, bias)
    out = (shape[0], w.integers.shape[0], *sizes)
    return [Convolution(Kind.CONV, x, weights, window, out).pending(low)]


@handles("ConvTranspose")
def conv_transpose(low: Lowering, node: Node) -> list[Abstract]:
    """Weights [C, O/groups, k...] become [O, k..., C/groups]."""
    x = grid_of(low, node.inputs[0])
    shape = static(x.stored)
    rank = len(shape)
    w = weights_of(low, node.inputs[1], 1, plain(rank))
    groups = int(node.attrs.get("group", 1))
    if groups > 1 and w.scale.size > 1:
        raise Declined("scales per output channel of a grouped ConvTranspose")
    raw = w.integers
    split = raw.reshape(groups, raw.shape[0] // groups, *raw.shape[1:])
    moved = np.moveaxis(split, 1, -1)  # groups, O/groups, k..., C/groups
    integers = np.ascontiguousarray(moved.reshape(-1, *moved.shape[2:]))
    kernel = integers.shape[1:-1]
    n = rank - 2
    strides = list(node.attrs.get("strides", [1] * n))
    dilations = list(node.attrs.get("dilations", [1] * n))
    extra = list(node.attrs.get("output_padding", [0] * n))
    full = [(shape[2 + d] - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 for d in range(n)]
    auto = node.attrs.get("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Declined(f"padding by '{auto}'")
    pads = list(node.attrs.get("pads", [0] * (2 * n)))
    if "output_shape" in node.attrs or auto.startswith("SAME"):
        sizes = list(
            node.attrs.get("output_shape", [s * t for s, t in zip(shape[2:], strides, strict=True)])
        )[-n:]
        total = [max(0, full[d] + extra[d] - sizes[d]) for d in range(n)]
        lower = auto in ("SAME_LOWER", "NOTSET")
        begin = [t - t // 2 if lower else t // 2 for t in total]
    else:
        begin = pads[:n]
        sizes = [full[d] + extra[d] - pads[d] - pads[n + d] for d in range(n)]
    bias = bias_of(low, node, 2, x.scale, w.scale)
    window = Window(groups, strides, dilations, begin, [0] * n)
    weights = Weights(integers, w.scale, w.zero_point, bias)
    out = (shape[0], integers.shape[0], *sizes)
    return [Convolution(Kind.CONV_TRANSPOSE, x, weights, window, out).pending(low)]


def dense(low: Lowering, x: Grid, w: Weights, shape: tuple[int, ...]) -> Pending:
    """Input [..., K] times weights [N, 1, K]: a convolution over rows."""
    inner = static(x.stored)[-1]
    rows = int(np.prod(static(x.stored)[:-1], dtype=np.int64))
    one = Window(1, [1], [1], [0], [0])

    def emit(target: Target | None) -> Stored:
        stage = low.stage([x.stored])
        stored = low.arrange(x.stored, plain(len(static(x.stored))), stage)
        flat = low.reshape(stored, (1, rows, inner), stage)
        flat.shape, flat.order = (1, inner, rows), (0, 2, 1)
        source = Grid(flat, x.scale, x.zero_point)
        y = Convolution(Kind.CONV, source, w, one, (1, shape[-1], rows)).emit(low, target)
        y.shape, y.order = (1, rows, shape[-1]), plain(3)
        return low.reshape(y, shape, stage)

    return low.pending(emit)


def block_gemm(low: Lowering, x: Grid, w: ConstGrid, bias: Array | None) -> Pending:
    """Weights with a scale per block of K, [N, K] or [K, N] with the block along K."""
    if w.axis == 0:  # [K, N]
        w = ConstGrid(w.integers.T, w.scale.T, w.zero_point.T, 1, w.block)
    shape = static(x.stored)
    span = w.integers
    limit = (int(span.min()), int(span.max()))
    if limit[0] < -128 or limit[1] > 127 or w.block % 2:
        raise Declined("blocked weights that are not signed bytes, or an odd block")
    four = limit[0] >= -8 and limit[1] <= 7 and w.integers.shape[1] % 2 == 0

    def emit(target: Target | None) -> Stored:
        stage = low.stage([x.stored])
        stored = low.arrange(x.stored, plain(len(shape)), stage)
        model = low.models[stage]
        data = np.ascontiguousarray(w.integers.astype(np.int8))
        if four:
            nibbles = (data & 15).astype(np.uint8).reshape(-1, 2)
            packed = nibbles[:, 0] | nibbles[:, 1] << 4
            weights = model.constant(packed, dtype=Type.S4, shape=data.shape)
        else:
            weights = model.constant(data)
        scales = model.constant(np.ascontiguousarray(w.scale.astype(np.float32)))
        zeros = ABSENT
        if np.any(w.zero_point):
            zeros = model.constant(np.ascontiguousarray(w.zero_point.astype(np.int8)))
        floats = ABSENT if bias is None else model.constant(bias.reshape(-1).astype(np.float32))
        out = (*shape[:-1], data.shape[0])
        if target is None:
            y, ends = low.make(stage, Type.F32, out), (0, 255)
        else:
            y = low.make(stage, target.dtype, out, None, target.scale, target.zero_point)
            ends = target.limits
        source = low.grid_id(Grid(stored, x.scale, x.zero_point), stage)
        inputs = [source, weights, scales, zeros, floats]
        return low.emit(stage, Kind.BLOCK_GEMM, inputs, y, [w.block, *ends])

    return low.pending(emit)


@handles("Gemm")
def gemm(low: Lowering, node: Node) -> list[Abstract]:
    """Weights must be constant; alpha and beta 1."""
    if node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0:
        raise Declined("alpha or beta is not 1")
    if node.attrs.get("transA", 0):
        raise Declined("transposed input")
    x = grid_of(low, node.inputs[0])
    turned = bool(node.attrs.get("transB", 0))
    blocked = low.values.get(node.inputs[1]) if node.inputs[1] is not None else None
    if isinstance(blocked, ConstGrid) and blocked.block:
        bias = constant_of(low, node, 2)
        if blocked.axis != (1 if turned else 0):
            raise Declined("blocks along the output channels")
        return [block_gemm(low, x, blocked, bias)]
    w = weights_of(low, node.inputs[1], 0 if turned else 1, (0, 1) if turned else (1, 0))
    bias = bias_of(low, node, 2, x.scale, w.scale)
    n, k = w.integers.shape
    if bias is not None and bias.size != n:
        if bias.size != 1:
            raise Declined("a bias that is not one per output")
        bias = np.repeat(bias, n)
    weights = Weights(w.integers.reshape(n, 1, k), w.scale, w.zero_point, bias)
    return [dense(low, x, weights, (static(x.stored)[0], n))]


@handles("MatMul")
def matmul(low: Lowering, node: Node) -> list[Abstract]:
    """With a constant matrix a convolution, otherwise of two activations."""
    a = grid_of(low, node.inputs[0])
    second = low.values.get(node.inputs[1]) if node.inputs[1] is not None else None
    if isinstance(second, Const):
        raise Declined("the weights are not quantized")
    if isinstance(second, ConstGrid):
        if second.integers.ndim != 2:
            raise Declined("constant weights that are no matrix")
        if second.block:
            if second.axis != 0:
                raise Declined("blocks along the output channels")
            return [block_gemm(low, a, second, None)]
        w = weights_of(low, node.inputs[1], 1, (1, 0))
        n, k = w.integers.shape
        weights = Weights(w.integers.reshape(n, 1, k), w.scale, w.zero_point, None)
        return [dense(low, a, weights, (*static(a.stored)[:-1], n))]
    pair = [bytes_of(low, value) for value in node.inputs]
    return [_activations(low, *pair)]


def _activations(low: Lowering, a: Grid, b: Grid) -> Pending:
    first, second = static(a.stored), static(b.stored)
    if len(first) < 2 or len(second) < 2:
        raise Declined("a vector operand")
    batch = np.broadcast_shapes(first[:-2], second[:-2])
    for dims in (first[:-2], second[:-2]):
        if np.prod(dims, dtype=np.int64) not in (1, np.prod(batch, dtype=np.int64)):
            raise Declined("batches that are neither equal nor 1")

    def emit(target: Target | None) -> Stored:
        if target is not None and target.dtype == Type.S16:
            raise Declined("a product of more than 8 bits")
        stage = low.stage([a.stored, b.stored])
        ids = []
        for grid in (a, b):
            stored = low.arrange(grid.stored, plain(len(static(grid.stored))), stage)
            ids.append(low.grid_id(Grid(stored, grid.scale, grid.zero_point), stage))
        shape = (*batch, first[-2], second[-1])
        if target is None:
            y, ends = low.make(stage, Type.F32, shape), (0, 255)
        else:
            y = low.make(stage, target.dtype, shape, None, target.scale, target.zero_point)
            ends = target.limits
        return low.emit(stage, Kind.MATMUL, ids, y, ends)

    return low.pending(emit)
