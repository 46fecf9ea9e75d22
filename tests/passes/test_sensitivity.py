"""Errors of single operators: the shortened runs give what full runs give, and errors add up."""

from dataclasses import replace

import numpy as np
import pytest
from small_model import make_samples, small_model
from small_nets import NETS, Net, data_for, plan, residual

from ptq_opt.ir import DType, Graph, UsageError
from ptq_opt.ir.calibration import calibrate
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.ranges import key
from ptq_opt.ir.samples import Samples, open_samples
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context, Pipeline
from ptq_opt.passes.error_sources import find_sources, only, without
from ptq_opt.passes.measures import MEASURES
from ptq_opt.passes.metric import Metric, Run
from ptq_opt.passes.scored_errors import scored_errors
from ptq_opt.passes.sensitivity import Sensitivity
from ptq_opt.passes.single_errors import single_errors
from ptq_opt.tools.api import quantize

TARGET = find_target("ort-cpu")


def planned(graph: Graph, bits: int = 4) -> tuple[Graph, Samples]:
    samples = data_for(graph, 3)
    plan(graph, samples, bits)
    return graph, open_samples(samples, graph.inputs)


def relative_noise(graph: Graph, changed: Graph, samples: Samples) -> np.ndarray:
    """Noise energy over signal energy of each output, from full runs."""
    before, after = Runner(graph), Runner(changed)
    pairs = [zip(before.run(s), after.run(s), strict=True) for s in samples]
    energies = [[(np.sum((a - b) ** 2), np.sum(a**2)) for a, b in p] for p in pairs]
    noise, signal = np.sum(energies, axis=0).T
    return noise / signal


@pytest.mark.parametrize("net", NETS)
def test_running_only_what_comes_after_gives_what_full_runs_give(net: str) -> None:
    graph, samples = planned(NETS[net]())
    found = single_errors(graph, TARGET, samples, "sqnr")
    assert len(found.sources) >= 3
    for source in found.sources:
        expected = relative_noise(graph, only(graph, source), samples)
        np.testing.assert_allclose(source.alone, expected, rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize("net", ["linear", "without_bias"])
def test_small_errors_add_up(net: str) -> None:
    graph, samples = planned(NETS[net](), bits=8)
    found = single_errors(graph, TARGET, samples, "sqnr")
    total = sum(source.alone.sum() for source in found.sources)
    assert 0.7 < total / found.together.sum() < 1.4


def test_what_is_gained_is_what_a_run_without_it_gains() -> None:
    graph, samples = planned(NETS["linear"](), bits=4)
    found = single_errors(graph, TARGET, samples, "sqnr")
    assert len(found.exact) == 4
    for k, exact in found.exact.items():
        rest = relative_noise(graph, without(graph, found.sources[k], TARGET), samples)
        np.testing.assert_allclose(exact, found.together - rest, rtol=1e-2, atol=1e-7)
        np.testing.assert_allclose(found.sources[k].gained, exact, rtol=0.2, atol=1e-3)


def test_a_grid_that_holds_everything_exactly_adds_no_error() -> None:
    graph, samples = planned(residual())
    whole = [{"x": np.round(s["x"])} for s in samples]
    graph.inputs[0].quant = replace(graph.inputs[0].quant, scale=np.float32(1.0))
    found = single_errors(graph, TARGET, open_samples(whole, graph.inputs), "sqnr")
    by_tensor = {key(source.value): source.alone.sum() for source in found.sources}
    assert by_tensor.pop("x") == 0
    assert min(by_tensor.values()) > 0


def test_the_part_of_the_tensor_and_the_part_of_the_weights() -> None:
    graph, samples = planned(NETS["chain"](), bits=8)
    coarse = graph.order()[0].inputs[1]
    coarse.quant = replace(coarse.quant, scale=coarse.quant.scale * 32)
    found = single_errors(graph, TARGET, samples, "sqnr")
    source_of_input, first, *_ = found.sources
    assert source_of_input.rounding == 1
    assert first.rounding < 0.1


def movers() -> Graph:
    net = Net()
    x = net.like("Relu", net.conv(net.x, 4))
    moved = net.like("MaxPool", x, kernel_shape=[1, 1])
    both = net.add("Concat", moved, moved, axis=1)
    both.dtype, both.shape = DType.FLOAT, ("n", 8, 6, 6)
    return net.done(net.conv(both, 2))


def test_what_hands_on_integers_adds_no_error() -> None:
    graph = movers()
    samples = open_samples(data_for(graph, 3), graph.inputs)
    context = Context(TARGET, samples=samples)
    values = [graph.inputs[0], *(v for node in graph for v in node.outputs)]
    context.calibration = calibrate(graph, samples, values, method="min-max")
    Pipeline("plan", given=("canonical", "folded", "ranges")).run(graph, context)
    for node in graph:
        node.precision = "int8"
    relu = graph.order()[1].output
    for node in graph.order()[2:4]:
        node.output.quant = relu.quant
    sources = find_sources(graph, TARGET)
    assert [s.value.producer and s.value.producer.op for s in sources] == [None, "Relu", "Conv"]
    assert [v.producer.op for v in sources[1].carried] == ["MaxPool", "Concat"]


@pytest.mark.parametrize(
    ("measure", "real", "found", "loss"),
    [
        ("sqnr", [[3, 4]], [[3, 5]], 1 / 25),
        ("mse", [[3, 4]], [[3, 5]], 1 / 2),
        ("cosine", [[1, 0]], [[0, 1]], 1),
        ("cosine", [[0, 0]], [[0, 1]], 1),
        ("top1", [[1, 2], [2, 1]], [[2, 1], [2, 1]], 1 / 2),
        ("kl", [[0.5, 0.5]], [[0.25, 0.75]], 0.5 * np.log(2) + 0.5 * np.log(2 / 3)),
        ("kl", [[np.log(2), np.log(2)]], [[0, np.log(3)]], 0.5 * np.log(2) + 0.5 * np.log(2 / 3)),
    ],
)
def test_measures(measure: str, real: list, found: list, loss: float) -> None:
    kind = MEASURES[measure]
    a, b = np.array(real, np.float32), np.array(found, np.float32)
    assert kind.distance(a, b) / kind.weight(a) == pytest.approx(loss, rel=1e-5)
    assert kind.distance(a, a) == 0


@pytest.mark.parametrize("measure", ["mse", "kl", "cosine", "top1"])
def test_any_measure_ranks_operators(measure: str) -> None:
    graph, samples = planned(NETS["dense"](), bits=3)
    found = single_errors(graph, TARGET, samples, measure)
    assert all(source.alone.min() >= 0 for source in found.sources)
    assert found.together.shape == (1,)


def error_of_first(samples: Samples, graph: Graph) -> Metric:
    wanted = [Runner(graph).run(s)[0] for s in samples]

    def error(run: Run) -> float:
        found = [run(s)[0] for s in samples]
        return float(sum(np.sum((a - b) ** 2) for a, b in zip(wanted, found, strict=True)))

    return Metric(error, lower_is_better=True)


def test_the_metric_of_the_caller() -> None:
    graph, samples = planned(residual())
    metric = error_of_first(samples, graph)
    found = scored_errors(graph, TARGET, metric)
    for source in found.sources:
        assert source.alone[0] == pytest.approx(metric.score(only(graph, source)))
    context = Context(TARGET, samples=samples, metric=metric)
    Sensitivity(measure="metric").run(graph, context)
    assert context.losses[key(found.sources[0].value)].rounding == found.sources[0].alone[0]


def test_a_metric_must_be_there_to_measure_by_it() -> None:
    graph, samples = planned(residual())
    with pytest.raises(UsageError, match="needs a metric: give --metric"):
        Sensitivity(measure="metric").run(graph, Context(TARGET, samples=samples))


def test_the_report_has_all_operators_and_shows_the_worst() -> None:
    report = quantize(small_model(), make_samples(8), passes="sensitivity,quant").report
    found = report.sensitivity
    assert found["outputs"] == [o.name for o in report.fidelity.outputs]
    shares = [row["share"] for row in found["operators"]]
    assert shares == sorted(shares, reverse=True)
    assert "Error of each operator when it alone is quantized" in str(report)
    assert found["operators"][0]["node"] in str(report)


def test_nothing_in_integers_is_told() -> None:
    graph = residual()
    context = Context(TARGET, samples=open_samples(data_for(graph, 2), graph.inputs))
    Sensitivity().run(graph, context)
    assert context.losses == {}
    assert context.report.notes == ["no operator runs in integers: there is nothing to measure"]
