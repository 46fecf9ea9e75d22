"""What an operator costs."""

from dataclasses import replace

import numpy as np
import pytest
from rewriting import net, noise

from ptq_opt.ir import DType, Graph
from ptq_opt.ir.target import Costs, Target, find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.ir.timings import Timing, Timings
from ptq_opt.passes.costs import (
    Times,
    conversion_times,
    kind_of,
    layout_times,
    operations,
    unit_times,
)
from ptq_opt.passes.units import Unit, find_units


@pytest.mark.parametrize(
    ("left", "right", "result", "multiplications"),
    [
        ((4, 8), (8, 5), (4, 5), 4 * 8 * 5),
        ((2, 4, 8), (8, 5), (2, 4, 5), 2 * 4 * 8 * 5),
        ((4, 8), (8,), (4,), 4 * 8),
        ((8,), (8,), (), 8),
    ],
)
def test_matrix_products(
    left: tuple[int, ...],
    right: tuple[int, ...],
    result: tuple[int, ...],
    multiplications: int,
) -> None:
    graph = Graph()
    operands = [graph.input("a", DType.FLOAT, left), graph.input("b", DType.FLOAT, right)]
    node = graph.add("MatMul", operands)
    node.output.shape = result
    assert operations(node) == 2 * multiplications


def unit(body: str, inputs: str = "float[1,8,16,16] x", **constants: Array) -> Unit:
    graph = net(body, inputs, **constants)
    return find_units(graph, find_target("ort-cpu"))[0]


@pytest.mark.parametrize(
    ("body", "constants", "kind"),
    [
        ("y = Conv (x, w)", {"w": noise(4, 8, 3, 3)}, "Conv 3x3"),
        (
            "y = Conv <strides = [2,2], group = 8> (x, w)",
            {"w": noise(8, 1, 3, 3)},
            "Conv 3x3 s2 depthwise",
        ),
        ("y = Conv <group = 2> (x, w)", {"w": noise(4, 4, 1, 1)}, "Conv 1x1 grouped"),
        ("y = Conv <dilations = [3,3]> (x, w)", {"w": noise(4, 8, 3, 3)}, "Conv 3x3 d3"),
        ("y = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x)", {}, "MaxPool 2x2 s2"),
        ("y = Relu (x)", {}, "Relu"),
    ],
)
def test_classes_of_operators(body: str, constants: dict[str, Array], kind: str) -> None:
    assert kind_of(unit(body, **constants).node) == kind


def timed(*rows: Timing) -> Target:
    timings = Timings(rows=rows, pace_float=2.0, pace_integer=3.0)
    costs = Costs(gops=(1, 4), weights=(0, 0), quantize=0.5, dequantize=0.25)
    return replace(find_target("ort-cpu"), costs=costs, timings=timings)


def test_what_was_measured_has_precedence() -> None:
    conv = unit("y = Conv (x, w)", w=noise(4, 8, 1, 1))
    work = 2 * 8 * 4 * 16 * 16
    exact = Timing("Conv 1x1", "1x4x16x16", work, 700.0, 300.0)
    assert unit_times(conv, timed(exact)) == Times(700.0, 300.0, "measured")
    other = replace(exact, shape="1x4x8x64", work=2 * work)
    assert unit_times(conv, timed(other)) == Times(350.0, 150.0, "scaled")
    assert unit_times(conv, timed()) == Times(2.0 * work, 3.0 * work / 4, "estimated")
    half = replace(exact, in_integers=None)
    assert unit_times(conv, timed(half)) == Times(700.0, 3.0 * work / 4, "estimated")


def test_times_apart_are_what_is_more() -> None:
    pool = unit("y = MaxPool <kernel_shape = [2,2]> (x)")
    row = Timing("MaxPool 2x2", "1x8x15x15", 2048, 10.0, 5.0, 8.0, 80.0)
    assert unit_times(pool, timed(row)).apart == (0.0, 75.0)
    assert unit_times(pool, timed()).apart == (0.0, 0.0)


def test_an_operator_without_a_kernel_takes_for_ever() -> None:
    erf = unit("y = Erf (x)")
    target = timed(Timing("Erf", "1x8x16x16", 2048, 90.0))
    assert unit_times(erf, target) == Times(90.0, np.inf, "measured")


def test_conversions_and_changes_of_layout() -> None:
    """What an image takes longer between two convolutions is the change of its layout."""
    rows = [
        Timing("QuantizeLinear", "2048", 2048, None, 10.0),
        Timing("QuantizeLinear image", "2048", 2048, None, 30.0),
        Timing("DequantizeLinear image", "2048", 2048, None, 1.0),
    ]
    conv, relu = (
        unit("y = Conv (x, w)", w=noise(4, 8, 1, 1)),
        unit("y = Relu (x)", "float[8,256] x"),
    )
    estimated = 0.25 * 2048 * 3.0
    for each in (conv, relu):
        assert conversion_times(each.node.inputs[0], timed(*rows)) == (10.0, estimated)
    assert layout_times(conv.node.inputs[0], timed(*rows)) == (20.0, 0.0)
    assert layout_times(relu.node.inputs[0], timed(*rows)) == (0.0, 0.0)
    assert layout_times(conv.node.inputs[0], timed()) == (0.0, 0.0)
