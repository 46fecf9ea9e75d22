"""Declarations of values, and what protos hold that our classes have no field for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, TypeVar

import onnx
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from .dtypes import DType
from .value import Shape, Value

P = TypeVar("P", bound=Message)
_NUMBERS = {int(dtype) for dtype in DType if dtype is not DType.UNDEFINED}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def remainder(proto: P, owned: Collection[str]) -> P | None:
    """A proto with all fields but the `owned` ones, unknown fields included; None when empty.

    Goes field by field: a copy of the whole would copy the weights.
    """
    fields = [(f, value) for f, value in proto.ListFields() if f.name not in owned]
    unknown = UnknownFieldSet(proto)
    if not fields and not len(unknown):
        return None
    rest: P = type(proto)()
    encoded = [_encode(f.field_number, f.wire_type, f.data) for f in unknown]
    for field, value in fields:
        if isinstance(value, Message):
            getattr(rest, field.name).CopyFrom(value)
        elif isinstance(value, (str, bytes)):  # text that is not UTF-8 comes as bytes: no setattr
            raw = value.encode() if isinstance(value, str) else value
            encoded.append(_encode(field.number, _BYTES, raw))
        elif isinstance(value, Iterable):
            getattr(rest, field.name).extend(value)
        else:
            setattr(rest, field.name, value)
    rest.MergeFromString(b"".join(encoded))
    return rest


def _encode(number: int, wire_type: int, data: Any) -> bytes:
    """A field in protobuf's wire format."""
    tag = _varint(number << 3 | wire_type)
    if wire_type == _VARINT:
        return tag + _varint(data)
    if wire_type == _BYTES:
        return tag + _varint(len(data)) + bytes(data)
    width = {_FIXED64: 8, _FIXED32: 4}.get(wire_type)
    return tag + int(data).to_bytes(width, "little") if width else b""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_type(value: Value, info: onnx.ValueInfoProto) -> None:
    """Set dtype, shape and the remaining `info` of `value` from a declaration."""
    rest = remainder(info, ("name", "type"))
    if rest is not None:
        value.info = value.info or onnx.ValueInfoProto()
        value.info.MergeFrom(rest)
    if value.is_constant or not info.HasField("type"):
        return
    if info.type.WhichOneof("value") != "tensor_type":
        _keep_type(value, info.type)
        return
    tensor = info.type.tensor_type
    value.dtype = read_dtype(tensor.elem_type) or value.dtype
    if tensor.elem_type and value.dtype is None:
        _keep_type(value, info.type)
    if tensor.HasField("shape"):
        value.shape = read_shape(tensor.shape)
        if any(dim.denotation for dim in tensor.shape.dim):
            _keep_type(value, info.type)
    if info.type.denotation:
        _keep_type(value, info.type)


def _keep_type(value: Value, kind: onnx.TypeProto) -> None:
    if value.info is None:
        value.info = onnx.ValueInfoProto()
    value.info.type.CopyFrom(kind)


def read_dtype(number: int) -> DType | None:
    """The element type of a number in a proto; None when it says nothing or nothing known here."""
    return DType(number) if number in _NUMBERS else None


def read_shape(shape: onnx.TensorShapeProto) -> Shape:
    """Dimensions as integers, symbols and None."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in shape.dim
    )


def write_type(
    value: Value, name: str, declared: onnx.ValueInfoProto | None = None
) -> onnx.ValueInfoProto:
    """The declaration of `value` under `name`; what it does not know comes from `declared`."""
    info = onnx.ValueInfoProto()
    known = declared if declared is not None else value.info
    if known is not None:
        info.CopyFrom(known)
    info.name = name
    if known is None and value.dtype is not None and value.shape is not None:
        info.type.CopyFrom(_tensor_type(value.dtype, value.shape))
        return info
    if value.dtype is not None:
        info.type.tensor_type.elem_type = int(value.dtype)
    if value.shape is not None and info.type.WhichOneof("value") in (None, "tensor_type"):
        write_shape(value.shape, info.type.tensor_type.shape)
    return info


@lru_cache
def _tensor_type(dtype: DType, shape: Shape) -> onnx.TypeProto:
    """The type of a tensor, made once: many of a model have the same."""
    kind = onnx.TypeProto()
    kind.tensor_type.elem_type = int(dtype)
    write_shape(shape, kind.tensor_type.shape)
    return kind


def write_shape(shape: Shape, proto: onnx.TensorShapeProto) -> None:
    """Set the dimensions of `proto`, keeping denotations where the rank is the same."""
    proto.SetInParent()  # a scalar's shape has no dimensions, but is there
    if len(proto.dim) != len(shape):
        del proto.dim[:]
        for _ in shape:
            proto.dim.add()
    for dim, size in zip(proto.dim, shape, strict=True):
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size
        else:
            dim.ClearField("dim_value")  # a symbol stays: what is unknown here may have that name
