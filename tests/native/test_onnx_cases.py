"""The quantized operators of the standard's own node cases, run by the C kernels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ptq_opt import native

ACTIVATIONS = {"x", "a", "b", "A", "B"}
"""Inputs that stay inputs; scales, zero points and weights become constants."""
QUANTIZED = ("test_qlinear", "test_quantizelinear", "test_dequantizelinear")
NATIVE = (
    "test_qlinearconv",
    "test_qlinearmatmul_2D_int8_float32",
    "test_qlinearmatmul_2D_uint8_float32",
    "test_qlinearmatmul_3D_int8_float32",
    "test_qlinearmatmul_3D_uint8_float32",
    "test_quantizelinear",
    "test_dequantizelinear",
)
"""Cases that must not need ONNX Runtime."""


def cases() -> list[Any]:
    """Cases whose data are numpy arrays and which ONNX Runtime takes where we do not."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [c for c in load_model_tests(kind="node") if c.name.startswith(QUANTIZED)]
    plain = ("float8", "e4m3", "e5m2", "float4", "int4", "int2", "float16", "blocked")
    plain += ("uint16", "linear_axis")  # newer than what ONNX Runtime has for this opset
    return [c for c in found if not any(word in c.name for word in plain)]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_node_case(case: Any) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs, wanted = case.data_sets[0]
    names = [value.name for value in model.graph.input]
    feeds = {}
    for name, array in zip(names, inputs, strict=True):
        if name in ACTIVATIONS:
            feeds[name] = np.asarray(array)
        else:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    kept = [value for value in model.graph.input if value.name in feeds]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    program = native.compile(model)
    found = program.run(feeds)
    for array, want in zip(found.values(), wanted, strict=True):
        np.testing.assert_array_equal(array, want)
    if case.name in NATIVE:
        assert not program.reasons
