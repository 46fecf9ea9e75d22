"""Weight mean and variance correction in the form that engines can run."""

import numpy as np
import pytest
from rewriting import net, noise

from ptq_opt.ir import DType, Graph, QuantInfo, grid
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context, Report
from ptq_opt.passes.bias import Bias
from ptq_opt.passes.moments import Statistic
from ptq_opt.passes.variance import Variance, deviation_ratio

WEIGHTS = np.array([[0.9, 0.1, 0.4, -0.6, 0.15]], np.float32)
STORED = np.array([[0.9, 0, 0.3, -0.6, 0]])


def planned(weights: np.ndarray, info: QuantInfo) -> Graph:
    graph = net(
        "n = Identity (x)\ny = Gemm <transB = 1> (n, w)", f"float[4,{weights.shape[1]}] x",
        w=weights,
    )  # fmt: skip
    for node in graph:
        node.precision = "int8" if node.op == "Gemm" else "float"
    graph.find("w").quant = info
    return graph


def change(graph: Graph, statistics: dict[str, Statistic] | None = None) -> Report:
    context = Context(find_target("ort-cpu"), statistics=statistics or {})
    Variance().run(graph, context)
    report = context.report
    if statistics:
        Bias(mode="analytic").run(graph, context)
    return report


def test_vector_of_the_ratio() -> None:
    assert deviation_ratio(WEIGHTS, STORED, 0)[0] == pytest.approx(0.9974716, abs=1e-7)


def test_vector_of_the_deployable_form() -> None:
    means = np.array([0.5, 1, 0.2, 0.8, 0.1])
    ratio = deviation_ratio(WEIGHTS, STORED, 0)[0]
    grid_part = float((ratio * STORED @ means)[0])
    bias_part = float((WEIGHTS.mean() - ratio * STORED.mean()) * means.sum())
    assert grid_part == pytest.approx(0.0299241, abs=1e-7)
    assert grid_part + bias_part == pytest.approx(0.2127130, abs=1e-7)
    corrected = ratio * (STORED - STORED.mean()) + WEIGHTS.mean()  # what both parts stand for
    assert float((corrected @ means)[0]) == pytest.approx(0.2127130, abs=1e-7)
    assert corrected.mean() == pytest.approx(0.19)  # 0.1895196 by equation 13 as printed


def test_bias_takes_back_the_mean() -> None:
    weights, means = noise(6, 40), np.linspace(-1, 2, 40)
    info = grid(weights.min(axis=1), weights.max(axis=1), DType.INT4, symmetric=True, axis=0)
    graph = planned(weights, info)
    assert change(graph, {"n": Statistic(means, np.zeros(40))}).rewritten == 1
    new, bias = graph.find("w").quant, next(n for n in graph if n.op == "Gemm").inputs[2]
    assert new is not None and bias is not None
    found = new.kept(weights) @ means + bias.numpy()
    np.testing.assert_allclose(found, weights @ means, rtol=1e-5, atol=1e-5)


def test_a_filter_with_a_large_mean_is_left_alone() -> None:
    weights = np.array([[5.4, 5.4, 4.6, 5.4]], np.float32)
    info = QuantInfo(DType.INT8, np.array([1], np.float32), np.zeros(1, np.int32), axis=0)
    assert deviation_ratio(weights, info.kept(weights), 0)[0] == 1  # all are stored as 5
    weights[0, 2] = 4.4
    assert deviation_ratio(weights, info.kept(weights), 0)[0] == pytest.approx(1)
    weights[0, 0] = 5.2
    assert deviation_ratio(weights, info.kept(weights), 0)[0] < 0.99
    graph = planned(weights, info)
    assert "no filter comes nearer to its weights" in change(graph).skipped
    assert graph.find("w").quant is info


def test_integers_stay_and_deviations_become_those_of_the_weights() -> None:
    weights = noise(6, 40)
    weights[2] = 0  # a dead filter
    weights[3] = 1  # a constant one
    info = grid(weights.min(axis=1), weights.max(axis=1), DType.INT4, symmetric=True, axis=0)
    graph = planned(weights, info)
    assert change(graph).rewritten == 1
    new = graph.find("w").quant
    assert new is not None
    assert np.array_equal(new.stored(weights), info.stored(weights))
    assert np.isfinite(new.scale).all() and (new.scale > 0).all()
    changed = new.scale != info.scale
    assert changed.sum() >= 3
    spread = new.kept(weights)[changed].std(axis=1)
    np.testing.assert_allclose(spread, weights[changed].std(axis=1), rtol=1e-5)
    assert new.scale[2] == info.scale[2] and new.scale[3] == info.scale[3]


def test_one_scale_for_all_filters_stays() -> None:
    weights = noise(6, 40)
    info = grid(weights.min(), weights.max(), DType.INT8, symmetric=True)
    graph = planned(weights, info)
    report = change(graph)
    assert report.rewritten == 0 and "its filters share one scale" in report.skipped
    assert graph.find("w").quant is info
