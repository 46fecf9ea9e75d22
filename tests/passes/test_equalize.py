"""Cross-layer equalization: the vectors of the literature, and where implementations went wrong."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_channels import random_network
from rewriting import apply, net, noise, ops

from ptq_opt.ir import Graph
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes import Context, Report
from ptq_opt.passes.equalize import Equalize
from ptq_opt.passes.rescale import equalizing_factors

CAP = Equalize(clips="cap")


def constants(graph: Graph) -> list[Array]:
    return [v.numpy() for n in graph for v in n.inputs if v is not None and v.is_constant]


def pair(activation: str, **more: Array) -> Graph:
    """Two layers whose hidden channels differ, one of them without weights."""
    return net(
        f"c = Gemm <transB = 1> (x, w1, b1)\nr = {activation}\ny = Gemm <transB = 1> (r, w2, b2)",
        "float[4,2] x",
        w1=np.array([[8, -4], [0.5, 0.25], [0, 0]], np.float32),
        b1=np.array([1, -0.2, 0.7], np.float32),
        w2=np.array([[0.5, 2, 1], [-0.25, 8, -3]], np.float32),
        b2=np.array([0.1, -0.1], np.float32), **more,
    )  # fmt: skip


def clipped(low: float = 0, high: float = 6, opset: int = 17) -> Graph:
    bounds = {"low": np.float32(low), "high": np.float32(high)}
    return pair("Clip (c, low, high)", **bounds)


def is_equalized(graph: Graph) -> None:
    first, second = (node for node in graph if node.op == "Gemm")
    w1, b1, w2 = (v.numpy() for v in (*first.inputs[1:], second.inputs[1]) if v is not None)
    np.testing.assert_allclose(w1, [[2, -1], [2, 1], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(b1, [0.25, -0.8, 0.7], rtol=1e-6)
    np.testing.assert_allclose(w2, [[2, 0.5, 1], [-1, 2, -3]], rtol=1e-6)


# -- factors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["Relu (c)", "PRelu (c, slope)", "Identity (c)"])
def test_vectors_of_equalization(activation: str) -> None:
    slopes = {"slope": np.array([0.1, 0.3, 0.2], np.float32)} if "slope" in activation else {}
    graph = pair(activation, **slopes)
    apply(Equalize(), graph)
    is_equalized(graph)


def test_a_depthwise_triple_ends_with_three_like_ranges() -> None:
    graph = net(
        "a = Conv (x, w1)\nr = Relu (a)\nd = Conv <group = 2> (r, w2)\ns = Relu (d)\n"
        "y = Conv (s, w3)", "float[1,2,3,3] x",
        w1=np.full((2, 2, 1, 1), 8, np.float32), w2=np.full((2, 1, 3, 3), 0.5, np.float32),
        w3=np.full((1, 2, 1, 1), 2, np.float32),
    )  # fmt: skip
    apply(Equalize(), graph)
    for weights in constants(graph):
        np.testing.assert_allclose(weights, 2, rtol=1e-2)


def test_factors_of_dead_channels_are_1() -> None:
    made, read = np.array([8, 0.5, 0, 1e-20, 2]), np.array([0.5, 8, 1, 1, 0])
    np.testing.assert_allclose(equalizing_factors(made, read), [4, 0.25, 1, 1, 1])


@pytest.mark.parametrize("tiny", [0.0, -0.0, 1e-45, 1e-30])
def test_a_dead_filter_with_a_large_bias_stays_as_it_is(tiny: float) -> None:
    graph = pair("Relu (c)")
    first = next(iter(graph))
    weights, bias = noise(3, 2), np.array([0.1, 0.1, -1.2157], np.float32)
    weights[2] = tiny
    graph.set_input(first, 1, graph.constant(weights))
    graph.set_input(first, 2, graph.constant(bias))
    apply(Equalize(), graph)
    found = first.inputs[2]
    assert found is not None and found.numpy()[2] == np.float32(-1.2157)


ranges = st.lists(st.sampled_from([0.0, 1e-45, 1e-30, 0.5, 1.0, 8.0, 1e30]), min_size=4, max_size=4)


@given(ranges, ranges)
def test_factors_are_finite_and_limited(made: list[float], read: list[float]) -> None:
    factors = equalizing_factors(np.array(made, np.float32), np.array(read, np.float32), 100.0)
    assert np.all((factors >= 0.01) & (factors <= 100))


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
def test_ranges_become_their_geometric_mean(made: list[float]) -> None:
    first, second = np.array(made), np.array([1.0, 2.0, 0.5])
    factors = equalizing_factors(first, second)
    np.testing.assert_allclose(first / factors, np.sqrt(first * second))
    np.testing.assert_allclose(second * factors, np.sqrt(first * second))


def test_factors_stay_within_the_limit() -> None:
    graph = pair("Relu (c)")
    before = graph.find("w2").numpy()
    apply(Equalize(limit=1.5), graph)
    ratio = graph.find("w2").numpy()[:, :2] / before[:, :2]
    np.testing.assert_allclose(ratio, [[1.5, 1 / 1.5]] * 2, rtol=1e-6)


@pytest.mark.parametrize("limit", [1.0, 0.0, float("nan")])
def test_the_limit_is_checked(limit: float) -> None:
    with pytest.raises(ValueError, match="limit must be greater than 1"):
        Equalize(limit=limit)


# -- between pairs ---------------------------------------------------------------------------------


def spread(*shape: int) -> Array:
    """Weights whose output channels differ by up to 64."""
    return noise(*shape) * np.geomspace(1, 64, shape[0], dtype=np.float32).reshape(
        -1, *[1] * (len(shape) - 1)
    )


def channel_spread(graph: Graph, name: str, axis: int) -> float:
    """Ratio of the largest to the smallest range of a weight's channels."""
    weights = np.abs(graph.find(name).numpy())
    found = weights.max(axis=tuple(k for k in range(weights.ndim) if k != axis))
    return float(found.max() / found.min())


BETWEEN: dict[str, tuple[str, dict[str, Any]]] = {
    "fan-out": ("r = Relu (c)\ne = Conv (r, u)\nz = Conv (r, v)", {"u": noise(3, 8, 1, 1)}),
    "residual": ("r = Relu (c)\ne = Conv (r, u)\nm = Add (r, e)\nz = Conv (m, v)",
                 {"u": noise(8, 8, 1, 1)}),
    "concat": ("r = Relu (c)\ne = Conv (x, u)\nm = Concat <axis = 1> (e, r)\nz = Conv (m, v2)",
               {"u": noise(2, 4, 1, 1), "v2": noise(3, 10, 1, 1)}),
    "split": ("p, q = Split <axis = 1> (c)\nm = Concat <axis = 1> (q, p)\nz = Conv (m, v)", {}),
    "groups": ("r = Relu (c)\ne = Conv <group = 4> (r, u)\nz = Conv (e, v)",
               {"u": noise(8, 2, 1, 1)}),
    "depthwise": ("r = Relu (c)\ne = Conv <group = 8, pads = [1,1,1,1]> (r, u)\nz = Conv (e, v)",
                  {"u": noise(8, 1, 3, 3)}),
    "padding": ("r = Relu (c)\nz = Conv <pads = [1,1,1,1]> (r, u)", {"u": noise(3, 8, 3, 3)}),
    "flatten": ("r = Relu (c)\nf = Flatten (r)\nz = Gemm (f, u)", {"u": noise(288, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_ranges_of_channels_become_more_alike(name: str) -> None:
    body, more = BETWEEN[name]
    both = {"w": spread(8, 4, 1, 1), "b": noise(8), "v": noise(3, 8, 1, 1)}
    graph = net(f"c = Conv (x, w, b)\n{body}\ny = Relu (z)", **both, **more)
    assert apply(Equalize(), graph).rewritten >= 1
    assert channel_spread(graph, "w", 0) < 0.5 * channel_spread(
        net("y = Conv (x, w)", w=both["w"]), "w", 0
    )


def test_all_readers_count() -> None:
    graph = net(
        "c = Conv (x, w)\ny = Conv (c, u)\nz = Conv (c, v)", outputs="float[] y, float[] z",
        w=np.ones((4, 4, 1, 1), np.float32), u=np.ones((1, 4, 1, 1), np.float32),
        v=np.full((1, 4, 1, 1), 16, np.float32),
    )  # fmt: skip
    apply(Equalize(), graph)
    assert graph.find("v").numpy().max() == graph.find("w").numpy().max() == 4


@pytest.mark.parametrize("name", BETWEEN)
def test_a_second_time_changes_nothing(name: str) -> None:
    body, more = BETWEEN[name]
    both = {"w": spread(8, 4, 1, 1), "b": noise(8), "v": noise(3, 8, 1, 1)}
    graph = net(f"c = Conv (x, w, b)\n{body}\ny = Relu (z)", **both, **more)
    apply(Equalize(), graph)
    once = constants(graph)
    apply(Equalize(), graph)
    for a, b in zip(once, constants(graph), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2)


def test_shared_weights_keep_their_value_for_others() -> None:
    graph = net(
        "c = Conv (x, w)\nr = Relu (c)\nz = Conv (r, v)\ne = Conv (x, w)\ny = Add (z, e)",
        w=spread(4, 4, 1, 1), v=noise(4, 4, 1, 1),
    )  # fmt: skip
    assert apply(Equalize(), graph).rewritten == 1


STAYS = {
    "an output": ("c = Conv (x, w)\nz = Conv (c, v)", "float[] c, float[] z",
                  "the graph returns the tensor"),
    "a sigmoid": ("c = Conv (x, w)\ns = Sigmoid (c)\nz = Conv (s, v)", "float[] z",
                  "Sigmoid: no factor passes it"),
    "a residual from the input": ("c = Conv (x, w)\nm = Add (c, x)\nz = Conv (m, v)", "float[] z",
                                  "it meets a tensor that keeps its scale"),
    "a scalar maximum": ("c = Conv (x, w)\nm = Max (c, one)\nz = Conv (m, v)", "float[] z",
                         "it meets a tensor that keeps its scale"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_and_why(name: str) -> None:
    body, outputs, reason = STAYS[name]
    more = {"one": np.float32(1)} if "one" in body else {}
    graph = net(body, outputs=outputs, w=spread(4, 4, 1, 1), v=noise(4, 4, 1, 1), **more)
    before = constants(graph)
    report = apply(Equalize(), graph)
    assert report.rewritten == 0 and reason in report.skipped
    assert all(np.array_equal(a, b) for a, b in zip(before, constants(graph), strict=True))


# -- clips -----------------------------------------------------------------------------------------


def test_a_clip_to_6_is_left_alone() -> None:
    graph = clipped()
    before = constants(graph)
    report = apply(Equalize(), graph)
    assert report.rewritten == 0
    assert "Clip: its bounds are absolute, a factor would move them" in report.skipped
    assert all(np.array_equal(a, b) for a, b in zip(before, constants(graph), strict=True))


def test_a_clip_to_6_is_capped_where_a_tensor_of_weights_has_one_scale() -> None:
    def operators(clips: Literal["auto", "keep"], weights: str) -> list[str]:
        graph = clipped()
        target = find_target("ort-cpu").storing(weights)
        Equalize(clips=clips).run(graph, Context(target))
        return ops(graph)

    assert operators("auto", "int8:per-tensor") == ["Gemm", "Relu", "Min", "Gemm"]
    assert operators("auto", "int8:per-channel") == ["Gemm", "Clip", "Gemm"]
    assert operators("auto", "none") == ["Gemm", "Clip", "Gemm"]
    assert operators("keep", "int8:per-tensor") == ["Gemm", "Clip", "Gemm"]


def test_caps_make_a_clip_to_6_exact() -> None:
    graph = clipped()
    apply(CAP, graph)
    is_equalized(graph)
    assert ops(graph) == ["Gemm", "Relu", "Min", "Gemm"]
    cap = next(node for node in graph if node.op == "Min").inputs[1]
    assert cap is not None
    np.testing.assert_allclose(cap.numpy(), [[1.5, 24, 6]])


def test_both_bounds_follow() -> None:
    graph = clipped(low=-1, high=1)
    apply(CAP, graph)
    is_equalized(graph)
    assert ops(graph) == ["Gemm", "Max", "Min", "Gemm"]


def test_a_bound_beyond_every_float_is_none() -> None:
    graph = clipped(low=-1, high=3.4028235e38)
    apply(CAP, graph)
    assert ops(graph) == ["Gemm", "Max", "Gemm"]


def test_caps_follow_a_second_time() -> None:
    graph = clipped()
    apply(CAP, graph)
    second = next(node for node in reversed(graph.order()) if node.op == "Gemm")
    graph.set_input(second, 1, graph.constant(noise(2, 3)))
    assert apply(Equalize(), graph).rewritten == 1


def test_a_clip_without_gain_stays_a_clip() -> None:
    graph = net(
        "c = Conv (x, w)\nr = Clip (c, low, high)\ny = Sigmoid (r)", w=noise(4, 4, 1, 1),
        low=np.float32(0), high=np.float32(6),
    )  # fmt: skip
    apply(CAP, graph)
    assert ops(graph) == ["Conv", "Clip", "Sigmoid"]


def test_the_pre_activation_may_be_read_elsewhere() -> None:
    graph = net(
        "c = Conv (x, w)\nr = Clip (c, low, high)\np = Conv (r, v)\nq = Conv (c, v)\n"
        "y = Add (p, q)",
        w=spread(4, 4, 1, 1), v=noise(4, 4, 1, 1), low=np.float32(0), high=np.float32(6),
    )  # fmt: skip
    assert apply(CAP, graph).rewritten == 1


# -- everything ------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(data=st.data(), caps=st.booleans())
def test_random_networks(data: st.DataObject, caps: bool) -> None:
    report: Report = apply(CAP if caps else Equalize(), random_network(data), tolerance=1e-4)
    assert report.rewritten <= report.matched
