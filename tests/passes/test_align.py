"""Channel alignment: the vectors of the literature, and what it is for."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_channels import random_network
from rewriting import net, noise

from ptq_opt.ir import Graph
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.target import GridRule, find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes import Context, Pipeline, Report
from ptq_opt.passes.align import Align

PER_TENSOR = dataclasses.replace(
    find_target("ort-cpu"), weights=GridRule(symmetric=True, per_channel=False)
)
SPREAD = np.geomspace(1, 64, 16).astype(np.float32)


def inputs(count: int, seed: int = 0, *shape: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [
        {"x": rng.standard_normal(shape or (1, 4, 6, 6)).astype(np.float32)} for _ in range(count)
    ]


def align(graph: Graph, count: int = 16, per_tensor: bool = False, **options: float) -> Report:
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
    assert align(graph).notes == ["regions whose channels are shifted: 1"]
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


@settings(max_examples=15)
@given(data=st.data(), per_tensor=st.booleans())
def test_random_networks(data: st.DataObject, per_tensor: bool) -> None:
    align(random_network(data), count=4, per_tensor=per_tensor)
