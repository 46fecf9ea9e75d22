"""Pairs of weights that overflow int16 are found and moved to the nearest that do not."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from rewriting import net
from sessions import exact_session

from ptq_opt import quantize
from ptq_opt.ir import DType, Graph, QuantInfo, grid
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes import Context
from ptq_opt.passes.saturate import Saturate, filters, overflows, safe_integers


@pytest.mark.parametrize(
    ("row", "unsafe"),
    [
        ([65, 64], True),
        ([64, 64], False),
        ([-128, -1], True),
        ([-64, -64], False),
        ([127, -128], False),
        ([0, 127, 127, 0], False),
        ([0, 127, 127], False),
        ([1, 2, 100, 90], True),
    ],
)
def test_pairs(row: list[int], unsafe: bool) -> None:
    assert overflows(np.array([row])).tolist() == [unsafe]


def test_pairs_are_those_of_the_hardware() -> None:
    """Against vpmaddubsw itself, for every pair on a coarse raster."""
    values = np.array([*range(-128, 128, 5), 127])
    a, b = (m.reshape(-1) for m in np.meshgrid(values, values))
    extremes = [a * x + b * y for x in (0, 255) for y in (0, 255)]
    saturates = (np.max(extremes, 0) > 32767) | (np.min(extremes, 0) < -32768)
    np.testing.assert_array_equal(overflows(np.stack([a, b], 1)), saturates)


def layer(integers: np.ndarray, axis: int | None = 0) -> Graph:
    """A convolution whose weights are these integers on a grid of scale 1."""
    graph = net("y = Conv (x, w)", w=integers.astype(np.float32))
    graph.order()[0].precision = "int8"
    count = (len(integers),) if axis is not None else ()
    ones, zeros = np.ones(count, np.float32), np.zeros(count, np.int32)
    graph.find("w").quant = QuantInfo(DType.INT8, ones, zeros, axis, narrow=True)
    graph.find("x").quant = grid(0.0, 1.0, DType.UINT8)
    return graph


WEIGHTS = np.array([[100, 100, 0, 0], [100, 0, 100, 0]]).reshape(2, 4, 1, 1)


def stored(graph: Graph, target: str = "ort-cpu") -> tuple[list[float], list[list[float]]]:
    """Scales and integers of the weights after the pass."""
    Saturate().run(graph, Context(find_target(target)))
    weights = graph.find("w")
    info = weights.quant
    assert info is not None
    integers = info.stored(weights.numpy())
    return info.scale.tolist(), filters(integers, graph.order()[0]).tolist()


def test_only_the_filter_that_can_saturate_changes() -> None:
    scales, integers = stored(layer(WEIGHTS))
    assert scales[0] > 1.5 and scales[1] == 1.0
    assert integers[1] == [100, 0, 100, 0]


def test_one_note_counts_filters() -> None:
    context = Context(find_target("ort-cpu"))
    Saturate().run(layer(WEIGHTS), context)
    assert context.report.notes == [
        "1 of 2 filters of the changed layers could overflow 16-bit sums"
    ]


def test_a_few_large_pairs_cost_the_others_little() -> None:
    """One pair of 351 moves; at twice the step all would round twice as far."""
    others = [*range(-35, 35)] * 10
    (scale,), (integers,) = stored(layer(np.array([65, 64, *others]).reshape(1, -1, 1, 1)))
    assert scale == 1.0
    assert integers[:2] == [64, 64] and integers[2:] == others


def test_one_scale_for_all_filters() -> None:
    scale, integers = stored(layer(WEIGHTS, axis=None))
    assert scale > 1.5
    assert not overflows(np.array(integers)).any()


def test_targets_with_wide_sums_keep_all_bits() -> None:
    assert stored(layer(WEIGHTS), "ort-cpu-vnni")[0] == [1.0, 1.0]


def test_depthwise_filters_have_no_neighbours() -> None:
    graph = layer(np.full((4, 1, 3, 3), 100.0))
    graph.order()[0].attrs["group"] = 4
    assert stored(graph)[0] == [1.0] * 4


def test_neighbours_are_channels_of_one_kernel_position() -> None:
    """In memory the two hundreds are one kernel apart, in the register side by side."""
    weights = np.zeros((1, 4, 3, 3))
    weights[0, :2, 1, 1] = 100
    assert stored(layer(weights))[0][0] > 1.5
    weights = np.zeros((1, 4, 3, 3))
    weights[0, 0, 1, :2] = 100
    assert stored(layer(weights))[0] == [1.0]


LIMITS = (-127, 127)
STEPS = npst.arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(1, 7)), elements=st.floats(-127, 127)
)


@given(STEPS)
def test_safe_integers_are_safe_and_the_nearest(steps: Array) -> None:
    """Against trying all pairs of integers."""
    found = safe_integers(steps, LIMITS)
    assert not overflows(found).any()
    assert np.array_equal(found, np.rint(found)) and np.abs(found).max() <= 127
    every = np.arange(-127, 128)
    a, b = np.meshgrid(every, every)
    allowed = ~overflows(np.stack([a.ravel(), b.ravel()], 1)).reshape(a.shape)
    even = np.pad(steps, ((0, 0), (0, steps.shape[1] % 2)))
    best = sum((np.square(a - x) + np.square(b - y))[allowed].min() for x, y in even.reshape(-1, 2))
    assert np.square(found - steps).sum() <= best + 1e-6


@pytest.mark.parametrize("kind", ["conv", "depthwise", "gemm", "matmul"])
def test_engines_compute_the_same_with_and_without_wide_sums(kind: str) -> None:
    """Weights of +-127 that meet activations of 255, in ONNX Runtime on this machine."""
    model = quantized(kind)
    x = {"x": np.full([d.dim_value for d in shape_of(model)], 1, np.float32)}
    plain = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(plain.run(None, x)[0], exact_session(model).run(None, x)[0])


NETS = {
    "conv": "g (float[1,8,6,6] x) => (float[1,5,4,4] y) <float[5,8,3,3] w> { y = Conv(x, w) }",
    "depthwise": "g (float[1,8,6,6] x) => (float[1,8,4,4] y) <float[8,1,3,3] w>"
    "{ y = Conv<group=8>(x, w) }",
    "gemm": "g (float[3,32] x) => (float[3,7] y) <float[32,7] w> { y = Gemm(x, w) }",
    "matmul": "g (float[2,3,32] x) => (float[2,3,7] y) <float[32,7] w> { y = MatMul(x, w) }",
}


def quantized(kind: str) -> onnx.ModelProto:
    """A layer whose weights are all large, quantized for the default target."""
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]>' + NETS[kind])
    rng = np.random.default_rng(0)
    (declared,) = [i for i in model.graph.value_info if i.name == "w"]
    shape = [d.dim_value for d in declared.type.tensor_type.shape.dim]
    weights = rng.uniform(0.8, 1.0, shape).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    x = np.zeros([d.dim_value for d in shape_of(model)], np.float32)
    return quantize(model, [{"x": x + k} for k in (0.0, 0.5, 1.0)]).model


def shape_of(model: onnx.ModelProto) -> list[Any]:
    """Dimensions of the input."""
    return list(model.graph.input[0].type.tensor_type.shape.dim)
