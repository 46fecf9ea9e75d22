"""The graph for the eye: conversions are marks on edges, connected float operators islands."""

import numpy as np

from ptq_opt.ir.text import parse
from ptq_opt.tools.distribution import BINS, Distribution
from ptq_opt.tools.graph_view import GraphView

GRID = "float s = {0.1}, uint8 z = {3}, float t = {0.2}, uint8 u = {0}"


def view(body: str, inner: str = GRID) -> GraphView:
    return GraphView.of(parse(f"g (float[N,4] x) => (float[N,4] y) <{inner}> {{ {body} }}"))


def edges(found: GraphView) -> list[tuple[str, str, tuple[str, ...]]]:
    ops = [operator.op for operator in found.operators]
    return [(ops[edge.source], ops[edge.target], edge.converts) for edge in found.edges]


def test_pairs_between_integers_are_fused() -> None:
    found = view(
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) a = Relu(d) ~ int8 "
        "r = QuantizeLinear(a, s, z) e = DequantizeLinear(r, s, z) b = Abs(e) ~ int8 "
        "p = QuantizeLinear(b, s, z) y = DequantizeLinear(p, s, z)"
    )
    assert edges(found) == [
        ("input", "Relu", ("quantize",)),
        ("Relu", "Abs", ()),
        ("Abs", "output", ("dequantize",)),
    ]
    assert found.edges[1].grid == "uint8, scale 0.1, zero 3"
    assert [operator.precision for operator in found.operators] == ["", "integer", "integer", ""]


def test_a_second_grid_is_a_conversion() -> None:
    found = view(
        "a = Relu(x) ~ int8 q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) "
        "r = QuantizeLinear(d, t, u) e = DequantizeLinear(r, t, u) y = Abs(e) ~ int8"
    )
    assert ("Relu", "Abs", ("requantize",)) in edges(found)


def test_a_tensor_that_is_rounded_between_floats_converts_twice() -> None:
    found = view("a = Relu(x) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) y = Abs(d)")
    assert ("Relu", "Abs", ("quantize", "dequantize")) in edges(found)


def test_float_between_integers_is_an_island_and_float_alone_is_none() -> None:
    found = view(
        "a = Relu(x) ~ int8 b = Sin(a) c = Cos(b) d = Abs(c) ~ int8 e = Sin(b) y = Add(d, e)"
    )
    islands = {operator.op: operator.island for operator in found.operators}
    assert found.islands == 1
    assert islands["Sin"] == islands["Cos"] == islands["Add"] == 0
    assert islands["Relu"] == islands["input"] == -1
    assert view("a = Relu(x) y = Abs(a)").islands == 0


def test_stored_weights_are_told() -> None:
    inner = "int8[4] w = {1, 2, 3, 4}, float s = {0.5}, int8 z = {0}"
    found = view("d = DequantizeLinear(w, s, z) y = Mul(x, d)", inner)
    assert [(o.op, o.precision) for o in found.operators] == [
        ("input", ""),
        ("Mul", "weights"),
        ("output", ""),
    ]


def test_unnamed_operators_are_called_by_their_result() -> None:
    found = view("[first] a = Relu(x) y = Abs(a)")
    assert [(o.name, o.shape) for o in found.operators[:2]] == [("x", "Nx4"), ("first", "")]
    assert found.operators[2].name == "y"


def test_repeated_operands_are_one_edge() -> None:
    assert len(view("y = Add(x, x)").edges) == 2


def test_distributions_measure_what_the_grid_loses() -> None:
    graph = parse("g (uint8[N] x) => (float[N] y) <float s = {0.5}, uint8 z = {2}> "
                  "{ y = DequantizeLinear(x, s, z) }")  # fmt: skip
    node = next(iter(graph))
    inside = Distribution.of([np.array([-1.0, 0.0, 126.5], np.float32)], node)
    assert inside is not None
    assert (inside.low, inside.high) == (-1.0, 126.5)
    assert (inside.clipped, inside.clipping, inside.rounding) == (0, 0, 0)
    values = np.array([-3.0, 0.25, 0.0, 4.0], np.float32)
    found = Distribution.of([values[:2], values[2:]], node)
    assert found is not None
    assert found.clipped == 0.25
    energy = float(values @ values)
    np.testing.assert_allclose(found.clipping, 4 / energy)
    np.testing.assert_allclose(found.rounding, 0.0625 / energy)
    assert len(found.counts) == BINS and sum(found.counts) == 4
    assert (found.seen_low, found.seen_high, found.zero_point) == (-3, 4, 2)


def test_several_scales_have_no_one_distribution() -> None:
    graph = parse("g (uint8[2] x) => (float[2] y) <float[2] s = {1, 2}, uint8[2] z = {0, 0}> "
                  "{ y = DequantizeLinear <axis = 0> (x, s, z) }")  # fmt: skip
    assert Distribution.of([np.ones(2, np.float32)], next(iter(graph))) is None
