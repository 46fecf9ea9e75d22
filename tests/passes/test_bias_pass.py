from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from small_nets import NETS, Feeds, Net, chain, data_for, dense, feeds, plan, residual

from ptq_opt.ir import DType, Graph, UsageError, Value, grid
from ptq_opt.ir.clone import clone
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.target import find_target
from ptq_opt.passes import Context, PassError, Pipeline
from ptq_opt.passes.base import Report
from ptq_opt.passes.bias import Bias, settle
from ptq_opt.passes.judge import Verdict, contest
from ptq_opt.passes.layers import find_layers
from ptq_opt.passes.quant import write_qdq
from ptq_opt.passes.sums import bias_grid

TARGET = find_target("ort-cpu")
DEFAULT = Bias()


def run_pass(graph: Graph, samples: list[Feeds], item: Bias = DEFAULT) -> Context:
    context = Context(TARGET, open_samples(samples, graph.inputs))
    item.run(graph, context)
    return context


def biases(graph: Graph) -> list[Value | None]:
    return [layer.bias for layer in find_layers(graph, Report(""))]


@pytest.mark.parametrize("mode", ["sequential", "fast"])
@pytest.mark.parametrize("net", ["residual", "branches", "without_bias", "depthwise", "dense"])
def test_a_correction_stays_only_if_it_helps_on_samples_it_did_not_see(net, mode):
    graph = NETS[net]()
    samples = data_for(graph, 12)
    plan(graph, samples)
    before = biases(graph)
    original = clone(graph)[0]
    context = run_pass(graph, samples, Bias(mode=mode))
    found, after = context.results["bias"], biases(graph)
    expected = ["fast"] if mode == "fast" else ["fast", "halfway", "sequential"]
    assert list(found["after"]) == expected
    assert found["kept"] in (*expected, None)
    assert context.report.rewritten == sum(a is not b for a, b in zip(before, after, strict=True))
    assert context.report.rewritten <= context.report.matched == len(before)
    if found["kept"] is None:
        assert context.report.rewritten == 0
        return
    judges = open_samples(samples[3::4], graph.inputs)
    (verdict,) = contest((original, ()), [(graph, ())], judges, TARGET)
    assert verdict.accepted
    assert verdict.before == pytest.approx(plain_db(original, samples[3::4]))


def plain_db(graph: Graph, samples: list[Feeds]) -> dict[str, float]:
    """Signal to noise ratios of the outputs, computed the plain way."""
    quantized = clone(graph)[0]
    write_qdq(quantized, TARGET)
    pairs = [(Runner(graph).run(s), Runner(quantized).run(s)) for s in samples]
    return {
        name: signal_to_noise(
            np.concatenate([a[k].ravel() for a, _ in pairs]),
            np.concatenate([b[k].ravel() for _, b in pairs]),
        )
        for k, name in enumerate(graph.output_names)
    }


def test_a_correction_that_harms_samples_held_back_is_dropped():
    """Samples that estimate are clipped, those that judge are not."""
    net = Net(("n", 2, 3, 3))
    graph = net.done(net.conv(net.x, 2, 1))
    samples = [
        {"x": np.full((1, 2, 3, 3), 0.5 if k % 4 == 3 else 3.0, np.float32)} for k in range(8)
    ]
    plan(graph, samples)
    net.x.quant = grid(0, 1, DType.UINT8)
    before = biases(graph)
    context = run_pass(graph, samples)
    found = context.results["bias"]
    assert found["after"]["sequential"]["out_0"] < found["before"]["out_0"]
    assert found["kept"] is None
    assert biases(graph) == before
    assert "dropped" in context.report.notes[-1]


def test_an_output_that_loses_much_vetoes_a_mean_gain():
    assert Verdict({"a": 20.0, "b": 30.0}, {"a": 24.0, "b": 29.95}).accepted
    assert not Verdict({"a": 20.0, "b": 30.0}, {"a": 24.0, "b": 29.0}).accepted
    assert not Verdict({"a": 20.0}, {"a": 20.0}).accepted
    assert not Verdict({}, {}).accepted


def test_outputs_that_are_no_floats_are_judged_at_the_last_layer():
    net = Net(("n", 4))
    scores = net.add("MatMul", net.x, net.random(4, 6))
    scores.dtype, scores.shape = DType.FLOAT, ("n", 6)
    scores = net.like("Add", scores, net.random(6))
    scores.name = "scores"
    best = net.add("ArgMax", scores, axis=1)
    best.dtype = DType.INT64
    graph = net.done(best)
    samples = feeds(8, 4, 4)
    plan(graph, samples)
    assert run_pass(graph, samples).results["bias"]["before"].keys() == {"scores"}


def test_a_bias_that_two_layers_share_becomes_two():
    net = Net()
    x = net.conv(net.x, 3, 1)
    y = net.conv(x, 3, 1)
    graph = net.done(y)
    first, second = graph.order()
    shared = first.inputs[2]
    graph.set_input(second, 2, shared)
    samples = data_for(graph, 8)
    plan(graph, samples)
    values = shared.numpy().copy()
    assert run_pass(graph, samples).report.rewritten == 2
    assert first.inputs[2] is not second.inputs[2]
    np.testing.assert_array_equal(shared.numpy(), values)


def test_zero_biases_and_missing_biases_are_corrected_too():
    """NNCF skips a whole layer for a single zero."""
    graph = residual()
    for node in graph:
        if node.is_op("Conv"):
            graph.set_input(node, 2, graph.constant(np.zeros(node.inputs[1].shape[0], np.float32)))
    last = graph.outputs[0].producer
    graph.set_input(last, 2, None)
    samples = data_for(graph, 8)
    plan(graph, samples)
    assert run_pass(graph, samples).report.rewritten == 4
    assert last.inputs[2].is_constant


def test_a_channel_whose_bias_would_overflow_keeps_it():
    net = Net(("n", 2, 3, 3))
    graph = net.done(net.conv(net.x, 2, 1))
    plan(graph, data_for(graph, 1))
    (layer,) = find_layers(graph, Report(""))
    scale = bias_grid(layer.data.quant, layer.weights.quant, DType.INT32).scale
    new, moved = settle(layer, np.array([scale * 2.0**31, 0.1]), TARGET)
    old = layer.bias.numpy()
    assert abs(new[0] - old[0]) <= scale / 2
    assert moved[0] == 0
    np.testing.assert_allclose(new[1], old[1] + 0.1, atol=scale)


def test_dead_filters_do_no_harm():
    net = Net(("n", 2, 3, 3))
    x = net.like("Relu", net.conv(net.x, 3, 1))
    graph = net.done(net.conv(x, 2, 1))
    first = graph.order()[0]
    weights = first.inputs[1].numpy().copy()
    weights[1] = 0
    graph.set_input(first, 1, graph.constant(weights, "w"))
    graph.set_input(first, 2, graph.constant(np.float32([0.1, -1.2157, 0.2]), "b"))
    samples = data_for(graph, 8)
    plan(graph, samples)
    run_pass(graph, samples)
    assert first.inputs[2].numpy()[1] == pytest.approx(-1.2157, abs=1e-3)


def test_bodies_are_left_alone():
    net = Net(("n", 2, 3, 3))
    y = net.conv(net.x, 2, 1)
    branches = {}
    for name in ("then_branch", "else_branch"):
        body = Graph(name, net.graph.info)
        inner = Value("inner", DType.FLOAT, y.shape)
        body.captures[inner] = 0
        weights = body.constant(np.ones((2, 2, 1, 1), np.float32))
        body.set_outputs([body.add("Conv", [inner, weights]).output], ["r"])
        branches[name] = body
    flag = net.graph.constant(np.bool_(True))
    choice = net.graph.add("If", [flag], branches, captures=[y])
    choice.output.dtype, choice.output.shape = DType.FLOAT, y.shape
    graph = net.done(net.conv(choice.output, 2, 1))
    samples = data_for(graph, 8)
    plan(graph, samples)
    context = run_pass(graph, samples)
    assert context.report.matched == 2
    assert context.report.rewritten == 2
    assert all(len(body.order()[0].inputs) == 2 for body in choice.bodies.values())


def test_what_cannot_be_corrected_is_named():
    net = Net(("n", 4))
    free = net.add("MatMul", net.x, net.random(4, 4))
    free.dtype, free.shape = DType.FLOAT, ("n", 4)
    graph = net.done(net.like("Relu", free))
    free.producer.precision = "int8"
    context = run_pass(graph, feeds(4, 1, 4))
    assert context.report.skipped == {"has no bias behind it": [free.producer.label]}
    assert "nothing to correct" in context.report.notes[0]
    assert "bias" not in context.results


def test_a_bias_with_a_grid_of_its_own_gets_a_grid_that_holds_the_new_one():
    """The constant of an Add that itself runs in integers, behind a MatMul."""
    graph = dense()
    samples = data_for(graph, 8, 8)
    plan(graph, samples, bits=3)
    add = next(node for node in graph if node.is_op("Add"))
    add.precision = "int8"
    constant = add.inputs[0]
    assert constant is not None
    constant.quant = grid(constant.numpy().min(), constant.numpy().max(), DType.UINT8)
    run_pass(graph, samples)
    fresh = add.inputs[0]
    assert fresh is not None and fresh is not constant
    assert fresh.quant is not None
    low, high = fresh.quant.range
    step = float(fresh.quant.scale)
    assert low - step / 2 <= fresh.numpy().min() <= fresh.numpy().max() <= high + step / 2
    np.testing.assert_allclose([low, high], [fresh.numpy().min(), fresh.numpy().max()], atol=step)


def test_progress_reaches_its_total():
    told: list[int] = []

    @contextmanager
    def progress(_title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        assert total is not None
        told.append(-total)
        yield told.append

    for mode in ("sequential", "fast"):
        graph = chain()
        samples = data_for(graph, 5)
        plan(graph, samples)
        context = Context(TARGET, open_samples(samples, graph.inputs), progress=progress)
        Bias(mode=mode).run(graph, context)
    assert sum(told) == 0


def test_a_single_sample_serves():
    graph = chain()
    samples = data_for(graph, 1)
    plan(graph, samples)
    assert run_pass(graph, samples).report.matched == 3


def test_two_runs_give_the_same_biases():
    found = []
    for _ in range(2):
        graph = residual()
        samples = data_for(graph, 8)
        plan(graph, samples)
        run_pass(graph, samples)
        found.append([value.numpy() for value in biases(graph)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_options_are_checked():
    assert Bias().spec == "bias"
    assert Bias(mode="fast", samples=8).spec == "bias{mode=fast,samples=8}"
    with pytest.raises(UsageError, match="samples must be at least 1"):
        Pipeline("bias{samples=0}")
    with pytest.raises(PassError, match="needs calibration data"):
        graph = chain()
        plan(graph, data_for(graph, 1))
        Bias().run(graph, Context(TARGET))
