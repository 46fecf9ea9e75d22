"""Sums of integer products, biases included, fit 32 bits whatever the activations are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewriting import net, noise, only, operand

from ptq_opt.ir import DType, Graph, QuantInfo, grid
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context, PassError
from ptq_opt.passes.quant import Quantize
from ptq_opt.passes.sums import LARGEST, bias_grid, check_sums, largest_operand, largest_sums
from ptq_opt.passes.units import find_units
from ptq_opt.passes.zero_filter import ZeroFilter

TARGET = find_target("generic")


def product(weights: np.ndarray, bias: np.ndarray, low: float, high: float) -> Graph:
    """A planned Gemm of activations from `low` to `high`."""
    rows = weights.shape[1]
    graph = net("y = Gemm <transB = 1> (x, w, b)", f"float[1,{rows}] x", w=weights, b=bias)
    only(graph, "Gemm").precision = "int8"
    graph.inputs[0].quant = grid(low, high, DType.UINT8)
    graph.find("w").quant = grid(
        weights.min(axis=1), weights.max(axis=1), DType.INT8, symmetric=True, axis=0
    )
    return graph


def worst_sum(graph: Graph) -> int:
    """The largest sum that any activations give, with exact integers."""
    node = only(graph, "Gemm")
    data, weights, bias = (operand(node, slot) for slot in range(3))
    assert data.quant and weights.quant
    integers = weights.quant.stored(weights.numpy()).astype(object)
    low, high = data.quant.limits
    ends = [low - int(data.quant.zero_point), high - int(data.quant.zero_point)]
    steps = bias_grid(data.quant, weights.quant, DType.INT32)
    assert steps is not None
    offsets = [int(b) for b in np.rint(bias.numpy().astype(np.float64) / steps.scale)]
    sums = [
        [sum(pick(w * e for e in ends) for w in row) + offset for pick in (min, max)]
        for row, offset in zip(integers, offsets, strict=True)
    ]
    return max(abs(s) for pair in sums for s in pair)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e5]),
    bias=st.sampled_from([0.0, 1e-3, 1e6, 3e30]),
    low=st.sampled_from([-3.0, -1e-6, 0.0]),
    seed=st.integers(0, 99),
)
def test_no_sum_overflows_after_zero_filter(
    rows: int, scale: float, bias: float, low: float, seed: int
) -> None:
    weights = scale * noise(3, rows, seed=seed)
    graph = product(weights, np.float32(bias) * noise(3, seed=seed + 1), low, 2.0)
    ZeroFilter().run(graph, Context(TARGET))
    assert worst_sum(graph) <= LARGEST
    check_sums(graph, TARGET)


@pytest.mark.parametrize("constant", [1.0, -1.0])
def test_very_long_sums_get_coarser_weights(constant: float) -> None:
    """100,000 products of 127 and 255 are 3.2e9."""
    weights = np.full((1, 100_000), constant, np.float32)
    graph = product(weights, np.zeros(1, np.float32), 0.0, 1.0)
    with pytest.raises(PassError, match=r"sums of Gemm 'y' could reach 3.24e\+09, beyond 32 bits"):
        Quantize().run(graph, Context(TARGET))
    ZeroFilter().run(graph, Context(TARGET))
    info = graph.find("w").quant
    assert info is not None
    assert np.abs(info.stored(weights)).max() == 41
    check_sums(graph, TARGET)


def test_a_bias_counts() -> None:
    graph = product(np.ones((1, 4), np.float32), np.full(1, 1e6, np.float32), 0.0, 1.0)
    with pytest.raises(PassError, match="beyond 32 bits"):
        check_sums(graph, TARGET)


def test_the_bound_is_that_of_the_worst_activations() -> None:
    data = grid(-1.0, 3.0, DType.UINT8)
    assert largest_operand(data) == 255 - 64
    weights = np.array([[3, -4], [0, 1]], np.float32)
    node = only(product(noise(2, 2), noise(2), -1.0, 3.0), "Gemm")
    unit = QuantInfo(DType.INT8, np.float32(1), np.int32(0))
    assert largest_sums(node, weights, unit, data).tolist() == [7 * 191, 191]


def test_products_of_activations_are_bounded_by_their_number() -> None:
    for k, reason in ((33_000, ""), (34_000, "a sum of 34000 products could exceed 32 bits")):
        graph = net("y = MatMul(x, z)", f"float[1,{k}] x, float[{k},4] z")
        (unit,) = find_units(graph, TARGET)
        assert unit.reason == reason
