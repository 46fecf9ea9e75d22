"""Pairs of weights that overflow int16 are found, and only their filters lose a bit."""

import numpy as np
import pytest
from rewriting import net

from ptq_opt.ir import DType, Graph, QuantInfo
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context
from ptq_opt.passes.saturate import Saturate, overflows


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
    return graph


WEIGHTS = np.array([[100, 100, 0, 0], [100, 0, 100, 0]]).reshape(2, 4, 1, 1)


def scale(graph: Graph, target: str) -> list[float]:
    Saturate().run(graph, Context(find_target(target)))
    info = graph.find("w").quant
    assert info is not None
    return info.scale.tolist()  # type: ignore[no-any-return]


def test_only_the_filter_that_can_saturate_loses_a_bit() -> None:
    assert scale(layer(WEIGHTS), "ort-cpu-avx2") == [2.0, 1.0]


def test_one_scale_for_all_filters() -> None:
    assert scale(layer(WEIGHTS, axis=None), "ort-cpu-avx2") == 2.0


def test_targets_with_wide_sums_keep_all_bits() -> None:
    assert scale(layer(WEIGHTS), "ort-cpu") == [1.0, 1.0]


def test_neighbours_are_channels_of_one_kernel_position() -> None:
    """In memory the two hundreds are one kernel apart, in the register side by side."""
    weights = np.zeros((1, 4, 3, 3))
    weights[0, :2, 1, 1] = 100
    assert scale(layer(weights), "ort-cpu-avx2") == [2.0]
    weights = np.zeros((1, 4, 3, 3))
    weights[0, 0, 1, :2] = 100
    assert scale(layer(weights), "ort-cpu-avx2") == [1.0]
