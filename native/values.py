"""What a value of the ONNX graph is while it is lowered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from .model import Array, Function, Model, Type

OUTSIDE = -1
"""Stage of what the caller gives. Stages 0, 2, 4... are programs, 1, 3, 5... ONNX Runtime's."""


LIMITS = {Type.U8: (0, 255), Type.S8: (-128, 127), Type.S16: (-32768, 32767)}


class Declined(Exception):
    """A node (or a use of one) has no integer form; the text says why."""


@dataclass(eq=False)
class Stored:
    """A tensor in memory at run time.

    Attributes:
        dtype: element type.
        shape: dimensions in ONNX's order, None when unknown.
        order: stored dimension i is dimension order[i] of `shape`; channels-last tensors of rank 4
            have (0, 2, 3, 1).
        stage: where it is computed.
        ids: its tensor number in the model of each stage that uses it.
        scale, zero_point: its grid if 8 or 16 bits.
        source: the tensor it was looked up from and the table, if it was.
    """

    dtype: Type
    shape: tuple[int, ...] | None
    order: tuple[int, ...]
    stage: int
    ids: dict[int, int] = field(default_factory=dict)
    scale: float = 1.0
    zero_point: int = 0
    source: tuple[Stored, Array] | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions as stored."""
        shape = static(self)
        return tuple(shape[i] for i in self.order)


@dataclass(frozen=True, eq=False)
class Rows:
    """An operator whose number of rows is known only while running: a program of its own.

    Attributes:
        label: what messages call it.
        stage: it runs after that stage's program.
        inputs: the tensors it reads; each but the first has one entry for each row.
        model: the model for up to so many rows, whose last input is how many there are.
    """

    label: str
    stage: int
    inputs: list[Stored]
    model: Callable[[int], Model]


def static(stored: Stored) -> tuple[int, ...]:
    """The shape; `Declined` when it is unknown."""
    if stored.shape is None:
        raise Declined("its shape is unknown")
    return stored.shape


@dataclass(frozen=True, eq=False)
class Raw:
    """Elements as they are: floats, indices, or integers whose grid a DequantizeLinear names."""

    stored: Stored


@dataclass(frozen=True, eq=False)
class Grid:
    """Reals that are a function of stored integers: dequantized, or that and unary functions.

    Attributes:
        stored: the integers.
        scale, zero_point: their grid.
        table: float32 [256], or [channels, 256] with `axis`: the real of each 8-bit pattern; None
            for scale * (integer - zero_point).
        axis: dimension of the channels.
    """

    stored: Stored
    scale: float
    zero_point: int
    table: Array | None = None
    axis: int = 0

    def reals(self) -> Array:
        """The table, computed if there is none."""
        if self.table is not None:
            return self.table
        if self.stored.dtype not in (Type.U8, Type.S8):
            raise Declined("a table needs 8 bits")
        return (patterns(self.stored.dtype) - np.float32(self.zero_point)) * np.float32(self.scale)


def patterns(dtype: Type) -> Array:
    """The integers of the 256 bit patterns of U8 or S8, float32, in the order of tables."""
    bits = np.arange(256, dtype=np.uint8)
    return (bits.view(np.int8) if dtype == Type.S8 else bits).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Const:
    """A constant of the graph."""

    array: Array


@dataclass(frozen=True, eq=False)
class ConstGrid:
    """A dequantized constant: integers, scales and zero points per tensor, channel or block."""

    integers: Array
    scale: Array
    zero_point: Array
    axis: int
    block: int = 0

    def reals(self) -> Array:
        """The constant in float32."""
        shape = self.integers.shape
        zero = spread(self.zero_point, shape, self.axis, self.block).astype(np.int32)
        steps = (self.integers.astype(np.int32) - zero).astype(np.float32)
        return steps * spread(self.scale, shape, self.axis, self.block)


def spread(parameter: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Scales or zero points per tensor, channel or block, to broadcast with a tensor of `shape`."""
    if parameter.size == 1:
        return parameter.reshape(())
    if block:
        return np.repeat(parameter, block, axis)[tuple(slice(n) for n in shape)]
    return parameter.reshape([-1 if d == axis else 1 for d in range(len(shape))])


@dataclass(frozen=True)
class Target:
    """The grid a pending result is rounded to; limits in units of its type."""

    dtype: Type
    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def limits(self) -> tuple[int, int]:
        """The attributes `lo, hi`."""
        return self.low, self.high


def whole(dtype: Type, scale: float, zero_point: int) -> Target:
    """A grid with the limits of its type."""
    return Target(dtype, scale, zero_point, *LIMITS[dtype])


ACCUMULATOR = Target(Type.S32, 1.0, 0, 0, 255)
"""The 32-bit sum as it is; no limits apply."""


FLOAT = Target(Type.F32, 1.0, 0, 0, 255)
"""Reals as they are; no limits apply."""


@dataclass(frozen=True, eq=False)
class Pending:
    """A real result of integers that is computed once the grid it goes to is known.

    Attributes:
        emit: make the operator, for a grid or (None) in float32; may decline.
        bounded: `emit` keeps to the target's limits; otherwise it fills the whole type.
        low, high: bounds that Relu and Clip put on the result.
        of: the result it is a function of, the function's name and its numbers a, b.
    """

    emit: Callable[[Target | None], Stored]
    bounded: bool = True
    low: float = -np.inf
    high: float = np.inf
    of: tuple[Pending, Function, float, float] | None = None

    @property
    def free(self) -> bool:
        """Whether no bound was put on it."""
        return not (np.isfinite(self.low) or np.isfinite(self.high))

    def clipped(self, low: float, high: float) -> Pending:
        """The result within narrower bounds."""
        low, high = max(self.low, low), max(min(self.high, high), max(self.low, low))
        return replace(self, low=low, high=high)


Abstract = Raw | Grid | Const | ConstGrid | Pending
