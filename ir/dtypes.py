"""Element types, numbered as in the ONNX standard."""

from __future__ import annotations

import enum
from typing import Any

import ml_dtypes
import numpy as np


class DType(enum.IntEnum):
    """Element type of a tensor; values are those of `onnx.TensorProto.DataType`."""

    UNDEFINED = 0
    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26
    FLOAT6E2M3 = 27
    FLOAT6E3M2 = 28

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy type that holds one element (sub-byte types unpacked, one per byte)."""
        kind: np.dtype[np.generic] = np.dtype(_NUMPY[self])
        return kind

    @property
    def is_float(self) -> bool:
        """True for real floating point types of any width."""
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers of any width."""
        return self in _INTEGER_BITS

    @property
    def bits(self) -> int:
        """Bits per element as stored in a file; 0 for strings and undefined types."""
        if self in _INTEGER_BITS:
            return _INTEGER_BITS[self]
        if self in (DType.STRING, DType.UNDEFINED):
            return 0
        return _SMALL_FLOAT_BITS.get(self, self.numpy.itemsize * 8)

    @property
    def integer_range(self) -> tuple[int, int]:
        """Smallest and largest value of an integer type."""
        bits = _INTEGER_BITS[self]
        if self.name.startswith("U"):
            return 0, (1 << bits) - 1
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    @staticmethod
    def of(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> DType:
        """The element type of a numpy array (objects and text are STRING)."""
        if array.dtype.kind in "OUS":
            return DType.STRING
        return _FROM_NUMPY[array.dtype]


_INTEGER_BITS = {
    DType.UINT8: 8,
    DType.INT8: 8,
    DType.UINT16: 16,
    DType.INT16: 16,
    DType.INT32: 32,
    DType.INT64: 64,
    DType.UINT32: 32,
    DType.UINT64: 64,
    DType.UINT4: 4,
    DType.INT4: 4,
    DType.UINT2: 2,
    DType.INT2: 2,
}
_SMALL_FLOAT_BITS = {DType.FLOAT4E2M1: 4, DType.FLOAT6E2M3: 6, DType.FLOAT6E3M2: 6}
_NUMPY: dict[DType, Any] = {
    DType.FLOAT: np.float32,
    DType.UINT8: np.uint8,
    DType.INT8: np.int8,
    DType.UINT16: np.uint16,
    DType.INT16: np.int16,
    DType.INT32: np.int32,
    DType.INT64: np.int64,
    DType.STRING: object,
    DType.BOOL: np.bool_,
    DType.FLOAT16: np.float16,
    DType.DOUBLE: np.float64,
    DType.UINT32: np.uint32,
    DType.UINT64: np.uint64,
    DType.COMPLEX64: np.complex64,
    DType.COMPLEX128: np.complex128,
    DType.BFLOAT16: ml_dtypes.bfloat16,
    DType.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    DType.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    DType.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    DType.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
    DType.UINT4: ml_dtypes.uint4,
    DType.INT4: ml_dtypes.int4,
    DType.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
    DType.FLOAT8E8M0: ml_dtypes.float8_e8m0fnu,
    DType.UINT2: ml_dtypes.uint2,
    DType.INT2: ml_dtypes.int2,
    DType.FLOAT6E2M3: ml_dtypes.float6_e2m3fn,
    DType.FLOAT6E3M2: ml_dtypes.float6_e3m2fn,
}
_FROM_NUMPY = {np.dtype(kind): dtype for dtype, kind in _NUMPY.items()}
_FLOATS = frozenset(
    d for d in _NUMPY if d not in _INTEGER_BITS and d not in (DType.STRING, DType.BOOL)
) - {DType.COMPLEX64, DType.COMPLEX128}
