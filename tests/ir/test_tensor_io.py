"""Constant data: every element type goes through files unchanged."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from ptq_opt.ir import DType, ModelError, Tensor
from ptq_opt.ir.errors import OutOfMemory
from ptq_opt.ir.tensor_io import (
    stored_bytes,
    tensor_from_proto,
    tensor_from_sparse,
    tensor_to_proto,
)

NUMERIC = [d for d in DType if d not in (DType.UNDEFINED, DType.STRING)]
KNOWN_TO_ONNX = [d for d in NUMERIC if int(d) in TensorProto.DataType.values()]


def sample(dtype: DType, size: int = 7) -> np.ndarray:
    """Numbers that the type holds exactly: for an integer type its limits, too."""
    numbers = [0, 1, *dtype.integer_range] if dtype.is_integer else [0.5, 1, 2, 4]
    return np.resize(np.array(numbers, object), size).astype(dtype.numpy)


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(np.asarray(one, np.complex128), np.asarray(other, np.complex128))


@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda d: d.name)
@pytest.mark.parametrize("size", [0, 1, 4, 7])
def test_arrays_survive_a_file(dtype: DType, size: int) -> None:
    array = sample(dtype, size)
    tensor = tensor_from_proto(tensor_to_proto(Tensor(array), "w"))
    assert tensor.dtype is dtype
    assert equal(tensor.numpy(), array)


@pytest.mark.parametrize("dtype", KNOWN_TO_ONNX, ids=lambda d: d.name)
def test_files_are_read_and_written_as_onnx_does(dtype: DType) -> None:
    array = sample(dtype)
    ours = tensor_to_proto(Tensor(array), "w")
    assert equal(numpy_helper.to_array(ours), array)
    assert ours == numpy_helper.from_array(array, "w")


@pytest.mark.parametrize("dtype", KNOWN_TO_ONNX, ids=lambda d: d.name)
def test_typed_fields_are_read_as_onnx_reads_them(dtype: DType) -> None:
    proto = onnx.helper.make_tensor("w", int(dtype), [7], sample(dtype).tolist())
    assert not proto.HasField("raw_data")
    assert equal(tensor_from_proto(proto).numpy(), numpy_helper.to_array(proto))


@pytest.mark.parametrize(
    ("dtype", "codes", "stored"),
    [
        (DType.UINT4, [1, 2, 3], b"\x21\x03"),
        (DType.INT4, [-1, -8, 7], b"\x8f\x07"),
        (DType.UINT2, [0, 1, 2, 3, 1], b"\xe4\x01"),
    ],
)
def test_small_integers_are_packed_lowest_first(
    dtype: DType, codes: list[int], stored: bytes
) -> None:
    assert bytes(stored_bytes(Tensor(np.array(codes).astype(dtype.numpy)))) == stored


def test_strings_need_not_be_utf8() -> None:
    proto = onnx.TensorProto(dims=[2], data_type=TensorProto.STRING, string_data=[b"a", b"\xff"])
    tensor = tensor_from_proto(proto)
    assert tensor.numpy().tolist() == ["a", b"\xff"]
    assert tensor_to_proto(Tensor(tensor.numpy())).string_data == [b"a", b"\xff"]


def test_untouched_tensors_go_back_as_they_came() -> None:
    proto = onnx.helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    proto.doc_string = "from elsewhere"
    assert tensor_to_proto(tensor_from_proto(proto), "w") == proto


def test_sparse_tensors_read_as_dense_ones() -> None:
    values = numpy_helper.from_array(np.float32([5, 6]), "w")
    for indices in ([1, 5], [[0, 1], [1, 2]]):
        proto = onnx.helper.make_sparse_tensor(
            values, numpy_helper.from_array(np.array(indices)), [2, 3]
        )
        assert tensor_from_sparse(proto).numpy().tolist() == [[0, 5, 0], [0, 0, 6]]


def test_data_of_another_size_than_the_shape_is_an_error() -> None:
    proto = onnx.TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT, raw_data=b"\0" * 8)
    with pytest.raises(ModelError, match=r"'w' does not hold the data of shape \[3\]"):
        tensor_from_proto(proto)


@pytest.mark.parametrize("field", ["float_data", "string_data", "int32_data", "raw_data"])
def test_a_shape_without_its_data_is_an_error_before_anything_is_allocated(field: str) -> None:
    kinds = {"string_data": TensorProto.STRING, "int32_data": TensorProto.INT8}
    proto = onnx.TensorProto(name="w", dims=[10**13], data_type=kinds.get(field, TensorProto.FLOAT))
    proto.raw_data = b"\0" * 8
    if field != "raw_data":
        proto.ClearField("raw_data")
        getattr(proto, field).append({"float_data": 1.0, "string_data": b"a"}.get(field, 1))
    with pytest.raises(ModelError, match=r"'w' does not hold the data of shape \[10{13}\]"):
        tensor_from_proto(proto)


def test_negative_sizes_are_an_error() -> None:
    proto = onnx.TensorProto(name="w", dims=[-1, -2], data_type=1, raw_data=b"\0" * 8)
    with pytest.raises(ModelError, match=r"'w' has the impossible shape \[-1, -2\]"):
        tensor_from_proto(proto)


@pytest.mark.parametrize(
    ("indices", "shape"),
    [([1, 6], [2, 3]), ([-1, 2], [2, 3]), ([1], [2, 3]), ([[0, 3], [0, 0]], [2, 3]), ([1, 2], [])],
)
def test_indices_outside_a_sparse_tensor_are_an_error(indices: list[int], shape: Any) -> None:
    proto = onnx.SparseTensorProto(dims=shape)
    proto.values.CopyFrom(numpy_helper.from_array(np.float32([5, 6]), "w"))
    proto.indices.CopyFrom(numpy_helper.from_array(np.array(indices)))
    with pytest.raises(ModelError, match="'w' has indices that do not fit its shape"):
        tensor_from_sparse(proto)


def test_a_sparse_tensor_too_large_for_the_machine_is_an_error() -> None:
    proto = onnx.SparseTensorProto(dims=[10**7, 10**7])
    proto.values.CopyFrom(numpy_helper.from_array(np.float32([5]), "w"))
    proto.indices.CopyFrom(numpy_helper.from_array(np.array([3])))
    with pytest.raises(OutOfMemory, match="'w', made dense, needs 400,000,000,000,000 bytes"):
        tensor_from_sparse(proto)


def test_unknown_element_types_are_an_error() -> None:
    proto = onnx.TensorProto(name="w", dims=[1], data_type=99)
    with pytest.raises(ModelError, match="'w' has the unknown element type 99"):
        tensor_from_proto(proto)


@pytest.mark.parametrize("elements", [{}, {"int32_data": [1]}, {"raw_data": b"1"}])
def test_a_tensor_without_a_type_is_an_error_as_it_is_read(elements: dict[str, Any]) -> None:
    proto = TensorProto(name="w", dims=[1 if elements else 0], **elements)
    with pytest.raises(ModelError, match="'w' has no element type"):
        tensor_from_proto(proto)
