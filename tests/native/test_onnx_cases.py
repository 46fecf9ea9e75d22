"""The quantized operators of the standard's own node cases, by the C kernels where they can."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from ptq_opt import native
from ptq_opt.ir import ModelError

OPERATORS = {
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QuantizeLinear",
    "DequantizeLinear", "DynamicQuantizeLinear",
}  # fmt: skip
NEWEST = 25
"""Opset of ONNX Runtime's newest kernels for these operators; the cases hold there as well."""
ACTIVATIONS = {"x", "a", "b", "A", "B"}
"""Inputs that stay inputs; scales, zero points and weights become constants."""
ELSEWHERE = {
    "an activation with more than one scale": (
        "dequantizelinear_axis", "dequantizelinear_blocked", "quantizelinear_axis",
        "quantizelinear_blocked_asymmetric", "quantizelinear_blocked_symmetric",
        "quantizelinear_int4", "quantizelinear_uint4", "quantizelinear_int2",
        "quantizelinear_uint2",
    ),
    "no 8- or 16-bit integers": (
        "dequantizelinear_uint16", "dequantizelinear_int4", "dequantizelinear_uint4",
        "dequantizelinear_int2", "dequantizelinear_uint2", "dequantizelinear_e4m3fn",
        "dequantizelinear_e4m3fn_zero_point", "dequantizelinear_e5m2",
    ),
    "an activation of type uint16": ("quantizelinear_uint16",),
    "an activation of type float8_e4m3fn": ("quantizelinear_e4m3fn",),
    "an activation of type float8_e5m2": ("quantizelinear_e5m2",),
    "reals that are not float32": ("dequantizelinear_e4m3fn_float16",),
    "no kernel for this operator": (
        "dynamicquantizelinear", "dynamicquantizelinear_max_adjusted",
        "dynamicquantizelinear_min_adjusted", "dynamicquantizelinear_expanded",
        "dynamicquantizelinear_max_adjusted_expanded",
        "dynamicquantizelinear_min_adjusted_expanded",
    ),
}  # fmt: skip
"""Cases that ONNX Runtime runs, by the reason that the program gives; it needs no other's help."""


@functools.cache
def cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some overflow on purpose
        found = [case for case in collect_testcases(None) if case.model]
    return {
        case.name.removeprefix("test_"): case
        for case in found
        if OPERATORS & {node.op_type for node in case.model.graph.node}
        or case.name.startswith("test_dynamicquantizelinear")
    }


def array(given: Any) -> Any:
    """Cases hold types that numpy lacks as protos."""
    return numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.array(given)


def specialized(name: str, inputs: Collection[str]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The case's model where all but `inputs` are constants, and the data of these."""
    case, model, feeds = cases()[name], onnx.ModelProto(), {}
    model.CopyFrom(case.model)
    for opset in model.opset_import:
        opset.version = min(opset.version, NEWEST)
    for value, given in zip(case.model.graph.input, case.data_sets[0][0], strict=True):
        if value.name in inputs:
            feeds[value.name] = array(given)
        else:
            model.graph.input.remove(value)
            model.graph.initializer.append(numpy_helper.from_array(array(given), value.name))
    return model, feeds


def check(name: str, found: dict[str, Any]) -> None:
    for ours, given in zip(found.values(), cases()[name].data_sets[0][1], strict=True):
        want = array(given)
        assert ours.dtype == want.dtype
        np.testing.assert_array_equal(ours, want)


@pytest.mark.parametrize("name", [name for name in cases() if "float4" not in name])
def test_node_case(name: str) -> None:
    model, feeds = specialized(name, ACTIVATIONS)
    program = native.compile(model)
    check(name, program.run(feeds))
    elsewhere = {reason for reason, names in ELSEWHERE.items() if name in names}
    assert elsewhere <= set(program.reasons.values())
    assert bool(elsewhere) == bool(program.reasons)


@pytest.mark.parametrize(
    "name", [name for name in cases() if "quantizelinear" in name and "float4" not in name]
)
def test_node_case_of_constants(name: str) -> None:
    """Integers of any width, with scales per tensor, channel or block, as weights have them."""
    model, _ = specialized(name, ())
    check(name, native.compile(model).run({}))


@pytest.mark.parametrize("name", [name for name in cases() if "float4" in name])
def test_what_no_engine_has_is_named(name: str) -> None:
    """Four-bit floats: neither integers nor known to ONNX Runtime."""
    with pytest.raises(ModelError, match="uantizeLinear"):
        native.compile(specialized(name, ACTIVATIONS)[0])
