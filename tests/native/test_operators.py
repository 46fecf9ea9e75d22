"""Every operator the executor has, from ONNX, in each type of activation, against ONNX Runtime."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper, parser

from ptq_opt import native
from ptq_opt.ir import load
from ptq_opt.ir.evaluate import Runner

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[SHAPE] x) => (float y) {
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  BODY
  p = QuantizeLinear(r, t, u)
  y = DequantizeLinear(p, t, u)
}"""
IMAGE, VOLUME, LINE, ROWS = (2, 6, 9, 8), (1, 4, 5, 6, 7), (2, 6, 17), (3, 5, 16)
STORED = "vq = QuantizeLinear(v, s, z)\n  vd = DequantizeLinear(vq, s, z)\n"
STEP, WEIGHT_STEP = np.float32(0.031), np.float32(0.02)
CASES = {
    "Conv 1-D": (LINE, "r = Conv<pads=[1,1]>(d, w)", (7, 6, 3)),
    "Conv 2-D": (IMAGE, "r = Conv<pads=[1,0,1,2], strides=[2,1]>(d, w)", (7, 6, 3, 3)),
    "Conv 3-D": (VOLUME, "r = Conv<auto_pad=\"SAME_UPPER\">(d, w)", (5, 4, 3, 2, 3)),
    "Conv, groups": (IMAGE, "r = Conv<group=3>(d, w)", (9, 2, 3, 3)),
    "Conv, depthwise": (IMAGE, "r = Conv<group=6, dilations=[2,1]>(d, w)", (6, 1, 3, 3)),
    "Conv, auto_pad": (IMAGE, "r = Conv<auto_pad=\"SAME_LOWER\">(d, w)", (7, 6, 4, 4)),
    "ConvTranspose 1-D": (LINE, "r = ConvTranspose<strides=[2]>(d, w)", (6, 5, 3)),
    "ConvTranspose 2-D": (
        IMAGE, "r = ConvTranspose<strides=[2,2], pads=[1,1,0,0], output_padding=[1,1]>(d, w)",
        (6, 5, 3, 3),
    ),
    "ConvTranspose 3-D": (VOLUME, "r = ConvTranspose<strides=[1,2,2]>(d, w)", (4, 3, 2, 2, 2)),
    "ConvTranspose, groups": (IMAGE, "r = ConvTranspose<group=2>(d, w)", (6, 4, 3, 3)),
    "Gemm": ((5, 16), "r = Gemm<transB=1>(d, w)", (9, 16)),
    "MatMul": (ROWS, "r = MatMul(d, w)", (16, 11)),
    "MatMul, two activations": (
        ROWS, f"v = Transpose<perm=[0,2,1]>(d)\n  {STORED}  r = MatMul(d, vd)", None
    ),
    "AveragePool": (IMAGE, "r = AveragePool<kernel_shape=[3,2], pads=[1,0,1,1]>(d)", None),
    "AveragePool, ceil_mode": (
        IMAGE, "r = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(d)", None
    ),
    "MaxPool": (IMAGE, "r = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(d)", None),
    "MaxPool 3-D": (VOLUME, "r = MaxPool<kernel_shape=[2,2,2]>(d)", None),
    "GlobalAveragePool": (IMAGE, "r = GlobalAveragePool(d)", None),
    "Add": (IMAGE, f"v = Neg(d)\n  {STORED}  r = Add(d, vd)", None),
    "Mul, broadcast": (IMAGE, f"v = GlobalAveragePool(d)\n  {STORED}  r = Mul(d, vd)", None),
    "Sub, broadcast": (IMAGE, f"v = GlobalAveragePool(d)\n  {STORED}  r = Sub(d, vd)", None),
    "Concat": (IMAGE, "r = Concat<axis=1>(d, d)", None),
    "PRelu": (IMAGE, "r = PRelu(d, w)", (6, 1, 1)),
    "Softmax": (ROWS, "r = Softmax<axis=-1>(d)", None),
    "Resize, nearest": (IMAGE, "r = Resize<mode=\"nearest\">(d, , twice)", None),
    "Resize, linear": (IMAGE, "r = Resize<mode=\"linear\">(d, , twice)", None),
    "Pad": (IMAGE, "r = Pad(d, pads)", None),
    "Slice": (IMAGE, "r = Slice(d, starts, ends, axes, steps)", None),
    "Split": (IMAGE, "a, b = Split<axis=1, num_outputs=2>(d)\n  r = Concat<axis=2>(b, a)", None),
    "Transpose": (IMAGE, "r = Transpose<perm=[0,2,3,1]>(d)", None),
    "Reshape": (IMAGE, "r = Reshape(d, rows)", None),
    "Flatten": (IMAGE, "r = Flatten(d)", None),
    "Squeeze": (IMAGE, f"v = GlobalAveragePool(d)\n  {STORED}  r = Squeeze(vd, last)", None),
    "Unsqueeze": (ROWS, "r = Unsqueeze(d, last)", None),
    "Gather": (IMAGE, "r = Gather<axis=1>(d, picked)", None),
    "ReduceMean": (IMAGE, "r = ReduceMean(d, last)", None),
    "DepthToSpace": ((1, 8, 3, 4), "r = DepthToSpace<blocksize=2>(d)", None),
    **{
        op: (IMAGE, f"r = {op}(d)", None)
        for op in ("Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Gelu", "Exp", "LeakyRelu",
                   "Elu", "Relu", "Abs", "Neg", "Erf", "Softplus", "Mish")
    },
    "SiLU": (IMAGE, "v = Sigmoid(d)\n  r = Mul(d, v)", None),
    "Clip": (IMAGE, "r = Clip(d, low, high)", None),
}  # fmt: skip
CONSTANTS: dict[str, Any] = {
    "twice": np.array([1, 1, 2, 2], np.float32), "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]),
    "starts": np.array([1, 6]), "ends": np.array([6, 0]), "axes": np.array([1, 3]),
    "steps": np.array([2, -1]), "rows": np.array([2, -1, 8]), "picked": np.array([[5, 0], [-1, 2]]),
    "last": np.array([-1]), "low": np.float32(-0.5), "high": np.float32(1.2),
}  # fmt: skip


def model(name: str, dtype: Any, zero: int, after: Any = None) -> Any:
    """x is quantized to `dtype`, goes through the operator and is quantized to `after`."""
    shape, body, weights = CASES[name]
    constants = {
        "s": STEP,
        "z": dtype(zero),
        "t": np.float32(0.043),
        "u": (after or dtype)(zero // 2),
    }
    if weights is not None:
        body = "e = DequantizeLinear(w, ws, wz)\n  " + body.replace(", w)", ", e)")
        integers = np.random.default_rng(1).integers(-9, 10, weights).astype(np.int8)
        constants |= {"w": integers, "ws": WEIGHT_STEP, "wz": np.int8(0)}
    text = TEXT.replace("SHAPE", ",".join(map(str, shape))).replace("BODY", body)
    proto = parser.parse_model(text)
    constants |= {k: v for k, v in CONSTANTS.items() if re.search(rf"\b{k}\b", body)}
    for key, array in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), key))
    return proto


def sample(name: str) -> dict[str, Any]:
    x = np.random.default_rng(3).standard_normal(CASES[name][0]).astype(np.float32)
    return {"x": 1.3 * x}


@pytest.mark.parametrize(("dtype", "zero"), [(np.uint8, 121), (np.int8, -9)])
@pytest.mark.parametrize("name", CASES)
def test_8_bits(name: str, dtype: Any, zero: int) -> None:
    """In integers throughout, and no further than a step from ONNX Runtime."""
    proto = model(name, dtype, zero)
    program = native.compile(proto)
    ours = program.run(sample(name))["y"]
    theirs = Runner(load(proto)).run(sample(name))[0]
    assert not program.reasons
    assert ours.shape == theirs.shape and np.ptp(theirs) > 5 * 0.043
    assert np.abs(ours - theirs).max() < 0.0431


IN_16_BITS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that stay in integers there, besides arithmetic."""


@pytest.mark.parametrize("name", CASES)
def test_16_bits(name: str) -> None:
    """What has no kernel for them runs in ONNX Runtime."""
    proto = model(name, np.int16, 0)
    program = native.compile(proto)
    ours = program.run(sample(name))["y"]
    assert np.abs(ours - Runner(load(proto)).run(sample(name))[0]).max() < 0.0431
    if name.split(",")[0].split()[0] in IN_16_BITS and name != "MatMul, two activations":
        assert not program.reasons


@pytest.mark.parametrize(("before", "after"), [(np.uint8, np.int16), (np.int16, np.int8)])
@pytest.mark.parametrize("name", CASES)
def test_types_that_change(name: str, before: Any, after: Any) -> None:
    proto = model(name, before, 0 if before is np.int16 else 121, after)
    ours = native.compile(proto).run(sample(name))["y"]
    assert np.abs(ours - Runner(load(proto)).run(sample(name))[0]).max() < 0.0431


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_arithmetic_in_16_bits(op: str) -> None:
    body = f"v = Slice(d, zero, one, third)\n  r = {op}(d, v)"
    proto = parser.parse_model(TEXT.replace("SHAPE", "2,6,9,8").replace("BODY", body))
    constants = {"s": STEP, "z": np.int16(0), "t": np.float32(0.043), "u": np.int16(5)}
    slices = {"zero": np.array([0]), "one": np.array([1]), "third": np.array([2])}
    for key, array in (constants | slices).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), key))
    program, x = native.compile(proto), sample("Add")
    ours = program.run(x)["y"]
    assert not program.reasons
    assert np.abs(ours - Runner(load(proto)).run(x)[0]).max() < 0.0431


FOUR = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[5,32] x) => (float[5,6] y) {
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  e = DequantizeLinear<AXIS>(w, ws, wz)
  y = MatMul(d, e)
}"""


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize(
    ("axis", "shape"),
    [("axis=0", ()), ("axis=1", (6,)), ("axis=0, block_size=8", (4, 6))],
    ids=["tensor", "channel", "block"],
)
def test_weights_of_4_bits(axis: str, shape: tuple[int, ...], dtype: Any) -> None:
    """One scale for all, per output channel or per block of the inner dimension."""
    rng = np.random.default_rng(4)
    low = -8 if dtype is ml_dtypes.int4 else 0
    weights = rng.integers(low, low + 16, (32, 6))
    scales = rng.uniform(0.01, 0.03, shape).astype(np.float32)
    zeros = np.full(shape, 0 if low else 7)
    proto = parser.parse_model(FOUR.replace("AXIS", axis))
    constants = {"w": weights.astype(dtype), "ws": scales, "wz": zeros.astype(dtype)}
    for key, array in {"s": STEP, "z": np.uint8(121), **constants}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), key))
    program = native.compile(proto)
    x = rng.standard_normal((5, 32)).astype(np.float32)
    steps = np.clip(np.rint(x / STEP) + 121, 0, 255) - 121
    per_weight = np.repeat(scales, 8, 0) if len(shape) == 2 else scales
    want = steps * np.float64(STEP) @ ((weights - (0 if low else 7)) * per_weight)
    np.testing.assert_allclose(program.run({"x": x})["y"], want, rtol=1e-5, atol=1e-5)
    assert not program.reasons
