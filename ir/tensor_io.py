"""Constant data in files: TensorProto, SparseTensorProto and external data to arrays and back.

A tensor that nobody changed keeps the proto it came from and goes back as it was, never decoded.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from .dtypes import DType
from .errors import ModelError
from .tensor import Array, Tensor

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
_DATA = (
    "raw_data",
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "external_data",
    "data_location",
)


@dataclass(frozen=True)
class ProtoSource:
    """The elements of a TensorProto that holds its data itself."""

    proto: onnx.TensorProto

    def load(self) -> Array:
        """Decode the elements."""
        return _decode(self.proto)


@dataclass(frozen=True)
class ExternalSource:
    """The elements of a TensorProto whose data lies in another file, mapped into memory."""

    proto: onnx.TensorProto
    data: memoryview

    def load(self) -> Array:
        """A view of the file's bytes (unpacked when the type is smaller than a byte)."""
        return _from_bytes(self.data, DType(self.proto.data_type), tuple(self.proto.dims))


@dataclass(frozen=True)
class SparseSource:
    """A sparse initializer, made dense when read."""

    proto: onnx.SparseTensorProto

    def load(self) -> Array:
        """The dense array."""
        values, indices = _decode(self.proto.values), _decode(self.proto.indices)
        shape = tuple(self.proto.dims)
        dense = np.zeros(shape, values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        return dense


@dataclass
class ExternalFiles:
    """The data files beside a model; each is mapped once, on first mention.

    Attributes:
        folder: the model's folder, None when the model did not come from a file.
    """

    folder: Path | None
    _maps: dict[str, memoryview] = field(default_factory=dict)

    def read(self, proto: onnx.TensorProto) -> memoryview:
        """The bytes of a tensor with external data; `ModelError` when the reference is bad."""
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        if location not in self._maps:
            self._maps[location] = self._map(proto.name, location)
        data = self._maps[location]
        size = _stored_size(DType(proto.data_type), tuple(proto.dims))
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        except ValueError:
            raise ModelError(
                f"tensor '{proto.name}': offset and length of external data must be integers"
            ) from None
        if length != size:
            raise ModelError(
                f"tensor '{proto.name}' needs {size} bytes, its external data has {length}"
            )
        if offset < 0 or offset + length > len(data):
            raise ModelError(
                f"tensor '{proto.name}': bytes {offset} to {offset + length} are beyond the "
                f"{len(data)} bytes of '{location}'; the data file is truncated or another model's"
            )
        return data[offset : offset + length]

    def _map(self, tensor: str, location: str) -> memoryview:
        if self.folder is None:
            raise ModelError(
                f"tensor '{tensor}' lies in the data file '{location}': load the model by its "
                "path, or load the data into the ModelProto first"
            )
        folder = Path(os.path.realpath(self.folder))
        path = Path(os.path.realpath(folder / location))
        if not location or Path(location).is_absolute() or not path.is_relative_to(folder):
            raise ModelError(
                f"tensor '{tensor}': data file '{location}' is not inside the model's folder; "
                "copy it there"
            )
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    return memoryview(b"")
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise ModelError(
                f"tensor '{tensor}': cannot read data file '{path}': {error.strerror}"
            ) from None


def tensor_from_proto(proto: onnx.TensorProto, files: ExternalFiles) -> Tensor:
    """A lazy tensor over `proto`, which must not be changed afterwards."""
    if proto.HasField("segment"):
        raise ModelError(f"tensor '{proto.name}' is stored in segments, which nobody can read")
    try:
        dtype = DType(proto.data_type)
    except ValueError:
        raise ModelError(
            f"tensor '{proto.name}' has the unknown element type {proto.data_type}"
        ) from None
    source: ProtoSource | ExternalSource = ProtoSource(proto)
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        source = ExternalSource(proto, files.read(proto))
    return Tensor(dtype=dtype, shape=tuple(proto.dims), source=source)


def tensor_from_sparse(proto: onnx.SparseTensorProto) -> Tensor:
    """A lazy dense tensor over a sparse one."""
    dtype = DType(proto.values.data_type)
    return Tensor(dtype=dtype, shape=tuple(proto.dims), source=SparseSource(proto))


def tensor_to_proto(tensor: Tensor, name: str | None = None) -> onnx.TensorProto:
    """The tensor with its data inside; `name` replaces the name it had in its file, if any."""
    proto = onnx.TensorProto()
    if isinstance(tensor.source, ProtoSource):
        proto.CopyFrom(tensor.source.proto)
    else:
        describe(tensor, proto)
        if tensor.dtype is DType.STRING:
            proto.string_data.extend(
                s if isinstance(s, bytes) else str(s).encode() for s in tensor.numpy().flat
            )
        else:
            proto.raw_data = stored_bytes(tensor)
    if name is not None:
        proto.name = name
    return proto


def describe(tensor: Tensor, proto: onnx.TensorProto) -> None:
    """Set type, shape and the file's annotations of `tensor` in the empty `proto`, no data."""
    if isinstance(tensor.source, ExternalSource):
        proto.CopyFrom(tensor.source.proto)
        for name in _DATA:
            proto.ClearField(name)  # type: ignore[arg-type]
    else:
        proto.data_type = int(tensor.dtype)
        proto.dims.extend(tensor.shape)


def stored_bytes(tensor: Tensor) -> bytes:
    """The elements as `raw_data` and data files hold them: little-endian, sub-byte types packed."""
    if isinstance(tensor.source, ExternalSource):
        return bytes(tensor.source.data)
    array = np.ascontiguousarray(tensor.numpy()).astype(tensor.dtype.numpy, copy=False)
    if tensor.dtype.bits % 8:
        return _pack(array.reshape(-1).view(np.uint8), tensor.dtype.bits).tobytes()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _stored_size(dtype: DType, shape: tuple[int, ...]) -> int:
    if not dtype.bits:
        raise ModelError(f"external data cannot hold elements of type {dtype.name.lower()}")
    return (int(np.prod(shape, dtype=np.int64)) * dtype.bits + 7) // 8


def _from_bytes(data: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> Array:
    if dtype.bits % 8:
        codes = _unpack(np.frombuffer(data, np.uint8), dtype.bits, int(np.prod(shape)))
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
            if dtype in (DType.COMPLEX64, DType.COMPLEX128):
                array = array.view(dtype.numpy)
            return array.astype(dtype.numpy, copy=False).reshape(shape)
        array = np.array(proto.int32_data, np.int32)
        if dtype.bits in (2, 4):
            return _from_bytes(array.astype(np.uint8).tobytes(), dtype, shape)
        if dtype is DType.BOOL or dtype.is_integer:
            return array.astype(dtype.numpy).reshape(shape)
        bits = np.dtype(f"u{dtype.numpy.itemsize}")
        return array.astype(bits).view(dtype.numpy).reshape(shape)
    except ValueError:
        raise ModelError(
            f"tensor '{proto.name}' does not hold the data of shape {list(shape)}; "
            "the file is damaged"
        ) from None


def _strings(data: list[bytes] | object) -> Array:
    array = np.empty(len(data), object)  # type: ignore[arg-type]
    for k, item in enumerate(data):  # type: ignore[arg-type, var-annotated]
        try:
            array[k] = item.decode()
        except UnicodeDecodeError:
            array[k] = item
    return array


def _pack(codes: Array, bits: int) -> Array:
    """Four codes of 2, 4 or 6 bits at a time into 1, 2 or 3 bytes, the first code lowest."""
    words = np.zeros((len(codes) + 3) // 4, np.uint32)
    for k in range(4):
        part = codes[k::4].astype(np.uint32) & ((1 << bits) - 1)
        words[: len(part)] |= part << np.uint32(bits * k)
    packed = words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : bits // 2].reshape(-1)
    return packed[: (len(codes) * bits + 7) // 8]


def _unpack(packed: Array, bits: int, size: int) -> Array:
    """The inverse of `_pack`: one code per byte."""
    width = bits // 2
    if len(packed) != (size * bits + 7) // 8:
        raise ValueError("size")
    quads = np.zeros(((len(packed) + width - 1) // width, 4), np.uint8)
    padded = np.zeros((len(quads), width), np.uint8)
    padded.reshape(-1)[: len(packed)] = packed
    quads[:, :width] = padded
    words = quads.view("<u4").reshape(-1)
    codes = np.empty((len(words), 4), np.uint8)
    for k in range(4):
        codes[:, k] = (words >> np.uint32(bits * k)) & ((1 << bits) - 1)
    return codes.reshape(-1)[:size]
