"""Quantization grids: which reals an integer tensor can hold, and the arithmetic on them.

real = scale * (integer - zero_point), integers rounded half to even and saturated, as ONNX's
QuantizeLinear and DequantizeLinear define.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .dtypes import DType
from .tensor import Array, Tensor

ELEMENTS = 1 << 22
"""Of a constant that are looked at at once: each takes some 20 bytes meanwhile."""
SMALLEST_SCALE = 2.0**-100
"""Scales below this are rounded up to it: engines that flush denormals would see zero."""


@dataclass(frozen=True, eq=False)
class QuantInfo:
    """A grid, per tensor, per channel or blocked.

    Attributes:
        dtype: integer type of the stored tensor; or FLOAT16, whose reals have no steps: scale 1.
        scale: float32, positive; shape () per tensor, [channels] per channel, and for a blocked
            grid the tensor's shape with `axis` divided by `block`.
        zero_point: integers within the type's range, shape of `scale`.
        axis: the channel (or blocked) axis, None per tensor.
        block: elements of `axis` that share a scale, 0 unless blocked.
        narrow: the lowest integer of a signed type is not used, so that the grid is symmetric.
        integers: of a constant, the integers it is stored as where a pass chose others than the
            nearest; the constant's shape. They belong to that constant and that scale.
    """

    dtype: DType
    scale: Array
    zero_point: Array
    axis: int | None = None
    block: int = 0
    narrow: bool = False
    integers: Array | None = None

    def with_scale(self, scale: Array) -> QuantInfo:
        """The same grid with other steps, float32; chosen integers belong to the old ones."""
        return dataclasses.replace(self, scale=np.asarray(scale, np.float32), integers=None)

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer used."""
        low, high = self.dtype.integer_range
        return (low + 1 if self.narrow and low < 0 else low), high

    @property
    def range(self) -> tuple[Array, Array]:
        """Smallest and largest real of the grid, float64, shape of `scale`."""
        low, high = self.limits
        scale, zero = self.scale.astype(np.float64), self.zero_point.astype(np.float64)
        return (low - zero) * scale, (high - zero) * scale

    def spread(self, values: Array, shape: tuple[int, ...]) -> Array:
        """`values` (one per scale) in a shape that broadcasts against a tensor of `shape`."""
        if self.axis is None or values.ndim == 0:
            return values
        axis = self.axis % len(shape)
        if self.block:
            spread: Array = np.repeat(values, self.block, axis)
            return spread.take(range(shape[axis]), axis)
        return values.reshape([-1 if k == axis else 1 for k in range(len(shape))])

    def quantize(self, real: Array) -> Array:
        """Integers (int32) nearest to `real`, saturated; for FLOAT16 reals; shape kept."""
        if self.dtype.is_float:
            largest = np.finfo(np.float16).max
            return np.clip(real, -largest, largest).astype(np.float16)
        scale = self.spread(self.scale.astype(np.float32), real.shape)
        zero = self.spread(self.zero_point.astype(np.float32), real.shape)
        low, high = self.limits
        steps = np.rint(np.asarray(real, np.float32) / scale) + zero
        integers: Array = np.clip(steps, low, high).astype(np.int32)
        return integers

    def rows(self, start: int, stop: int, rank: int) -> QuantInfo:
        """The grid of entries `start` to `stop` of the first axis of a tensor of `rank` axes.

        Where blocks lie along that axis, `start` must be the first of one.
        """
        parts = slice(start, stop)
        integers = None if self.integers is None else self.integers[parts]
        if self.axis is None or self.scale.ndim == 0 or not (self.block or self.axis % rank == 0):
            return dataclasses.replace(self, integers=integers)
        if self.block and self.axis % rank == 0:
            parts = slice(start // self.block, -(-stop // self.block))
        scale, zero = self.scale[parts], self.zero_point[parts]
        return dataclasses.replace(self, scale=scale, zero_point=zero, integers=integers)

    def stored(self, real: Array) -> Array:
        """Integers (int32) that the constant `real` is stored as: the chosen or the nearest."""
        return self.quantize(real) if self.integers is None else self.integers.astype(np.int32)

    def tensor(self, real: Array) -> Tensor:
        """The constant `real` as it is stored: its integers, in the grid's type."""
        whole = np.empty(real.shape, self.dtype.numpy)
        for part, info in self.parts(real.shape):
            whole[part] = info.stored(real[part])
        return Tensor(whole, dtype=self.dtype)

    def parts(self, shape: tuple[int, ...]) -> Iterator[tuple[Any, QuantInfo]]:
        """Parts of the first axis of a tensor of `shape`, of about `ELEMENTS`, each with its grid.

        What is done part by part takes little memory beside a large tensor.
        """
        length = shape[0] if shape else 0
        step = max(1, ELEMENTS * length // max(math.prod(shape), 1))
        step = -(-step // max(self.block, 1)) * max(self.block, 1)
        if step >= length:
            yield ..., self
            return
        for start in range(0, length, step):
            stop = min(start + step, length)
            yield slice(start, stop), self.rows(start, stop, len(shape))

    def dequantize(self, integers: Array) -> Array:
        """Reals (float32) that the integers stand for."""
        if self.dtype.is_float:
            return integers.astype(np.float32)
        zero = self.spread(self.zero_point.astype(np.int32), integers.shape)
        scale = self.spread(self.scale.astype(np.float32), integers.shape)
        reals: Array = (integers.astype(np.int32) - zero).astype(np.float32) * scale
        return reals

    def fake(self, real: Array) -> Array:
        """`real` (float32) rounded to the nearest of the grid."""
        return self.dequantize(self.quantize(real))

    def kept(self, real: Array) -> Array:
        """What is left (float32) of the constant `real` once it is stored."""
        whole = np.empty_like(real, np.float32)
        for part, info in self.parts(real.shape):
            whole[part] = info.dequantize(info.stored(real[part]))
        return whole


def grid(
    low: ArrayLike,
    high: ArrayLike,
    dtype: DType,
    *,
    symmetric: bool = False,
    axis: int | None = None,
    block: int = 0,
) -> QuantInfo:
    """The grid that covers the reals from `low` to `high`, always holding 0 exactly.

    Args:
        low: smallest real, one per scale.
        high: largest real, one per scale.
        dtype: integer type.
        symmetric: zero point 0 for a signed type (lowest integer unused), the middle for an
            unsigned type unless `low` is never negative, where it is 0 and all steps serve.
        axis: channel axis when `low` and `high` have one entry per channel.
        block: see `QuantInfo`.

    An empty range (all zero) gives scale 1. Reference: ONNX QuantizeLinear; TensorFlow Lite's
    quantization specification for the symmetric narrow range.
    """
    bottom = np.minimum(np.asarray(low, np.float64), 0.0)
    top = np.maximum(np.asarray(high, np.float64), 0.0)
    qmin, qmax = dtype.integer_range
    narrow = symmetric and qmin < 0
    if symmetric and (narrow or bool(np.any(bottom < 0))):
        reach = np.maximum(-bottom, top)
        half = (qmax - (qmin + narrow)) // 2
        scale, zero = reach / half, np.full(reach.shape, qmin + (qmax - qmin + 1) // 2)
    else:
        scale = (top - bottom) / (qmax - qmin)
        zero = np.rint(qmin - bottom / np.where(scale > 0, scale, 1.0))
    scale = np.where(scale > 0, np.maximum(scale, SMALLEST_SCALE), 1.0)
    zero = np.clip(zero, qmin, qmax).astype(np.int32)
    return QuantInfo(dtype, scale.astype(np.float32), zero, axis, block, narrow)
