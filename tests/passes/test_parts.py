"""Large weights are looked at in parts: the same numbers, little memory beside them."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from ptq_opt.ir import DType, Graph, QuantInfo, grid, quant
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Tensor
from ptq_opt.ir.text import parse
from ptq_opt.passes import Context
from ptq_opt.passes.channel_data import ChannelData
from ptq_opt.passes.layers import Layer
from ptq_opt.passes.parts import filter_parts, multiplied
from ptq_opt.passes.saturate import Saturate
from ptq_opt.passes.smooth import _error
from ptq_opt.passes.sums import check_sums
from ptq_opt.passes.units import weight_axis
from ptq_opt.passes.zero_filter import ZeroFilter

SHAPES = {
    "MatMul": ("float[1,1024]", (1024, 640)),
    "Gemm": ("float[1,1024]", (640, 1024)),
    "Conv": ("float[1,113,9,9]", (640, 113, 3, 3)),
}
WEIGHTS = {
    "MatMul": "MatMul(x, w)",
    "Gemm": "Gemm<transB=1>(x, w)",
    "Conv": "Conv(x, w)",
}


def annotated(op: str, per_channel: bool = True) -> Graph:
    """One operator with a dead filter and some whose pairs of weights saturate, on 8 bits."""
    kind, shape = SHAPES[op]
    sizes = ",".join(map(str, shape))
    graph = parse(f"g ({kind} x, float[{sizes}] w) => (y) {{ y = {WEIGHTS[op]} ~ int8 }}")
    x, w = graph.inputs
    (node,) = graph.order()
    data = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    rows = np.moveaxis(data, weight_axis(node), 0)
    rows[3], rows[5:300:7] = 0, np.sign(rows[5:300:7])
    w.const = Tensor(data)
    del graph.inputs[1:]
    others = tuple(k for k in range(data.ndim) if k != weight_axis(node) % data.ndim)
    reach = np.abs(data).max(axis=others if per_channel else None)
    axis = weight_axis(node) % data.ndim if per_channel else None
    w.quant = grid(-reach, reach, DType.INT8, symmetric=True, axis=axis)
    x.quant = grid(-3, 3, DType.UINT8)
    node.output.quant = grid(-90, 90, DType.UINT8)
    return graph


def run_all(graph: Graph) -> QuantInfo:
    """The grid that the passes leave."""
    context = Context(find_target("ort-cpu"))
    for each in (ZeroFilter(), Saturate()):
        each.run(graph, context)
    check_sums(graph, context.target)
    (node,) = graph.order()
    weights = node.inputs[1]
    assert weights is not None and weights.quant is not None
    return weights.quant


@pytest.mark.parametrize("op", SHAPES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_parts_give_the_numbers_of_the_whole(
    op: str, per_channel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quant, "ELEMENTS", 1 << 30)
    whole = run_all(annotated(op, per_channel))
    monkeypatch.setattr(quant, "ELEMENTS", 1 << 14)
    parts = run_all(annotated(op, per_channel))
    assert parts.scale.tobytes() == whole.scale.tobytes()
    assert whole.integers is not None and parts.integers is not None
    np.testing.assert_array_equal(parts.integers, whole.integers)


def test_parts_are_the_weights_in_order() -> None:
    (node,) = annotated("MatMul").order()
    weights = node.inputs[1]
    assert weights is not None and weights.quant is not None
    parts = list(filter_parts(weights.numpy(), weights.quant, node))
    np.testing.assert_array_equal(np.concatenate([p for p, _ in parts]), weights.numpy().T)
    scales = np.concatenate([part.scale for _, part in parts])
    np.testing.assert_array_equal(scales, weights.quant.scale)


def peak(work: Callable[[], object]) -> int:
    """The most bytes that numpy and Python hold during `work`, beyond what they held before."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_passes_hold_little_beside_the_weights(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a copy; what is kept are 8-bit integers where pairs could overflow."""
    monkeypatch.setattr(quant, "ELEMENTS", 1 << 14)
    graph = annotated(op)
    size = 4 * 640 * 1024
    assert peak(lambda: run_all(graph)) < 0.8 * size


def test_a_product_takes_its_own_memory_only() -> None:
    array = np.random.default_rng(0).standard_normal((1024, 640)).astype(np.float32)
    change = np.linspace(0.1, 3, 1024)[:, None]
    expected = (array.astype(np.float64) * change).astype(np.float32)
    assert multiplied(array, change).tobytes() == expected.tobytes()
    assert multiplied(array.T, change.T).tobytes() == expected.T.tobytes()
    assert peak(lambda: multiplied(array, change)) < 1.2 * array.nbytes


def test_what_is_kept_of_weights_takes_its_own_memory_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quant, "ELEMENTS", 1 << 14)
    array = np.random.default_rng(0).standard_normal((1024, 640)).astype(np.float32)
    info = grid(-4, 4, DType.INT8, symmetric=True)
    np.testing.assert_array_equal(info.kept(array), info.fake(array))
    assert peak(lambda: info.kept(array)) < 1.3 * array.nbytes


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_what_a_layer_adds_is_summed_in_little_memory(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node,) = annotated(op).order()
    layer = Layer(node, node, 2)
    weights, means = layer.weights.numpy(), np.random.default_rng(0).uniform(-1, 1, (3, 1024))
    whole = layer.response(weights, means)
    monkeypatch.setattr(quant, "ELEMENTS", 1 << 14)
    np.testing.assert_allclose(layer.response(weights, means), whole, atol=1e-10)
    assert peak(lambda: layer.response(weights, means)) < 0.2 * weights.nbytes


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
@pytest.mark.parametrize("weights", ["int8", "int4:block=32"])
def test_smoothing_is_judged_in_parts(
    op: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One copy of the weights is scaled; what rounding leaves of it is never there as a whole."""
    graph, target = annotated(op), find_target("ort-cpu").storing(weights=weights)
    (node,) = graph.order()
    matrix = node.inputs[1]
    assert matrix is not None
    elements = np.random.default_rng(0).standard_normal((2, 1024, 4)).astype(np.float32)
    data = ChannelData(elements.min(axis=2), elements.max(axis=2), elements)
    given = matrix.numpy() if op == "MatMul" else matrix.numpy().T

    def error() -> float:
        return _error(data, [node], [given], np.linspace(0.5, 2, 1024), target)

    whole = error()
    monkeypatch.setattr(quant, "ELEMENTS", 1 << 14)
    assert error() == pytest.approx(whole, rel=1e-4)
    assert peak(error) < 1.6 * given.nbytes
