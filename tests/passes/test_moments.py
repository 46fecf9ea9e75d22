"""Moments of activations from BatchNormalization: the vectors, and the statistics of samples."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import net, noise, normalization

from ptq_opt.ir import DType, Graph, QuantInfo
from ptq_opt.ir.calibration import calibrate
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import random_samples
from ptq_opt.ir.shapes import infer
from ptq_opt.ir.target import Costs, find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.bias import Bias
from ptq_opt.passes.moments import Moments, Statistic, clipped_normal, propagate
from ptq_opt.passes.registry import DATA_FREE

INF = np.inf


@pytest.mark.parametrize(
    ("beta", "gamma", "high", "mean"),
    [
        (0, 1, INF, 0.398942280), (0.5, 1, INF, 0.697796557), (-1, 2, INF, 0.395593115),
        (2, 0.5, INF, 2.000003573), (3, 0, INF, 3), (0.5, 1, 6, 0.697796554),
        (-1, 2, 6, 0.395476153), (9, 0, 6, 6),
    ],
)  # fmt: skip
def test_vectors_of_the_clipped_normal(beta: float, gamma: float, high: float, mean: float) -> None:
    found, _ = clipped_normal(np.array([float(beta)]), np.array([float(gamma)]), 0.0, high)
    assert found[0] == pytest.approx(mean, abs=1e-8)


@given(
    st.floats(-3, 3), st.floats(0.01, 3), st.sampled_from([-INF, -1.0, 0.0]),
    st.sampled_from([0.5, 6.0, INF]),
)  # fmt: skip
def test_mean_and_variance_agree_with_quadrature(
    mean: float, deviation: float, low: float, high: float
) -> None:
    x = np.linspace(-9, 9, 40001)
    weights = np.exp(-np.square(x) / 2)
    y = np.clip(mean + deviation * x, low, high)
    expected = np.average(y, weights=weights)
    variance = np.average(np.square(y - expected), weights=weights)
    found = clipped_normal(np.array(mean), np.array(deviation), low, high)
    np.testing.assert_allclose(found, [expected, variance], rtol=1e-5, atol=1e-7)


def predicted(graph: Graph, statistics: dict[str, Statistic], name: str) -> Moments | None:
    infer(graph)
    return propagate(graph, statistics).get(graph.find(name))


def sampled(body: str, **constants: Array) -> tuple[Array, Moments | None]:
    """`body` from n, normal with known statistics, to y: its elements, and their prediction."""
    graph = net(f"n = Identity (x)\n{body}", "float[256,4,5,5] x", **constants)
    known = Statistic(np.array([1.0, -1, 0.5, 0]), np.array([1.0, 2, 0.3, 1]))
    x = np.random.default_rng(0).standard_normal((256, 4, 5, 5))
    feed = x * known.deviation.reshape(4, 1, 1) + known.mean.reshape(4, 1, 1)
    y = Runner(graph).run({"x": feed.astype(np.float32)})[0]
    return y, predicted(graph, {"n": known}, "y")


THROUGH: dict[str, tuple[str, dict[str, Array]]] = {
    "relu": ("y = Relu (n)", {}),
    "clip": ("y = Clip (n, low, high)", {"low": np.float32(-0.5), "high": np.float32(1)}),
    "caps": ("r = Relu (n)\ny = Min (r, caps)",
             {"caps": np.array([0.5, 1, 2, 3], np.float32).reshape(4, 1, 1)}),
    "hard-swish": ("y = HardSwish (n)", {}),
    "sigmoid": ("y = Sigmoid (n)", {}),
    "scaled": ("m = Mul (n, k)\ny = Add (m, k)", {"k": noise(4, 1, 1)}),
    "concat": ("r = Relu (n)\ny = Concat <axis = 1> (r, n)", {}),
    "split": ("p, q = Split <axis = 1> (n)\nr = Relu (p)\ny = Concat <axis = 1> (q, r)", {}),
    "shuffle": ("y = Gather <axis = 1> (n, order)", {"order": np.array([2, 0, 3, 1])}),
    "transpose": ("t = Transpose <perm = [0,2,3,1]> (n)\ny = Relu (t)", {}),
    "pool": ("r = Relu (n)\ny = GlobalAveragePool (r)", {}),
    "layer": ("r = Relu (n)\ny = Conv (r, w, b)", {"w": noise(3, 4, 1, 1), "b": noise(3)}),
    "depthwise": ("y = Conv <group = 4> (n, w)", {"w": noise(4, 1, 2, 2)}),
    "flatten": ("f = Flatten (n)\ny = Gemm (f, w, b)", {"w": noise(100, 3), "b": noise(3)}),
    "sum": ("r = Conv (n, w)\ny = Add (r, v)", {"w": noise(4, 4, 1, 1), "v": noise(4, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", THROUGH)
def test_what_operators_make_of_it(name: str) -> None:
    body, constants = THROUGH[name]
    y, moments = sampled(body, **constants)
    assert moments is not None
    mean = np.broadcast_to(moments.mean, y.shape)
    variance = np.broadcast_to(moments.variance, y.shape)
    axes = tuple(k for k in range(y.ndim) if moments.mean.shape[k] == 1)
    error = (y - mean).mean(axis=axes)
    chance = 5 / np.sqrt(y.size / error.size)
    assert np.abs(error).max() < chance * np.sqrt(variance.max())
    assert ((y >= moments.low - 1e-3) & (y <= moments.high + 1e-3)).mean() > 0.999
    if name != "pool":  # averages of neighbours are taken to vary as they do
        spread = np.square(y - mean).mean(axis=axes)
        np.testing.assert_allclose(spread, variance.mean(axis=axes), rtol=2 * chance)


def test_independent_sums_and_products() -> None:
    graph = net(
        "p, q = Split <axis = 1> (x)\na = Add (p, q)\ns = Sigmoid (q)\nm = Mul (p, s)\n"
        "y = Concat <axis = 1> (a, m)", "float[1,4,1,1] x",
    )  # fmt: skip
    known = {"p": Statistic(np.array([1.0, 2]), np.array([3.0, 1])),
             "q": Statistic(np.array([0.5, -1]), np.array([4.0, 1]))}  # fmt: skip
    total = predicted(graph, known, "a")
    assert total is not None
    np.testing.assert_allclose(total.mean.ravel(), [1.5, 1])
    np.testing.assert_allclose(total.variance.ravel(), [25, 2])
    np.testing.assert_allclose(total.high.ravel(), [1.5 + 30, 1 + 6 * np.sqrt(2)])
    product = predicted(graph, known, "m")
    assert product is not None and product.low.ravel()[0] >= 1 - 18 - 1e-6


@pytest.mark.parametrize("body", ["y = Softmax (n)", "s = Sigmoid (n)\ny = Mul (n, s)"])
def test_what_is_not_known(body: str) -> None:
    assert sampled(body)[1] is None


# -- from BatchNormalization -----------------------------------------------------------------------


def trained(gamma: Array | None = None) -> Graph:
    """Convolutions whose normalizations tell the truth about normal inputs."""
    w = noise(6, 4, 1, 1)
    more = {"gamma": gamma} if gamma is not None else {}
    parameters = normalization(6, **more)
    parameters |= {
        "mean": np.zeros(6, np.float32),
        "var": np.square(w).sum(axis=(1, 2, 3)).astype(np.float32),
    }
    return net(
        "c = Conv (x, w)\nn = BatchNormalization (c, gamma, beta, mean, var)\nr = Relu (n)\n"
        "z = Conv (r, v)\ny = Relu (z)", "float[64,4,6,6] x",
        w=w, v=noise(3, 6, 1, 1), **parameters,
    )  # fmt: skip


def context_after(graph: Graph, passes: str) -> Context:
    context = Context(find_target("ort-cpu"))
    Pipeline(passes).run(graph, context)
    return context


@pytest.mark.parametrize("passes", ["fold-bn", "fold-bn,equalize"])
def test_statistics_survive_folding_and_rescaling(passes: str) -> None:
    graph = trained(gamma=np.array([1, -2, 0, 0.5, 3, 8], np.float32))
    context = context_after(graph, passes)
    assert not [node for node in graph if node.op == "BatchNormalization"]
    infer(graph)
    x = np.random.default_rng(0).standard_normal((64, 4, 6, 6)).astype(np.float32)
    values = [node.output for node in graph if node.op in ("Conv", "Relu")]
    moments = propagate(graph, context.statistics)
    for value, array in zip(values, Runner(graph, values).run({"x": x}), strict=True):
        known = moments[value]
        mean = array.mean(axis=(0, 2, 3))
        np.testing.assert_allclose(known.mean.ravel(), mean, atol=0.1 * array.std())
        if value.producer is not None and value.producer.op == "Conv":
            np.testing.assert_allclose(
                known.variance.ravel(), array.var(axis=(0, 2, 3)), rtol=0.3, atol=1e-6
            )


def test_a_channel_without_gamma_is_constant() -> None:
    graph = trained(gamma=np.zeros(6, np.float32))
    context = context_after(graph, "fold-bn")
    known = context.statistics["n"]
    assert np.array_equal(known.deviation, np.zeros(6))
    assert np.array_equal(known.mean, normalization(6)["beta"].astype(np.float64))


def test_predicted_ranges_hold_what_samples_show() -> None:
    graph = trained()
    context = context_after(graph, "statistics")
    learned = context.calibration
    assert learned is not None
    assert context.report.notes[1] == "without statistics, stays float: x"
    x = np.random.default_rng(0).standard_normal((64, 4, 6, 6)).astype(np.float32)
    values = [v for v in graph.values() if v in learned]
    seen = calibrate(graph, [{"x": x}], values, method="min-max")
    assert values
    for value in values:
        assert learned[value].low <= seen[value].low and seen[value].high <= learned[value].high


# -- without data ----------------------------------------------------------------------------------


def test_analytic_correction_is_the_rounding_of_weights_times_the_predicted_mean() -> None:
    w = np.array([[0.31, -0.72], [0.05, 0.44]], np.float32)  # stored: .3085714, -.72, 0, .4114286
    graph = net(
        "n = Identity (x)\nr = Relu (n)\ny = Gemm <transB = 1> (r, w)", "float[4,2] x", w=w
    )  # fmt: skip
    layer = next(node for node in graph if node.op == "Gemm")
    layer.precision, scale = "int8", np.float32(0.72 / 7)
    graph.find("w").quant = QuantInfo(DType.INT4, scale, np.int32(0), narrow=True)
    known = {"n": Statistic(np.array([0.5, -1]), np.array([1.0, 2]))}
    Bias(mode="analytic").run(graph, Context(find_target("ort-cpu"), statistics=known))
    bias = layer.inputs[2]
    assert bias is not None
    np.testing.assert_allclose(bias.numpy(), [0.000997, 0.046192], atol=1e-6)


EAGER = replace(find_target("ort-cpu"), costs=Costs(gops=(1, 1000)))


def test_samples_judge_the_analytic_correction() -> None:
    graph = trained()
    context = Context(EAGER, random_samples(graph.inputs, 8))
    Pipeline("statistics,bias{mode=analytic}").run(graph, context)
    assert "on 2 samples held back" in context.report.notes[-1]


def test_a_data_free_run_is_near_the_float_model() -> None:
    graph, source = trained(), trained()
    context = Context(EAGER)
    Pipeline(DATA_FREE).run(graph, context)
    assert sum(node.op == "QuantizeLinear" for node in graph) >= 1
    feeds = random_samples(source.inputs, 2)
    runs = [[Runner(g).run(f)[0] for f in feeds] for g in (source, graph)]
    assert signal_to_noise(*runs) > 25
