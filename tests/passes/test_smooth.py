"""Smoothing of activations: the vectors, identities of attention blocks, and what it is for."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import net, noise, ops, run

from ptq_opt.ir import Graph
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.target import GridRule, find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes import Context, Pipeline, Report
from ptq_opt.passes.invariants import difference
from ptq_opt.passes.regions import find_channels
from ptq_opt.passes.rescale import rescale, shift
from ptq_opt.passes.smooth import Smooth, smoothing_factors

TARGET = find_target("ort-cpu")
LEVELS = np.geomspace(0.05, 20, 16).astype(np.float32)


def inputs(count: int, seed: int = 0, *shape: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [
        {"x": rng.standard_normal(shape or (1, 12, 16)).astype(np.float32)} for _ in range(count)
    ]


def smooth(graph: Graph, count: int = 8, **options: float) -> Report:
    """Smooth by samples; the outputs stay."""
    context = Context(TARGET, open_samples(inputs(count), graph.inputs))
    before = run(graph)
    Smooth(**options).run(graph, context)  # type: ignore[arg-type]
    for expected, found in zip(before, run(graph), strict=True):
        assert all(difference(a, b) <= 1e-5 for a, b in zip(expected, found, strict=True))
    return context.report


def block(body: str, outputs: str = "float[] y", **more: Array) -> Graph:
    """A LayerNormalization with outlying channels, and `body` from n to y."""
    return net(
        f"n = LayerNormalization <axis = -1> (x, g, b)\n{body}", "float[1,S,16] x", outputs,
        g=LEVELS, b=noise(16) * LEVELS, w=noise(16, 24, seed=1), c=noise(24), **more,
    )  # fmt: skip


def constant(graph: Graph, op: str, slot: int) -> Array:
    node = next(node for node in graph if node.op == op)
    value = node.inputs[slot]
    assert value is not None
    return value.numpy()


# -- factors ---------------------------------------------------------------------------------------


def test_vector_of_the_factors() -> None:
    activations, weights = np.array([10, 1, 0.1]), np.array([1, 0.5, 0])
    found = smoothing_factors(activations, weights, 0.5, 100)
    typical = np.sqrt(3.1622777 * 1.4142136)
    np.testing.assert_allclose(found, [3.1622777 / typical, 1.4142136 / typical, 1], rtol=1e-6)


ranges = st.lists(st.sampled_from([0.0, 1e-45, 1e-30, 0.5, 1.0, 8.0, 1e30]), min_size=4, max_size=4)


@given(ranges, ranges, st.floats(0, 1))
def test_factors_are_finite_and_limited(x: list[float], w: list[float], alpha: float) -> None:
    found = smoothing_factors(np.array(x, np.float32), np.array(w, np.float32), alpha, 100)
    assert np.all((found >= 0.01) & (found <= 100))


# -- where the factors go --------------------------------------------------------------------------


def test_a_normalization_that_nothing_else_reads_takes_them() -> None:
    graph = block("y = MatMul (n, w)")
    assert smooth(graph).rewritten == 1
    assert ops(graph) == ["LayerNormalization", "MatMul"]
    ratio = constant(graph, "LayerNormalization", 1) / LEVELS
    weights = noise(16, 24, seed=1) / ratio[:, None]
    np.testing.assert_allclose(constant(graph, "MatMul", 1), weights, rtol=1e-5)
    assert ratio[-1] < ratio[0]


def test_all_products_that_read_it_share_them() -> None:
    graph = block("p = MatMul (n, w)\nq = MatMul (n, v)\ny = Add (p, q)", v=noise(16, 24, seed=2))
    assert smooth(graph).matched == 1
    assert ops(graph) == ["LayerNormalization", "MatMul", "MatMul", "Add"]


def test_beside_a_residual_sum_there_is_a_product() -> None:
    graph = block("m = MatMul (n, v)\ny = Add (m, n)", v=noise(16, 16, seed=2))
    assert smooth(graph).rewritten == 1
    assert sorted(ops(graph)) == ["Add", "LayerNormalization", "MatMul", "Mul"]


def test_beside_an_output_there_is_a_product() -> None:
    graph = block("y = MatMul (n, w)", "float[] y, float[] n")
    assert smooth(graph).rewritten == 1
    assert ops(graph) == ["LayerNormalization", "Mul", "MatMul"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_behind_gelu_there_is_a_product(transposed: int) -> None:
    weights = noise(16, 24, seed=1) / LEVELS[:, None]
    graph = net(
        "h = Mul (x, g)\ne = Erf (h)\nm = Mul (h, e)\n"
        f"y = Gemm <transB = {transposed}> (m, w, c)", "float[12,16] x",
        g=LEVELS, w=weights.T if transposed else weights, c=noise(24),
    )  # fmt: skip
    context = Context(TARGET, open_samples(inputs(8, 0, 12, 16), graph.inputs))
    before = run(graph)
    Smooth().run(graph, context)
    assert context.report.rewritten == 1
    assert ops(graph) == ["Mul", "Erf", "Mul", "Mul", "Gemm"]
    assert difference(before[0][0], run(graph)[0][0]) <= 1e-5


def test_shared_constants_keep_their_value_for_others() -> None:
    graph = block("z = MatMul (n, w)\no = MatMul (x, w)\ny = Add (z, o)")
    assert smooth(graph).rewritten == 1


def test_factors_stay_within_the_limit() -> None:
    graph = block("y = MatMul (n, w)")
    smooth(graph, limit=1.5)
    ratio = constant(graph, "LayerNormalization", 1) / LEVELS
    assert ratio.min() >= 1 / 1.501 and ratio.max() <= 1.501


def test_vector_of_scales_and_means_between_normalization_and_product() -> None:
    w = np.array([[1, -1], [2, 0.5], [3, 0]], np.float32)
    graph = net(
        "n = LayerNormalization <axis = -1> (x, g, b)\nm = MatMul (n, w)\ny = Add (m, c)",
        "float[1,2,3] x", g=np.array([1, 2, 0.5], np.float32), w=w,
        b=np.array([0.1, -0.3, 0.2], np.float32), c=np.array([0.1, 0.2], np.float32),
    )  # fmt: skip
    before, r, shifts = run(graph), np.array([2, 0.5, 1.5]), np.array([0.3, -0.2, 0.1])
    scales = find_channels(graph, "scale")
    factors = np.ones(len(scales.label))
    factors[scales.of[graph.find("n")].ravel()] = r
    rescale(graph, scales, factors)
    means = find_channels(graph, "shift")
    amounts = np.zeros(len(means.label))
    amounts[means.of[graph.find("n")].ravel()] = shifts
    shift(graph, means, amounts)
    assert difference(before[0][0], run(graph)[0][0]) <= 1e-6
    scaled = w * r[:, None]
    np.testing.assert_allclose(constant(graph, "MatMul", 1), scaled)
    np.testing.assert_allclose(constant(graph, "Add", 1), [0.1, 0.2] + shifts @ scaled, rtol=1e-6)
    found = constant(graph, "LayerNormalization", 2)
    np.testing.assert_allclose(found, [0.1, -0.3, 0.2] / r - shifts, rtol=1e-6)


# -- what stays ------------------------------------------------------------------------------------


def test_even_channels_stay() -> None:
    graph = net(
        "d = Add (x, x)\nn = Erf (d)\ny = MatMul (n, w)", "float[1,S,16] x",
        w=np.sign(noise(16, 24)),
    )  # fmt: skip
    report = smooth(graph)
    assert report.rewritten == 0
    assert report.skipped == {"no alpha lowers the error of what reads it by 1 dB": ["n"]}


@pytest.mark.parametrize(
    "body", ["y = MatMul (x, w)", "m = MatMul (x, w)\nr = Relu (m)\ny = MatMul (r, v)"]
)
def test_tensors_made_in_integers_or_given_stay(body: str) -> None:
    more = {"v": noise(24, 3)} if "v" in body else {}
    graph = net(body, "float[1,S,16] x", w=noise(16, 24) * LEVELS[:, None], **more)
    assert Smooth().run(graph, context := Context(TARGET)) is None
    assert context.report.matched == 0  # and no samples are asked for


def test_weights_alone_are_not_balanced() -> None:
    context = Context(dataclasses.replace(TARGET, activations=None))
    Smooth().run(block("y = MatMul (n, w)"), context)
    assert context.report.notes == ["activations or weights stay in float: nothing to balance"]


@pytest.mark.parametrize("options", [{"samples": 0}, {"limit": 1.0}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="samples must be at least 1, limit greater than 1"):
        Smooth(**options)  # type: ignore[arg-type]


# -- what it is for --------------------------------------------------------------------------------


def attention() -> Graph:
    """A block as transformers have it, normalized behind its sums, with outlying channels."""
    heads, masked = np.array([0, 0, 2, 8]), np.array([0, 0, 16])
    return net(
        "q = MatMul (x, wq)\nk = MatMul (x, wk)\nv = MatMul (x, wv)\n"
        + "".join(
            f"{t}r = Reshape ({t}, heads)\n{t}t = Transpose <perm = [{order}]> ({t}r)\n"
            for t, order in (("q", "0,2,1,3"), ("k", "0,2,3,1"), ("v", "0,2,1,3"))
        )
        + "s = MatMul (qt, kt)\nd = Div (s, root)\na = Softmax <axis = -1> (d)\n"
        "c = MatMul (a, vt)\nct = Transpose <perm = [0,2,1,3]> (c)\ncr = Reshape (ct, back)\n"
        "o = MatMul (cr, wo)\nr = Add (o, x)\nn = LayerNormalization <axis = -1> (r, g, b)\n"
        "f = MatMul (n, w1)\nfb = Add (f, b1)\nh = Div (fb, sqrt2)\ne = Erf (h)\n"
        "e1 = Add (e, one)\nm = Mul (fb, e1)\nu = Mul (m, half)\nz = MatMul (u, w2)\n"
        "w = Add (z, n)\ny = LayerNormalization <axis = -1> (w, g1)",
        "float[1,S,16] x",
        heads=heads, back=masked, root=np.float32(8**0.5), sqrt2=np.float32(2**0.5),
        one=np.float32(1), half=np.float32(0.5), g=LEVELS, b=noise(16), b1=noise(32),
        g1=np.ones(16, np.float32), w1=noise(16, 32, seed=5) / LEVELS[:, None] / 4,
        w2=noise(32, 16, seed=6) * np.float32(0.3),
        **{f"w{t}": noise(16, 16, seed=k) / 4 for k, t in enumerate("qkvo")},
    )  # fmt: skip


def decibel(passes: str, per_channel: bool = True) -> float:
    """Signal to noise ratio of the quantized block on unseen samples."""
    rule = GridRule(symmetric=True, per_channel=per_channel)
    graph = attention()
    context = Context(dataclasses.replace(TARGET, weights=rule))
    context.samples = open_samples(inputs(16), graph.inputs)
    feeds = inputs(16, 1)
    exact = [Runner(graph).run(f)[0] for f in feeds]
    Pipeline(passes).run(graph, context)
    return signal_to_noise(exact, [Runner(graph).run(f)[0] for f in feeds])


@pytest.mark.parametrize("per_channel", [True, False])
def test_an_attention_block_gains(per_channel: bool) -> None:
    plain, smoothed = (decibel(passes, per_channel) for passes in ("quant", "smooth,quant"))
    assert smoothed > plain + 3
