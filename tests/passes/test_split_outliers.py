"""Outlier channel splitting: the vectors, the identities, and where copies go."""

import dataclasses
from math import ceil

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_channels import random_network
from rewriting import apply, net, noise, ops

from ptq_opt.ir import Graph
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import open_samples, random_samples
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes import Context, Pipeline, Report
from ptq_opt.passes.split_outliers import SplitOutliers, halves, largest, sources

PER_TENSOR = find_target("ort-cpu").storing(weights="int8:per-tensor")
WEIGHTS = np.array([[4, 1], [-2, 0.5], [0.5, 3]], np.float32)


def split(graph: Graph, **options: float | str) -> Report:
    """Split for one scale per tensor; the outputs stay."""
    feeds = list(random_samples(graph.inputs, 2))
    before = [Runner(graph).run(f) for f in feeds]
    context = Context(PER_TENSOR)
    SplitOutliers(**options).run(graph, context)  # type: ignore[arg-type]
    for expected, found in zip(before, [Runner(graph).run(f) for f in feeds], strict=True):
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * max(1, np.abs(a).max()))
    return context.report


def outliers(*shape: int, channel: int = 1) -> Array:
    """Weights one of whose input channels (axis 1) is ten times the others."""
    weights = noise(*shape)
    weights[:, channel] *= 10
    return weights


# -- vectors and identities ------------------------------------------------------------------------


def test_vector_of_the_naive_split() -> None:
    picks = largest(WEIGHTS, 0, 1)
    assert picks == [0] and sources(3, picks).tolist() == [0, 1, 2, 0]
    found = halves(WEIGHTS, 0, picks)
    np.testing.assert_allclose(found, [[2, 0.5], [-2, 0.5], [0.5, 3], [2, 0.5]])
    x = np.array([1.0, 2, 3])
    np.testing.assert_allclose(x[sources(3, picks)] @ found, [1.5, 11])


def test_vector_of_the_aware_split() -> None:
    step = 4 / 7
    found = halves(WEIGHTS, 0, [0], step)[[0, 3]] / step
    np.testing.assert_allclose(found, [[3.25, 0.625], [3.75, 1.125]])
    assert np.rint(found).sum(axis=0).tolist() == [7, 2]


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.02, 2), (0.05, 4)])
def test_shares_are_rounded_up(share: float, count: int) -> None:
    weights = outliers(8, 64)
    graph = net("y = Gemm <transB = 1> (x, w)", "float[2,64] x", w=weights)
    assert split(graph, expand=share).rewritten == 1
    assert ceil(share * 64) == count
    assert [v.numpy().shape[1] for v in graph.values() if v.name == "w"] == [64 + count]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9))
def test_halves_of_the_aware_split_round_to_the_rounded_whole(whole: list[float]) -> None:
    weights = np.array([whole])
    assume((np.abs(weights % 1 - 0.5) > 1e-6).all())
    found = np.rint(halves(weights, 0, [0], 1.0))
    assert np.array_equal(found.sum(axis=0), np.rint(weights[0]))


@given(st.integers(-254, 254), st.floats(-0.4, 0.4))
def test_and_do_not_leave_the_grid(whole: int, rest: float) -> None:
    weights = np.clip(np.array([[whole + rest]]), -254, 254)
    found = halves(weights, 0, [0], 1.0, -127.0, 127.0)
    assert np.abs(found).max() <= 127 and found.sum() == pytest.approx(weights.sum())
    assert np.rint(found).sum() == np.rint(weights).sum()


def test_naive_halves_double_the_error() -> None:
    u = np.random.default_rng(0).uniform(-50, 50, (1, 20000))
    naive, aware = (np.rint(halves(u, 0, [0], step)).sum(axis=0) for step in (0.0, 1.0))
    assert np.square(naive - u[0]).mean() == pytest.approx(1 / 3, rel=0.05)
    assert np.square(aware - u[0]).mean() == pytest.approx(1 / 12, rel=0.05)


def test_a_channel_may_be_split_again() -> None:
    weights = np.array([[9.0], [1], [1]])
    picks = largest(weights, 0, 3)
    assert sources(3, picks).tolist() == [0, 1, 2, 0, 0, 0]
    np.testing.assert_allclose(halves(weights, 0, picks)[[0, 3, 4, 5]], 2.25)


# -- where copies go -------------------------------------------------------------------------------

SHAPES = {
    "conv": ("y = Conv <pads = [1,1,1,1]> (x, w, b)", "float[1,16,6,6] x", (8, 16, 3, 3)),
    "groups": ("y = Conv <group = 2> (x, w, b)", "float[1,32,6,6] x", (8, 16, 1, 1)),
    "gemm": ("y = Gemm <transB = 1> (x, w, b)", "float[3,16] x", (8, 16)),
    "volume": ("y = Conv (x, w, b)", "float[1,16,4,4,4] x", (8, 16, 1, 1, 1)),
}


@pytest.mark.parametrize("method", ["aware", "naive"])
@pytest.mark.parametrize("name", SHAPES)
def test_one_channel_is_split(name: str, method: str) -> None:
    body, given_, shape = SHAPES[name]
    graph = net(body, given_, w=outliers(*shape), b=noise(8))
    assert split(graph, method=method).rewritten == 1
    node = graph.order()[-1]
    weights = node.inputs[1]
    assert ops(graph)[0] == "Gather" and weights is not None
    assert weights.numpy().shape[1] == 17
    reach = np.abs(weights.numpy()).max()
    assert reach < 0.52 * np.abs(outliers(*shape)).max()


def test_a_matrix_product_and_open_sizes() -> None:
    graph = net("y = MatMul (x, w)", "float[N,S,16] x", w=outliers(8, 16).T.copy())
    report = split(graph)
    assert report.notes == ["1 layers read copies of channels: 6.2% more multiplications"]
    assert graph.find("x_split").shape == ("N", "S", 17)


def test_other_readers_and_outputs_see_no_copies() -> None:
    graph = net(
        "c = Conv (x, v)\ny = Conv (c, w)\nz = Relu (c)", "float[1,4,6,6] x",
        "float[] y, float[] c, float[] z", v=noise(16, 4, 1, 1), w=outliers(8, 16, 1, 1),
    )  # fmt: skip
    report = split(graph)
    assert report.rewritten == 1
    assert [v.name for v in graph.outputs] == ["y", "c", "z"]


def test_shared_weights_keep_their_value_for_others() -> None:
    graph = net(
        "c = Gemm (x, w)\nd = Add (x, w)\ny = MatMul (c, d)", "float[16,16] x",
        w=outliers(16, 16).T.copy(),
    )  # fmt: skip
    assert split(graph).rewritten == 1


REASONS = {
    "even": (noise(8, 16, 1, 1), "splitting would hardly narrow the range of its weights"),
    "few": (outliers(8, 4, 1, 1), "one copy would be more than 10% of its input channels"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_left_alone(name: str) -> None:
    weights, reason = REASONS[name]
    if name == "even":
        weights = np.sign(weights)
    graph = net("y = Conv (x, w)", f"float[1,{weights.shape[1]},6,6] x", w=weights)
    report = split(graph)
    assert report.rewritten == 0 and reason in report.skipped


def test_a_depthwise_convolution_is_left_alone() -> None:
    graph = net("y = Conv <group = 4> (x, w)", w=noise(4, 1, 3, 3))
    assert split(graph).rewritten == 0


def test_per_channel_scales_gain_little() -> None:
    graph = net("y = Conv (x, w)", "float[1,16,6,6] x", w=noise(64, 16, 1, 1))
    assert apply(SplitOutliers(), graph).rewritten == 0


def test_weights_in_float_are_left_alone() -> None:
    context = Context(dataclasses.replace(PER_TENSOR, weights=None))
    SplitOutliers().run(net("y = Conv (x, w)", w=noise(8, 4, 1, 1)), context)
    assert context.report.notes[0].startswith("weights stay in float")


@pytest.mark.parametrize("options", [{"expand": 0.0}, {"expand": 0.2}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expand must be greater than 0 and at most limit"):
        SplitOutliers(**options)


@settings(max_examples=20)
@given(data=st.data(), method=st.sampled_from(["aware", "naive"]))
def test_random_networks(data: st.DataObject, method: str) -> None:
    report = split(random_network(data), expand=0.3, limit=1.0, method=method)
    assert report.rewritten <= report.matched


def test_one_scale_per_tensor_gains() -> None:
    def decibel(passes: str) -> float:
        graph = net(
            "c = Conv (x, w)\ny = Relu (c)", "float[1,64,12,12] x", w=outliers(64, 64, 3, 3)
        )  # fmt: skip
        rng = np.random.default_rng(0)
        feeds = [{"x": rng.standard_normal((1, 64, 12, 12)).astype(np.float32)} for _ in range(4)]
        for feed in feeds:
            feed["x"][:, 1] /= 10  # as large in the output as the others
        exact = [Runner(graph).run(f)[0] for f in feeds]
        target = PER_TENSOR.storing(weights="int4:per-tensor")
        Pipeline(passes).run(graph, Context(target, open_samples(feeds, graph.inputs)))
        return signal_to_noise(exact, [Runner(graph).run(f)[0] for f in feeds])

    assert decibel("split-outliers{expand=0.05},quant") > decibel("quant") + 6
