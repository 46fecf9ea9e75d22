import dataclasses

import numpy as np
import pytest
from small_nets import NETS, Net, data_for, plan, residual

from ptq_opt.ir import DType, QuantInfo
from ptq_opt.ir.clone import clone
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes.base import Report
from ptq_opt.passes.layers import find_layers
from ptq_opt.passes.quant import write_qdq
from ptq_opt.passes.walk import Stop, Walker, cut, fold_weights, walk

TARGET = find_target("ort-cpu")


@pytest.mark.parametrize("budget", [0, 1 << 20])
@pytest.mark.parametrize("net", NETS)
def test_a_walk_sees_what_a_plain_run_computes(net, budget):
    graph = NETS[net]()
    samples = data_for(graph, 3)
    plan(graph, samples)
    layers = find_layers(graph, Report(""))
    quantized, where = clone(graph)
    write_qdq(quantized, TARGET)
    stops = [Stop(where[layer.output], layer.axis) for layer in layers]
    plain = Runner(quantized, [stop.value for stop in stops], optimize=False)
    runs = [plain.run(sample) for sample in samples]
    seen = []

    def look(number: int, means: Array, passed: Array) -> Array:
        assert passed.min() == 1
        seen.append(number)
        axis = stops[number].axis
        expected = [np.moveaxis(run[number], axis, -1) for run in runs]
        expected = np.stack([e.reshape(-1, e.shape[-1]).mean(axis=0) for e in expected])
        np.testing.assert_allclose(means, expected, atol=2e-3)
        return np.zeros(means.shape[1])

    walk(quantized, stops, samples, look, budget=budget)
    assert seen == list(range(len(layers)))


def test_every_operator_runs_once_and_integers_are_kept_in_place_of_reals():
    graph = residual()
    plan(graph, data_for(graph, 1))
    layers = find_layers(graph, Report(""))
    quantized, where = clone(graph)
    write_qdq(quantized, TARGET)
    segments, inputs = cut(quantized, [where[layer.output] for layer in layers])
    assert [value.name for value in inputs] == ["x"]
    kept = [[value.producer.op for value in segment.keeps] for segment in segments]
    # what the first Relu makes is read by the second Conv and by the Add
    assert kept == [["Conv"], ["Conv", "QuantizeLinear"], ["Conv"], []]
    freed = [value for segment in segments for value in segment.frees]
    assert len(freed) == len(set(freed)) == 1 + sum(map(len, kept))


def test_what_was_added_to_a_stop_reaches_all_its_readers():
    net = Net(("n", 1, 2, 2))
    x = net.conv(net.x, 1, 1)
    y, z = net.conv(net.like("Neg", x), 1, 1), net.conv(x, 1, 1)
    graph = net.done(y, z)
    samples = data_for(graph, 2)
    means: list[Array] = []

    def correct(number: int, found: Array, _passed: Array) -> Array:
        means.append(found)
        return np.full(1, 10.0 if number == 0 else 0.0)

    stops = [Stop(v, 1) for v in (x, y, z)]
    plain = [[np.mean(v) for v in Runner(graph, [x, y, z]).run(s)] for s in samples]
    walk(graph, stops, samples, correct)
    moved = np.array(means)[:, :, 0].T - plain
    w = [node.inputs[1].numpy().item() for node in graph if node.is_op("Conv")]
    np.testing.assert_allclose(moved, [[0, -10 * w[1], 10 * w[2]]] * 2, rtol=1e-5)


@pytest.mark.parametrize(("low", "high", "expected"), [(0.0, 6.0, 0.5), (0.0, None, 0.75)])
def test_a_walk_tells_which_part_a_clamp_passes_on(low, high, expected):
    net = Net(("n", 1, 1, 4))
    y = net.add("Conv", net.x, net.graph.constant(np.ones((1, 1, 1, 1), np.float32)))
    y.dtype, y.shape = DType.FLOAT, ("n", 1, 1, 4)
    bounds = [None if b is None else net.graph.constant(np.float32(b)) for b in (low, high)]
    graph = net.done(net.like("Clip", y, *bounds))
    (layer,) = find_layers(graph, Report(""))
    found = []

    def look(_number: int, means: Array, passed: Array) -> Array:
        found.extend([means.item(), passed.item()])
        return np.zeros(1)

    feed = {"x": np.float32([[[[-1, 1, 2, 7]]]])}
    walk(graph, [Stop(y, 1, layer.clamp)], [feed], look)
    assert found == [np.clip([-1, 1, 2, 7], low, high).mean(), expected]


def test_weights_on_the_way_to_a_stop_are_those_of_the_file():
    """ONNX Runtime must not round again, with one scale for all, what `fold_weights` wrote out."""
    net = Net(("n", 4, 6, 6))
    first = net.conv(net.x, 4, group=4)
    graph = net.done(net.conv(net.like("Relu", first), 2))
    samples = data_for(graph, 3)
    plan(graph, samples)
    scales = np.array([9.0, 0.05, 0.05, 0.05], np.float32)
    weights = first.producer.inputs[1]
    weights.quant = QuantInfo(DType.INT8, scales, np.zeros(4, np.int32), axis=0)
    weights.quant = dataclasses.replace(weights.quant, integers=np.ones(weights.shape, np.int32))
    quantized, where = clone(graph)
    last = find_layers(graph, Report(""))[-1].in_clone(where)
    write_qdq(quantized, TARGET)
    data = last.data
    plain = Runner(quantized, [data], optimize=False)
    fold_weights(quantized)
    with Walker(quantized, [data], samples) as walker:
        for sample, (seen,) in zip(samples, walker.visit(0), strict=True):
            (expected,) = plain.run(sample)
            assert np.abs(seen - expected).max() <= expected.max() / 200, "a tie at most"
