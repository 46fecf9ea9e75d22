"""Ranges are chosen by what the outputs lose: the same outlier may be clipped or not."""

from dataclasses import replace

import numpy as np
import pytest
from small_nets import NETS, Net, data_for

from ptq_opt.ir import DType, Graph, Value, grid
from ptq_opt.ir.calibration import histograms
from ptq_opt.ir.clone import clone
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.ranges import Range
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.shapes import infer
from ptq_opt.ir.target import Costs, find_target
from ptq_opt.ir.text import parse
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.behind import noise_of_grids
from ptq_opt.passes.clip import KEPT, Clip, candidates, choices

SLOW = replace(find_target("ort-cpu"), costs=Costs(gops=(1, 4)))
"""An engine on which even small layers pay for their conversions."""


def outliers(count: int) -> list[dict[str, np.ndarray]]:
    """Normal samples with a few elements of 40."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((count, 1, 1, 16, 16)).astype(np.float32)
    data[:, 0, 0, 3, :3] = 40
    return [{"x": x} for x in data]


def chosen(last: str, samples: list[dict[str, np.ndarray]]) -> tuple[float, Context]:
    """The upper end of the range of `t`, which `last` brings to the output."""
    graph = parse(f"""
    g (float[1,1,16,16] x) => (float[1,1,16,16] y) <
      float[1,1,1,1] w = {{1}}, float[1,1,1,1] v = {{0.25}}
    > {{
      t = Conv(x, w)
      u = Conv(t, v)
      y = {last}(u)
    }}""")
    context = Context(SLOW, open_samples(samples, graph.inputs))
    reports = Pipeline("calibrate{method=min-max},clip").run(graph, context)
    assert reports[-1].matched >= 1
    assert context.calibration is not None
    return float(context.calibration.ranges["t"].high), context


def test_an_outlier_that_saturates_behind_is_clipped() -> None:
    high, context = chosen("Tanh", outliers(32))
    assert high < 25
    assert context.report.rewritten >= 1
    assert "choice kept" in context.report.notes[-1]


def test_the_same_outlier_stays_where_the_output_needs_it() -> None:
    high, context = chosen("Elu", outliers(32))
    assert high == 40
    assert context.report.rewritten == 0


def test_one_sample_serves_for_all() -> None:
    assert chosen("Tanh", outliers(1))[0] <= 40


def test_activations_in_float_and_outputs_of_integers_leave_nothing_to_choose() -> None:
    text = "g (float[1,1,4,4] x) => (int64[1,1,1,4] y) <float[1,1,1,1] w = {1}> {"
    graph = parse(text + " t = Conv(x, w) y = ArgMax <axis = 2> (t) }")
    samples = [{"x": np.ones((1, 1, 4, 4), np.float32)}]
    for target in (SLOW, SLOW.storing(weights="int8", activations="none")):
        context = Context(target, open_samples(samples, graph.inputs))
        Pipeline("clip").run(graph, context)
        assert context.report.rewritten == 0


@pytest.mark.parametrize("net", NETS)
def test_running_what_comes_after_gives_what_full_runs_give(net: str) -> None:
    graph = NETS[net]()
    infer(graph)
    samples = data_for(graph, 2)
    grids = [grid(-1, 1, DType.UINT8), grid(0, 2, DType.UINT8)]
    values = {node.output: grids for node in graph.order()}
    found = noise_of_grids(graph, values, graph.outputs, open_samples(samples, graph.inputs))
    assert list(found) == list(values)
    for value, noise in found.items():
        expected = [plain_noise(graph, value, info, samples) for info in grids]
        np.testing.assert_allclose(noise, expected, rtol=1e-3, atol=1e-6)


def plain_noise(
    graph: Graph, value: Value, info: object, samples: list[dict[str, np.ndarray]]
) -> np.ndarray:
    """The same from runs of the whole graph."""
    copy, where = clone(graph)
    rounded, uses = where[value], list(where[value].uses)
    scale, zero = copy.constant(info.scale), copy.constant(info.zero_point.astype(np.uint8))
    integers = copy.add("QuantizeLinear", [rounded, scale, zero]).output
    again = copy.add("DequantizeLinear", [integers, scale, zero]).output
    for reader, slot in uses:
        copy.set_input(reader, slot, again)
    pairs = [zip(Runner(graph).run(s), Runner(copy).run(s), strict=True) for s in samples]
    return np.sum([[np.sum((a - b) ** 2) for a, b in pair] for pair in pairs], axis=0)


def test_every_method_proposes_and_like_ranges_are_one() -> None:
    net = Net(("n", 1, 16, 16))
    graph = net.done(net.like("Relu", net.x))
    rows = histograms(graph, open_samples(outliers(4), graph.inputs), graph.outputs)
    (row,) = rows.values()
    known = Range.of(np.array([0, 40.0, 0, 40.0, 1]), samples=4)
    found = candidates(known, row, find_target().activations)
    assert next(iter(found)) == KEPT
    assert found[KEPT] == (0, 40)
    assert "min-max" not in found  # it is what is kept
    assert min(high for _, high in found.values()) < 30
    assert all(0 <= low < high <= 40 for low, high in found.values())


def test_outputs_weigh_alike_whatever_their_size() -> None:
    """Of each output the part of its whole error counts."""
    a, b = Value("a"), Value("b")
    tried = {v: {KEPT: (0.0, 1.0), "mse": (0.0, 0.5)} for v in (a, b)}
    noises = {a: np.array([[1e6, 1.0], [2e6, 0.1]]), b: np.array([[9e6, 9.0], [9e6, 9.0]])}
    assert choices(tried, noises, 0.0) == {a: KEPT, b: KEPT}
    noises[a] = np.array([[1e6, 1.0], [1.5e6, 0.1]])
    assert choices(tried, noises, 0.0) == {a: "mse", b: KEPT}
    assert choices(tried, noises, 0.5) == {a: KEPT, b: KEPT}


def test_an_output_that_cannot_be_compared_has_no_say() -> None:
    value = Value("v")
    tried = {value: {KEPT: (0.0, 1.0), "mse": (0.0, 0.5)}}
    noises = {value: np.array([[np.inf, 2.0], [np.inf, 1.0]])}
    assert choices(tried, noises, 0.05) == {value: "mse"}


@pytest.mark.parametrize("options", [{"samples": 0}, {"judges": 0}])
def test_counts_are_positive(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Clip(**options)
