"""Channel alignment: the vectors of the literature, and what it is for."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_channels import random_network
from rewriting import apply, net, noise

from ptq_opt.ir import Graph
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.target import GridRule, find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes import Context, Pipeline, Report
from ptq_opt.passes.align import Align
from ptq_opt.passes.rescale import equalizing_factors

PER_TENSOR = dataclasses.replace(
    find_target("ort-cpu"), weights=GridRule(symmetric=True, per_channel=False)
)
SPREAD = np.geomspace(1, 64, 16).astype(np.float32)


def inputs(count: int, seed: int = 0, *shape: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [
        {"x": rng.standard_normal(shape or (1, 4, 6, 6)).astype(np.float32)} for _ in range(count)
    ]


def align(
    graph: Graph, count: int = 16, per_tensor: bool = False, **options: float | str
) -> Report:
    """Align by samples; the outputs stay."""
    context = Context(PER_TENSOR if per_tensor else find_target("ort-cpu"))
    context.samples = open_samples(inputs(count), graph.inputs)
    feeds = inputs(2, 7)
    before = [Runner(graph).run(f) for f in feeds]
    Align(**options).run(graph, context)  # type: ignore[arg-type]
    for expected, found in zip(before, [Runner(graph).run(f) for f in feeds], strict=True):
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * max(1, np.abs(a).max()))
    return context.report


def decibel(make: Callable[[], Graph], passes: str, per_tensor: bool = False) -> float:
    """Signal to noise ratio of the quantized network on unseen samples."""
    graph = make()
    context = Context(PER_TENSOR if per_tensor else find_target("ort-cpu"))
    context.samples = open_samples(inputs(16), graph.inputs)
    feeds = inputs(16, 1)
    exact = [Runner(graph).run(f)[0] for f in feeds]
    Pipeline(passes).run(graph, context)
    return signal_to_noise(exact, [Runner(graph).run(f)[0] for f in feeds])


def constants(graph: Graph) -> list[Array]:
    return [v.numpy() for n in graph for v in n.inputs if v is not None and v.is_constant]


# -- by weights ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("activation", ["Relu (c)", "PRelu (c, slope)", "Identity (c)"])
def test_vectors_of_equalization(activation: str) -> None:
    slopes = {"slope": np.array([0.1, 0.3, 0.2], np.float32)} if "slope" in activation else {}
    graph = pair(activation, **slopes)
    apply(Align(method="weights"), graph)
    first, second = (node for node in graph if node.op == "Gemm")
    w1, b1, w2 = (v.numpy() for v in (*first.inputs[1:], second.inputs[1]) if v is not None)
    np.testing.assert_allclose(w1, [[2, -1], [2, 1], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(b1, [0.25, -0.8, 0.7], rtol=1e-6)
    np.testing.assert_allclose(w2, [[2, 0.5, 1], [-1, 2, -3]], rtol=1e-6)


def test_a_clip_to_6_is_left_alone() -> None:
    graph = pair("Clip (c, low, high)", low=np.float32(0), high=np.float32(6))
    before = constants(graph)
    report = apply(Align(method="weights"), graph)
    assert report.rewritten == 0
    assert "Clip: its bounds are absolute, a factor would move them" in report.skipped
    assert all(np.array_equal(a, b) for a, b in zip(before, constants(graph), strict=True))


def test_a_depthwise_triple_ends_with_three_like_ranges() -> None:
    graph = net(
        "a = Conv (x, w1)\nr = Relu (a)\nd = Conv <group = 2> (r, w2)\ns = Relu (d)\n"
        "y = Conv (s, w3)", "float[1,2,3,3] x",
        w1=np.full((2, 2, 1, 1), 8, np.float32), w2=np.full((2, 1, 3, 3), 0.5, np.float32),
        w3=np.full((1, 2, 1, 1), 2, np.float32),
    )  # fmt: skip
    apply(Align(method="weights"), graph)
    for weights in constants(graph):
        np.testing.assert_allclose(weights, 2, rtol=1e-2)


@pytest.mark.parametrize("name", ["relu", "residual"])
def test_a_second_time_changes_nothing(name: str) -> None:
    body = {
        "relu": "r = Relu (c)\nm = Conv <group = 4> (r, g)",
        "residual": "r = Relu (c)\ne = Conv (r, u)\nm = Add (r, e)",
    }
    more = {"g": noise(8, 2, 1, 1)} if name == "relu" else {"u": noise(8, 8, 1, 1)}
    graph = net(
        f"c = Conv (x, w)\n{body[name]}\ny = Conv (m, v)",
        w=noise(8, 4, 1, 1), v=noise(3, 8, 1, 1), **more,
    )  # fmt: skip
    assert apply(Align(method="weights"), graph).rewritten
    once = constants(graph)
    apply(Align(method="weights"), graph)
    for a, b in zip(once, constants(graph), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2)


def test_factors_of_dead_channels_are_1() -> None:
    made, read = np.array([8, 0.5, 0, 1e-20, 2]), np.array([0.5, 8, 1, 1, 0])
    np.testing.assert_allclose(equalizing_factors(made, read), [4, 0.25, 1, 1, 1])


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


def test_without_samples_weights_decide_and_it_is_said() -> None:
    report = apply(Align(), pair("Relu (c)"))
    assert report.rewritten == 1
    assert report.notes == ["no samples: channels are aligned by their weights alone"]


# -- by predicted noise ----------------------------------------------------------------------------


def uneven(activation: str = "Relu") -> Graph:
    """Channels of very different ranges that matter alike."""
    spread = SPREAD[:, None, None, None]
    return net(
        f"c = Conv (x, w, b)\nr = {activation} (c)\ny = Conv (r, v)",
        w=noise(16, 4, 1, 1) * spread, b=noise(16) * SPREAD,
        v=noise(8, 16, 1, 1) / spread.reshape(1, 16, 1, 1),
    )  # fmt: skip


def even() -> Graph:
    return net(
        "c = Conv (x, w)\nr = Relu (c)\ny = Conv (r, v)",
        w=np.eye(4, dtype=np.float32)[..., None, None], v=noise(8, 4, 1, 1),
    )  # fmt: skip


def test_uneven_channels_gain() -> None:
    assert align(uneven()).rewritten == 1
    plain, aligned = (decibel(uneven, passes) for passes in ("quant", "align,quant"))
    assert aligned > plain + 6


def test_even_channels_are_left_alone() -> None:
    graph = even()
    before = constants(graph)
    report = align(graph)
    assert report.rewritten == 0 and "no gain is predicted" in report.skipped
    assert all(np.array_equal(a, b) for a, b in zip(before, constants(graph), strict=True))


def test_aligned_channels_are_left_alone() -> None:
    graph = uneven()
    align(graph)
    assert align(graph).rewritten == 0


def test_channels_that_never_fire_keep_their_weights() -> None:
    graph = uneven()
    bias = graph.find("b")
    dead = bias.numpy().copy()
    dead[3] = -1e6
    graph.set_input(*next(iter(bias.uses)), graph.constant(dead))
    before = graph.find("v").numpy()
    align(graph)
    changed = np.any(graph.find("v").numpy() != before, axis=(0, 2, 3))
    assert not changed[3] and changed.sum() > 8


def test_factors_stay_within_the_limit() -> None:
    graph = uneven()
    before = graph.find("v").numpy()
    align(graph, limit=1.5)
    ratio = graph.find("v").numpy() / before
    assert ratio.min() >= 1 / 1.501 and 1.4 < ratio.max() <= 1.501


def test_one_sample_is_enough() -> None:
    assert align(uneven(), count=1).rewritten == 1


def test_linear_pairs_are_shifted() -> None:
    def far() -> Graph:
        middles, v = 50 * noise(16), noise(8, 16, 1, 1)
        return net(
            "c = Conv (x, w, b)\ny = Conv (c, v, d)",
            w=noise(16, 4, 1, 1), b=middles, v=v, d=-v[:, :, 0, 0] @ middles,
        )  # fmt: skip

    graph = far()
    assert align(graph).notes == ["the channels of 1 regions are shifted"]
    assert decibel(far, "align,quant") > decibel(far, "quant") + 6


def test_a_padded_reader_is_not_shifted() -> None:
    graph = net(
        "c = Conv (x, w, b)\ny = Conv <pads = [1,1,1,1]> (c, v)",
        w=noise(16, 4, 1, 1), b=50 * noise(16), v=noise(8, 16, 3, 3),
    )  # fmt: skip
    assert align(graph).notes == []


def test_weights_on_one_grid_gain() -> None:
    def chain() -> Graph:
        spread = SPREAD[:, None, None, None]
        return net(
            "c = Conv (x, w, b)\nr = Relu (c)\nd = Conv <group = 16> (r, u)\ns = Relu (d)\n"
            "y = Conv (s, v)",
            w=noise(16, 4, 1, 1) / spread, b=noise(16) / SPREAD, u=noise(16, 1, 3, 3) * spread**2,
            v=noise(8, 16, 1, 1) / spread.reshape(1, 16, 1, 1),
        )  # fmt: skip

    assert align(chain(), per_tensor=True).rewritten == 2
    plain, aligned = (decibel(chain, passes, True) for passes in ("quant", "align,quant"))
    assert aligned > plain + 6


def test_open_sizes() -> None:
    graph = net(
        "c = Conv (x, w)\nr = Relu (c)\ny = Conv (r, v)", "float[N,4,H,W] x",
        w=noise(16, 4, 1, 1) * SPREAD[:, None, None, None], v=noise(8, 16, 1, 1),
    )  # fmt: skip
    assert align(graph).matched == 1


def test_nothing_to_align() -> None:
    report = align(net("y = Sigmoid (x)"))
    assert (report.matched, report.rewritten, report.edits) == (0, 0, 0)


@pytest.mark.parametrize("options", [{"samples": 0}, {"limit": 1.0}, {"limit": float("nan")}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="samples must be at least 1, limit greater than 1"):
        Align(**options)  # type: ignore[arg-type]


def test_behind_what_cannot_run_nothing_is_changed() -> None:
    graph = net(
        "h = other.Thing (x)\nc = Conv (h, w)\nr = Relu (c)\ny = Conv (r, v)",
        w=noise(16, 4, 1, 1) * SPREAD[:, None, None, None], v=noise(8, 16, 1, 1),
    )  # fmt: skip
    context = Context(find_target("ort-cpu"), open_samples(inputs(4), graph.inputs))
    Align().run(graph, context)
    assert context.report.rewritten == 0


@pytest.mark.filterwarnings("error")
def test_tensors_that_are_not_finite_are_left_to_calibration() -> None:
    graph = uneven()
    bias = graph.find("b")
    graph.set_input(*next(iter(bias.uses)), graph.constant(np.full(16, np.inf, np.float32)))
    context = Context(find_target("ort-cpu"), open_samples(inputs(4), graph.inputs))
    Align().run(graph, context)
    assert context.report.rewritten == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_ranges_that_do_not_recur_on_other_samples_are_left_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.exp(rng.standard_normal((8, 1, 16, 1, 1)))  # of a channel, anew in each sample
    x = (np.abs(rng.standard_normal((8, 1, 16, 6, 6))) ** 3 * levels).astype(np.float32)
    graph = net(
        "c = Conv (x, w)\nr = Relu (c)\ny = Conv (r, v)", "float[1,16,6,6] x",
        w=np.eye(16, dtype=np.float32)[..., None, None], v=noise(8, 16, 1, 1),
    )  # fmt: skip
    context = Context(
        find_target("ort-cpu"), open_samples([{"x": item} for item in x], graph.inputs)
    )
    Align().run(graph, context)
    assert context.report.rewritten == 0


@pytest.mark.parametrize("per_tensor", [False, True])
def test_tensors_whose_channels_only_factors_follow(per_tensor: bool) -> None:
    graph = net(
        "c = Conv (x, w)\nm = Mul (c, k)\nd = Conv (m, u)\ne = Conv (d, v)\ny = Relu (e)",
        w=noise(16, 4, 1, 1) * SPREAD[:, None, None, None], k=noise(16, 1, 1),
        u=noise(16, 16, 1, 1), v=noise(8, 16, 1, 1),
    )  # fmt: skip
    assert align(graph, per_tensor=per_tensor).matched == 2


@settings(max_examples=25, deadline=None)
@given(data=st.data(), per_tensor=st.booleans(), method=st.sampled_from(["noise", "weights"]))
def test_random_networks(data: st.DataObject, per_tensor: bool, method: str) -> None:
    align(random_network(data), count=4, per_tensor=per_tensor, method=method)
