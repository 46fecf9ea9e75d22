"""Constant data in protos: TensorProto and SparseTensorProto to arrays and back.

A tensor that nobody changed keeps the proto it came from and goes back as it was, never decoded.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from . import memory
from .dtypes import DType
from .errors import ModelError
from .tensor import Array, Tensor

LARGE = 1 << 20
"""Bytes from which it matters what memory a tensor takes."""
_FIELDS = {
    DType.FLOAT: ("float_data", np.float32),
    DType.COMPLEX64: ("float_data", np.float32),
    DType.DOUBLE: ("double_data", np.float64),
    DType.COMPLEX128: ("double_data", np.float64),
    DType.INT64: ("int64_data", np.int64),
    DType.UINT32: ("uint64_data", np.uint64),
    DType.UINT64: ("uint64_data", np.uint64),
}
"""Where types that are not in `int32_data` are stored when not in `raw_data`."""


@dataclass(frozen=True)
class ProtoSource:
    """The elements of a TensorProto that holds its data itself."""

    proto: onnx.TensorProto

    def load(self) -> Array:
        """Decode the elements."""
        return _decode(self.proto)


@dataclass(frozen=True)
class Extent:
    """Bytes `start` to `stop` of a file that is mapped into memory (None: it is empty)."""

    file: mmap.mmap | None
    start: int
    stop: int

    def read(self) -> memoryview:
        """The bytes; they leave memory, but for the system's cache, with the last view of them."""
        if self.file is None or self.start == self.stop:
            return memoryview(b"")
        view = np.frombuffer(self.file, np.uint8, self.stop - self.start, self.start)
        if len(view) >= LARGE and hasattr(mmap, "MADV_DONTNEED"):
            weakref.finalize(view, _release, self.file, self.start, self.stop).atexit = False
        return view.data


def _release(file: mmap.mmap, start: int, stop: int) -> None:
    """Forget the pages of a part of `file`: what is read again is mapped again."""
    first = start - start % mmap.PAGESIZE
    file.madvise(mmap.MADV_DONTNEED, first, stop - first)


@dataclass(frozen=True)
class ExternalSource:
    """The elements of a TensorProto whose data lies in another file, mapped into memory."""

    proto: onnx.TensorProto
    data: Extent

    def load(self) -> Array:
        """A view of the file's bytes (unpacked when the type is smaller than a byte)."""
        return _from_bytes(self.data.read(), DType(self.proto.data_type), tuple(self.proto.dims))


@dataclass(frozen=True)
class SparseSource:
    """A sparse initializer, made dense when read."""

    proto: onnx.SparseTensorProto

    def load(self) -> Array:
        """The dense array."""
        values, indices = _decode(self.proto.values), _decode(self.proto.indices)
        dense = np.zeros(tuple(self.proto.dims), values.dtype)
        if indices.ndim == 1:  # linear indices
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        return dense


def tensor_from_proto(proto: onnx.TensorProto, data: Extent | None = None) -> Tensor:
    """A lazy tensor over `proto`, which must not be changed afterwards.

    Args:
        proto: type, shape and, without `data`, the elements.
        data: the elements as `raw_data` would hold them.
    """
    if proto.HasField("segment"):
        raise ModelError(f"tensor '{proto.name}' is stored in segments, which nobody can read")
    if _dtype(proto) is DType.UNDEFINED:
        raise ModelError(f"tensor '{proto.name}' has no element type; the file is damaged")
    _check_shape(proto.dims, proto.name)
    if data is None:
        _check_data(proto, _dtype(proto))
    source = ProtoSource(proto) if data is None else ExternalSource(proto, data)
    return Tensor(dtype=_dtype(proto), shape=tuple(proto.dims), source=source)


def tensor_from_sparse(proto: onnx.SparseTensorProto) -> Tensor:
    """A lazy dense tensor over a sparse one; `ModelError` when it is not complete."""
    _check_shape(proto.dims, proto.values.name)
    for part in (proto.values, proto.indices):
        tensor_from_proto(part)
    _check_sparse(proto)
    return Tensor(dtype=_dtype(proto.values), shape=tuple(proto.dims), source=SparseSource(proto))


def tensor_to_proto(tensor: Tensor, name: str | None = None) -> onnx.TensorProto:
    """The tensor with its data inside; `name` replaces the name it had in its file, if any."""
    if isinstance(tensor.source, ProtoSource):
        proto = onnx.TensorProto()
        proto.CopyFrom(tensor.source.proto)
        if name is not None:
            proto.name = name
        return proto
    proto = describe(tensor, name)
    if tensor.dtype is DType.STRING:
        texts = tensor.numpy().flat
        proto.string_data.extend(s if isinstance(s, bytes) else str(s).encode() for s in texts)
    else:
        proto.raw_data = bytes(stored_bytes(tensor))
    return proto


def describe(tensor: Tensor, name: str | None = None) -> onnx.TensorProto:
    """Type, shape and the annotations of the file, no data."""
    proto = onnx.TensorProto(data_type=int(tensor.dtype), dims=tensor.shape)
    if isinstance(tensor.source, (ProtoSource, ExternalSource)):
        known = tensor.source.proto
        proto.name, proto.doc_string = known.name, known.doc_string
        proto.metadata_props.extend(known.metadata_props)
    if name is not None:
        proto.name = name
    return proto


def stored_bytes(tensor: Tensor) -> memoryview:
    """The elements as `raw_data` and data files hold them: little-endian, sub-byte types packed."""
    if isinstance(tensor.source, ExternalSource):
        return tensor.source.data.read()
    array = np.ascontiguousarray(tensor.numpy()).astype(tensor.dtype.numpy, copy=False)
    if tensor.dtype.bits % 8:
        return _pack(array.reshape(-1).view(np.uint8), tensor.dtype.bits).data
    return array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data


def stored_size(proto: onnx.TensorProto) -> int:
    """How many bytes `raw_data` of this type and shape has."""
    dtype = _dtype(proto)
    if not dtype.bits:
        raise ModelError(
            f"tensor '{proto.name}': elements of type {dtype.name.lower()} cannot be external data"
        )
    elements: int = math.prod(proto.dims)
    return (elements * dtype.bits + 7) // 8


def _dtype(proto: onnx.TensorProto) -> DType:
    try:
        return DType(proto.data_type)
    except ValueError:
        raise ModelError(
            f"tensor '{proto.name}' has the unknown element type {proto.data_type}"
        ) from None


def _check_shape(dims: Sequence[int], name: str) -> None:
    if any(dim < 0 for dim in dims):
        raise ModelError(f"tensor '{name}' has the impossible shape {list(dims)}")


def _check_data(proto: onnx.TensorProto, dtype: DType) -> None:
    """`ModelError` unless the proto has as many elements as its shape says."""
    size: int = math.prod(proto.dims)
    if dtype is DType.STRING:
        have, want = len(proto.string_data), size
    elif proto.HasField("raw_data"):
        have, want = len(proto.raw_data), (size * dtype.bits + 7) // 8
    elif dtype in _FIELDS:
        pairs = dtype in (DType.COMPLEX64, DType.COMPLEX128)
        have, want = len(getattr(proto, _FIELDS[dtype][0])), size * (1 + pairs)
    else:
        have, want = len(proto.int32_data), _entries(size, dtype)
    if have != want:
        raise ModelError(
            f"tensor '{proto.name}' does not hold the data of shape {list(proto.dims)}; "
            "the file is damaged"
        )


def _entries(size: int, dtype: DType) -> int:
    """How many entries of `int32_data` hold `size` elements."""
    return (size * dtype.bits + 7) // 8 if dtype.bits in (2, 4) else size


def _check_sparse(proto: onnx.SparseTensorProto) -> None:
    """`ModelError` unless all indices are inside; `OutOfMemory` when it is too large if dense."""
    name, dims = proto.values.name, list(proto.dims)
    values, indices = proto.values.dims, _decode(proto.indices)
    size: int = math.prod(dims)
    memory.check(size * _dtype(proto.values).numpy.itemsize, f"tensor '{name}', made dense,")
    bounds = np.array(dims if indices.ndim == 2 else size, np.int64)
    shapes = ((*values,), (*values, len(dims)))
    fits = len(values) == 1 and indices.shape in shapes and indices.dtype == np.int64
    if not fits or (indices < 0).any() or (indices >= bounds).any():
        raise ModelError(f"sparse tensor '{name}' has indices that do not fit its shape {dims}")


def _from_bytes(data: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> Array:
    if dtype.bits % 8:
        codes = _unpack(np.frombuffer(data, np.uint8), dtype.bits, math.prod(shape))
        return codes.view(dtype.numpy).reshape(shape)
    return np.frombuffer(data, dtype.numpy.newbyteorder("<")).reshape(shape)


def _decode(proto: onnx.TensorProto) -> Array:
    dtype, shape = DType(proto.data_type), tuple(proto.dims)
    try:
        if dtype is DType.STRING:
            return _strings(proto.string_data).reshape(shape)
        if proto.HasField("raw_data"):
            return _from_bytes(proto.raw_data, dtype, shape)
        if dtype in _FIELDS:
            name, stored = _FIELDS[dtype]
            array = np.array(getattr(proto, name), stored)
            pairs = dtype in (DType.COMPLEX64, DType.COMPLEX128)
            return (array.view(dtype.numpy) if pairs else array.astype(dtype.numpy)).reshape(shape)
        array = np.array(proto.int32_data, np.int32)
        if dtype.bits in (2, 4):  # packed like raw_data; other types have one element per entry
            return _from_bytes(array.astype(np.uint8).tobytes(), dtype, shape)
        if dtype is DType.BOOL or dtype.is_integer:
            return array.astype(dtype.numpy).reshape(shape)
        return array.astype(f"u{dtype.numpy.itemsize}").view(dtype.numpy).reshape(shape)
    except ValueError:
        raise ModelError(
            f"tensor '{proto.name}' does not hold the data of shape {list(shape)}; "
            "the file is damaged"
        ) from None


def _strings(data: Sequence[bytes]) -> Array:
    array = np.empty(len(data), object)
    for k, item in enumerate(data):
        try:
            array[k] = item.decode()
        except UnicodeDecodeError:
            array[k] = item
    return array


def _pack(codes: Array, bits: int) -> Array:
    """Four codes of 2, 4 or 6 bits at a time into 1, 2 or 3 bytes, the first code lowest."""
    words = np.zeros((len(codes) + 3) // 4, "<u4")
    for k in range(4):
        part = codes[k::4].astype(np.uint32) & ((1 << bits) - 1)
        words[: len(part)] |= part << np.uint32(bits * k)
    packed = words.view(np.uint8).reshape(-1, 4)[:, : bits // 2].reshape(-1)
    return packed[: (len(codes) * bits + 7) // 8]


def _unpack(packed: Array, bits: int, size: int) -> Array:
    """The inverse of `_pack`: one code per byte."""
    if len(packed) != (size * bits + 7) // 8:
        raise ValueError("wrong number of bytes")
    width = bits // 2
    groups = np.zeros((-(-len(packed) // width), width), np.uint8)
    groups.reshape(-1)[: len(packed)] = packed
    words = np.zeros((len(groups), 4), np.uint8)
    words[:, :width] = groups
    shifts = np.arange(4, dtype=np.uint32) * bits
    codes = (words.view("<u4") >> shifts) & ((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(-1)[:size]
