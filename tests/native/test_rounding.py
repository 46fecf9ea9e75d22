"""Differences from ONNX Runtime: found where they start, and by the rounding that is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from ptq_opt.ir import load
from ptq_opt.ir.evaluate import Runner
from ptq_opt.native import compile
from ptq_opt.tools.rounding import Difference, _count, differences

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
main (float[4,6,8,8] a, float[4,6,8,8] b) => (uint8[N,C,H,W] y)
  <float sa = {0.0291}, uint8 za = {113}, float sb = {0.0523}, uint8 zb = {131},
   float s = {STEP}, uint8 z = {ZERO}> {
  qa = QuantizeLinear(a, sa, za)
  da = DequantizeLinear(qa, sa, za)
  qb = QuantizeLinear(b, sb, zb)
  db = DequantizeLinear(qb, sb, zb)
  BODY
  y = QuantizeLinear(r, s, z)
}"""
SOFTMAX = "ONNX Runtime multiplies with 1 / step as a whole number"
ADD = "order of three additions in float32: ties"
RESIZE = "weights of 1/2048; reals in float32, then divided by the step: ties"
FLOAT = "reals in float32, then divided by the step: ties"


def model(body: str, step: float, zero: int, **constants: Any) -> Any:
    text = TEXT.replace("BODY", body).replace("STEP", str(step)).replace("ZERO", str(zero))
    proto = parser.parse_model(text)
    for name, array in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return proto


def feeds(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 4, 6, 8, 8)).astype(np.float32)
    return {"a": 1.5 * a, "b": 2.5 * b}


def compared(proto: Any) -> list[Difference]:
    return differences(load(proto), [feeds(), feeds(1)], {"threads": 1})


@pytest.mark.parametrize(
    "body",
    [
        "r = Mul(da, db)",
        "r = Concat<axis=1>(da, db)",
        "r = AveragePool<kernel_shape=[3,3]>(da)",
        "r = GlobalAveragePool(da)",
        "r = Sigmoid(da)",
        "r = HardSwish(da)",
        "m = MaxPool<kernel_shape=[2,2]>(da)\n  r = Relu(m)",
        "t = Transpose<perm=[0,1,3,2]>(db)\n  r = MatMul(da, t)",
        "e = DequantizeLinear(w, sa, zw)\n  c = Conv(da, e)\n  r = Relu(c)",
        "e = DequantizeLinear(v, sa, zw)\n  r = ConvTranspose(da, e)",
    ],
)
def test_nothing_differs(body: str) -> None:
    rng = np.random.default_rng(2)
    weights = {n: rng.integers(-9, 10, s).astype(np.int8) for n, s in
               (("w", (5, 6, 3, 3)), ("v", (6, 5, 3, 3)))}  # fmt: skip
    used = {name: array for name, array in weights.items() if f"({name}," in body}
    found = compared(model(body, 0.117, 37, zw=np.int8(0), **used))
    assert len(found) >= 2 and not any(row.along or row.own for row in found)


@pytest.mark.parametrize(
    ("body", "step", "zero", "kind", "cause"),
    [
        ("r = Softmax<axis=-1>(da)", 0.0039, 0, "softmax", SOFTMAX),
        ("r = Add(da, db)", 0.05, 128, "add", ADD),
        ("r = Sub(da, db)", 0.05, 128, "sub", FLOAT),
        ('r = Resize<mode="linear">(da, , twice)', 0.0333, 100, "resize", RESIZE),
    ],
)
def test_each_cause_is_named(body: str, step: float, zero: int, kind: str, cause: str) -> None:
    used = {"twice": np.array([1, 1, 2, 2], np.float32)} if "twice" in body else {}
    row = compared(model(body, step, zero, **used))[-1]
    assert (row.node, row.ours) == (body.split("= ")[1].split("(")[0].split("<")[0] + " 'r'", kind)
    assert row.cause in (cause, "")  # how often sums meet a tie depends on the machine
    assert row.steps <= 1
    assert row.own or cause in (ADD, FLOAT, RESIZE)


def test_weights_left_in_float_stay_float() -> None:
    """The optimizer of ONNX Runtime that makes int8 of them is off in our sessions."""
    weights = np.random.default_rng(2).standard_normal((6, 5, 3, 3)).astype(np.float32)
    row = compared(model("r = ConvTranspose(da, w)", 0.117, 37, w=weights))[-1]
    assert row.theirs == "ConvTranspose in float"
    assert row.own <= row.elements / 1000 and row.steps <= 1


def test_a_difference_is_followed_along_the_model() -> None:
    body = "p = Softmax<axis=-1>(da)\n  qp = QuantizeLinear(p, sp, zp)\n"
    body += "  dp = DequantizeLinear(qp, sp, zp)\n  r = Mul(dp, db)"
    found = compared(model(body, 0.001, 128, sp=np.float32(0.0039), zp=np.uint8(0)))
    softmax, product = found[-2:]
    assert softmax.own == softmax.along > 0 and softmax.cause == SOFTMAX
    assert product.along > 0 and product.own == 0 and product.cause == ""


def test_tensors_of_another_shape_differ_throughout() -> None:
    row, want = Difference("n", "conv", "QLinearConv"), np.arange(4, dtype=np.uint8)
    _count(row, want, want[:3], want)
    assert (row.elements, row.along, row.own) == (4, 4, 0)


def test_softmax_of_onnxruntime_multiplies_with_a_whole_number() -> None:
    proto = model("r = Softmax<axis=-1>(da)", 0.0039, 0)
    graph = load(proto)
    integers = next(v for node in graph for v in node.outputs if v.name == "qa")
    q, theirs = Runner(graph, [integers, graph.outputs[0]]).run(feeds())
    e = np.exp((q - q.max(-1, keepdims=True).astype(np.float64)) * np.float32(0.0291))
    share, per_step = e / e.sum(-1, keepdims=True), 1 / np.float32(0.0039)
    np.testing.assert_array_equal(theirs, np.rint(share * np.floor(per_step)))
    np.testing.assert_array_equal(compile(proto).run(feeds())["y"], np.rint(share * per_step))


@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_sums_differ_only_where_two_integers_are_equally_near(op: str) -> None:
    proto = model(f"r = {op}(da, db)", 0.05, 128)
    ours = compile(proto).run(feeds())["y"].astype(np.int64)
    theirs = Runner(load(proto)).run(feeds())[0]
    scale = {"a": (0.0291, 113), "b": (0.0523, 131)}
    a, b = (
        np.float64(np.float32(s)) * (np.clip(np.rint(x / np.float32(s)) + z, 0, 255) - z)
        for x, (s, z) in zip(feeds().values(), scale.values(), strict=True)
    )
    steps = (a + b if op == "Add" else a - b) / np.float64(np.float32(0.05))
    different = steps[ours != theirs]
    assert np.all(np.abs(different - np.floor(different) - 0.5) < 1e-4)
    assert np.abs(np.clip(np.rint(steps) + 128, 0, 255) - ours).max() <= 1
