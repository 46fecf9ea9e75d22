"""Constant data: arrays that are read when asked for, never copied by a rewrite."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .dtypes import DType

Array = NDArray[Any]


KEPT = 256
"""Elements up to which a lazy tensor is kept once it was read: scalars are looked at often."""


class Source(Protocol):
    """Where the elements of a lazy tensor come from (a proto, a mapped file)."""

    def load(self) -> Array:
        """Read all elements, in the tensor's shape."""
        ...


PUT_ASIDE: ContextVar[Callable[[Tensor], Source | None] | None] = ContextVar(
    "put_aside", default=None
)
"""Takes the elements of each new tensor out of memory, or declines; see `external.Spill`."""


class Tensor:
    """An immutable constant of a known element type and shape."""

    __slots__ = ("_array", "dtype", "shape", "source")

    def __init__(
        self,
        array: Array | None = None,
        *,
        dtype: DType | None = None,
        shape: tuple[int, ...] = (),
        source: Source | None = None,
    ) -> None:
        """Hold `array`, or the promise of one: `dtype` and `shape` then come with `source`."""
        if array is not None:
            array = np.asarray(array)
            self.dtype, self.shape = dtype or DType.of(array), array.shape
            array = _read_only(array)
        else:
            assert source is not None and dtype is not None
            self.dtype, self.shape = dtype, shape
        self._array = array
        self.source = source
        if array is not None and (put_aside := PUT_ASIDE.get()) is not None:
            self.source = put_aside(self)
            self._array = array if self.source is None else None

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickles: the elements, wherever they come from."""
        return _restored, (np.asarray(self.numpy()), self.dtype)

    def numpy(self) -> Array:
        """The elements as a read-only array of `shape`; a large lazy one is read anew each time."""
        array = self._array
        if array is None:
            assert self.source is not None
            array = _read_only(self.source.load())
            if self.size <= KEPT:
                self._array = array
        return array

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in a file, sub-byte types packed."""
        return (self.size * self.dtype.bits + 7) // 8

    def __repr__(self) -> str:
        """Type and shape, never the elements."""
        return f"Tensor({self.dtype.name.lower()}{list(self.shape)})"


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _restored(array: Array, dtype: DType) -> Tensor:
    return Tensor(array, dtype=dtype)
