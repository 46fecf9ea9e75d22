from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq_opt.ir import DType, Graph, ModelInfo, Node, QuantInfo, UsageError, Value, grid
from ptq_opt.ir.clone import clone
from ptq_opt.ir.evaluate import Runner, signal_to_noise
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.passes import Context, PassError, Pipeline
from ptq_opt.passes.base import Report
from ptq_opt.passes.bias import (
    Bias,
    add_to_biases,
    fast,
    float_means,
    handed_on,
    sequential,
    settle,
    significant,
)
from ptq_opt.passes.judge import Verdict, contest
from ptq_opt.passes.layers import Layer, find_layers, last_layers
from ptq_opt.passes.quant import bias_grid, write_qdq
from ptq_opt.passes.walk import Stop, cut, walk

TARGET = find_target("ort-cpu")
DEFAULT = Bias()
FLOAT_BIAS = replace(TARGET, bias=None)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Feeds = dict[str, Array]


class Net:
    """Builds small graphs with random weights; every method returns the value it made."""

    def __init__(self, shape: tuple[int, ...] = ("n", 3, 6, 6), seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("net", ModelInfo(opsets={"": 17}))
        self.x = self.graph.input("x", DType.FLOAT, shape)

    def random(self, *shape: int) -> Value:
        return self.graph.constant(self.rng.normal(0.1, 0.5, shape).astype(np.float32), "w")

    def add(self, op: str, *inputs: Value | None, **attrs: object) -> Value:
        value = self.graph.add(op, inputs, attrs).output
        value.name = value.origin = f"{op.lower()}_{len(self.graph)}"
        return value

    def conv(
        self, x: Value, channels: int, kernel: int = 3, *, bias: bool = True, **attrs: int
    ) -> Value:
        assert x.shape is not None
        group = attrs.get("group", 1)
        w = self.random(channels, x.shape[1] // group, kernel, kernel)
        b = self.random(channels) if bias else None
        y = self.add("Conv", x, w, b, pads=[kernel // 2] * 4, **attrs)
        y.dtype, y.shape = DType.FLOAT, (x.shape[0], channels, *x.shape[2:])
        return y

    def like(self, op: str, x: Value, *others: Value, **attrs: object) -> Value:
        y = self.add(op, x, *others, **attrs)
        y.dtype, y.shape = DType.FLOAT, x.shape
        return y

    def done(self, *outputs: Value) -> Graph:
        self.graph.set_outputs(outputs, [f"out_{k}" for k in range(len(outputs))])
        return self.graph


def feeds(count: int, *shape: int, seed: int = 1) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(0.3, 1.0, shape).astype(np.float32)} for _ in range(count)]


def plan(graph: Graph, samples: list[Feeds], bits: int = 4) -> None:
    """Put layers into integers by observed ranges; `bits` of weights make the shifts visible."""
    layers = [node for node in graph if node.is_op(*WEIGHTED)]
    watched = dict.fromkeys(v for n in layers for v in (n.inputs[0], _result(n)) if v is not None)
    runner = Runner(graph, list(watched))
    found = [runner.run(sample) for sample in samples]
    for value, arrays in zip(watched, zip(*found, strict=True), strict=True):
        low, high = min(a.min() for a in arrays), max(a.max() for a in arrays)
        value.quant = grid(low, high, DType.UINT8)
    for node in layers:
        node.precision = "int8"
        made = _result(node).producer
        assert made is not None
        made.precision = "int8"
        weights = node.inputs[1]
        assert weights is not None
        reach = np.abs(weights.numpy()).max()
        coarse = np.float32(reach / (2 ** (bits - 1) - 1))
        weights.quant = QuantInfo(DType.INT8, coarse, np.int32(0))


def _result(node: Node) -> Value:
    after = node.output.consumers
    fused = len(after) == 1 and after[0].is_op("Relu")
    return after[0].output if fused else node.output


def mean_errors(graph: Graph, corrected: Graph, samples: list[Feeds], target=TARGET):
    """Per layer: the mean over samples and positions of what it hands on too much or too little."""
    layers = find_layers(graph, Report(""))
    quantized = clone(corrected)[0]
    twins = [handed_on(layer) for layer in find_layers(quantized, Report(""))]
    write_qdq(quantized, target)
    run = Runner(quantized, twins, optimize=False)
    reference = Runner(graph, [handed_on(layer) for layer in layers])
    errors = []
    for sample in samples:
        pairs = zip(layers, reference.run(sample), run.run(sample), strict=True)
        errors.append([np.moveaxis(a - b, x.axis, -1) for x, a, b in pairs])
    return [
        np.concatenate([e.reshape(-1, e.shape[-1]) for e in each]).astype(np.float64).mean(axis=0)
        for each in zip(*errors, strict=True)
    ]


def corrected_copy(graph: Graph, samples: list[Feeds], target=TARGET, estimate=sequential) -> Graph:
    layers = find_layers(graph, Report(""))
    data = open_samples(samples, graph.inputs)
    means = float_means(graph, layers, data, lambda _: None)
    if estimate is sequential:
        shifts = sequential(graph, layers, means, data, target, lambda _: None)
    else:
        shifts = fast(layers, means)
    copy, where = clone(graph)
    add_to_biases(copy, [layer.in_clone(where) for layer in layers], shifts, target)
    return copy


# -- nets ------------------------------------------------------------------------------------------


def chain() -> Graph:
    net = Net()
    x = net.like("Relu", net.conv(net.x, 4))
    return net.done(net.conv(net.like("Relu", net.conv(x, 5)), 2))


def linear() -> Graph:
    net = Net()
    return net.done(net.conv(net.conv(net.conv(net.x, 4), 5, bias=False), 3))


def residual() -> Graph:
    net = Net()
    x = net.like("Relu", net.conv(net.x, 4))
    y = net.conv(net.like("Relu", net.conv(x, 4)), 4)
    return net.done(net.conv(net.like("Relu", net.like("Add", y, x)), 3))


def branches() -> Graph:
    """Two branches, a Concat, and an output in the middle that a later layer reads too."""
    net = Net()
    x = net.like("Relu", net.conv(net.x, 4, 1))
    left, right = net.conv(x, 2, 1), net.like("Relu", net.conv(x, 3))
    both = net.add("Concat", left, right, axis=1)
    both.dtype, both.shape = DType.FLOAT, ("n", 5, 6, 6)
    return net.done(left, net.conv(both, 2, 1), x)


def without_bias() -> Graph:
    net = Net()
    x = net.like("Relu", net.conv(net.x, 4, bias=False))
    return net.done(net.conv(x, 3, bias=False))


def depthwise() -> Graph:
    net = Net(("n", 4, 6, 6))
    x = net.like("Relu", net.conv(net.x, 4, group=4))
    return net.done(net.conv(net.like("Relu", net.conv(x, 6, group=2)), 2, 1))


def transposed() -> Graph:
    net = Net(("n", 4, 5, 5))
    attrs = {"group": 2, "strides": [2, 2]}
    x = net.add("ConvTranspose", net.x, net.random(4, 3, 2, 2), net.random(6), **attrs)
    x.dtype, x.shape = DType.FLOAT, ("n", 6, 10, 10)
    return net.done(net.conv(net.like("Relu", x), 2))


def dense() -> Graph:
    """A MatMul with an Add behind it, and a Gemm with transposed weights."""
    net = Net(("n", 7))
    x = net.add("MatMul", net.x, net.random(7, 5))
    x.dtype, x.shape = DType.FLOAT, ("n", 5)
    y = net.like("Relu", net.like("Add", net.random(1, 5), x))
    z = net.add("Gemm", y, net.random(3, 5), net.random(3), transB=1)
    z.dtype, z.shape = DType.FLOAT, ("n", 3)
    return net.done(z)


NETS = {
    f.__name__: f
    for f in (linear, chain, residual, branches, without_bias, depthwise, transposed, dense)
}


def data_for(graph: Graph, count: int, batch: int = 2) -> list[Feeds]:
    shape = graph.inputs[0].shape
    assert shape is not None
    return feeds(count, batch, *shape[1:])


# -- the identity of sequential correction ---------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_the_mean_error_of_every_channel_vanishes(net):
    """Exactly where nothing is clamped; else as far as one step of Newton's method gets."""
    graph = NETS[net]()
    samples = data_for(graph, 1, 8)
    plan(graph, samples)
    layers = find_layers(graph, Report(""))
    before = mean_errors(graph, graph, samples, FLOAT_BIAS)
    after = mean_errors(graph, corrected_copy(graph, samples, FLOAT_BIAS), samples, FLOAT_BIAS)
    assert len(layers) == sum(node.is_op(*WEIGHTED) for node in graph)
    for layer, was, error in zip(layers, before, after, strict=True):
        assert np.abs(was).max() > 1e-3
        assert np.abs(error).max() < (0.3 * np.abs(was).max() if layer.clamp else 1e-4)


@pytest.mark.parametrize("net", ["linear", "chain", "residual", "depthwise"])
def test_int32_biases_leave_half_a_step_of_the_accumulator(net):
    graph = NETS[net]()
    samples = data_for(graph, 1, 8)
    plan(graph, samples, bits=8)
    layers = find_layers(graph, Report(""))
    errors = mean_errors(graph, corrected_copy(graph, samples), samples)
    for layer, error in zip(layers, errors, strict=True):
        assert layer.data.quant is not None
        assert layer.weights.quant is not None
        step = bias_grid(layer.data.quant, layer.weights.quant, DType.INT32).scale
        assert layer.clamp or np.all(np.abs(error) <= 0.51 * step)


def test_vector_of_a_layer_whose_weights_alone_are_rounded():
    """algorithms.md V10: 4-bit weights, inputs that their grid holds exactly."""
    net = Net(("n", 2))
    weights = net.graph.constant(np.float32([[0.31, -0.72], [0.05, 0.44]]), "w")
    weights.quant = QuantInfo(DType.INT8, np.float32(0.72 / 7), np.int32(0))
    net.x.quant = QuantInfo(DType.UINT8, np.float32(0.5), np.int32(2))
    y = net.add("Gemm", net.x, weights, transB=1)
    y.dtype, y.shape = DType.FLOAT, ("n", 2)
    graph = net.done(y)
    graph.order()[0].precision = "int8"
    samples = [{"x": np.float32([[1, 2], [3, -1], [0.5, 0.5]])}]
    copy = corrected_copy(graph, samples, FLOAT_BIAS)
    (layer,) = find_layers(copy, Report(""))
    assert layer.bias is not None
    np.testing.assert_allclose(layer.bias.numpy(), [0.0021429, 0.0892857], atol=1e-6)
    assert np.abs(mean_errors(graph, copy, samples, FLOAT_BIAS)).max() < 1e-6


ops = st.sampled_from(["conv", "depthwise", "wide", "relu", "residual", "concat", "pool", "output"])


@settings(max_examples=20, deadline=None)
@given(st.lists(ops, min_size=1, max_size=8), st.integers(0, 2**16))
def test_the_mean_errors_vanish_in_random_nets(parts, seed):
    net = Net(("n", 4, 6, 6), seed)
    x = net.like("Relu", net.conv(net.x, 4))
    outputs = []
    for part in parts:
        if part == "depthwise":
            x = net.conv(x, 4, group=4, bias=False)
        elif part == "residual":
            x = net.like("Add", net.like("Relu", net.conv(x, 4)), x)
        elif part == "concat":
            both = net.add("Concat", x, net.conv(x, 2, 1), axis=1)
            both.dtype, both.shape = DType.FLOAT, ("n", 6, 6, 6)
            x = net.conv(both, 4, 1)
        elif part == "pool":
            x = net.like("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
        elif part == "output":
            outputs.append(x)
        else:
            x = net.like("Relu", x) if part == "relu" else net.conv(x, 4, 1 + 2 * (part == "wide"))
    graph = net.done(net.conv(x, 2), *dict.fromkeys(outputs))
    samples = data_for(graph, 1, 4)
    plan(graph, samples)
    layers = find_layers(graph, Report(""))
    errors = mean_errors(graph, corrected_copy(graph, samples, FLOAT_BIAS), samples, FLOAT_BIAS)
    for layer, error in zip(layers, errors, strict=True):
        result = layer.output.quant  # ties may be rounded another way
        assert layer.clamp or (result and np.abs(error).max() < 0.1 * result.scale)


# -- fast correction -------------------------------------------------------------------------------


def test_vector_of_the_shift_from_mean_inputs():
    """algorithms.md V9."""
    net = Net(("n", 2))
    net.add("Gemm", net.x, net.graph.constant(np.eye(2, dtype=np.float32)), transB=1)
    layer = Layer(net.graph.order()[0], net.graph.order()[0], 2)
    real = np.array([[0.31, -0.72], [0.05, 0.44]])
    rounded = np.array([[0.3085714, -0.72], [0, 0.4114286]])
    shift = layer.response(real - rounded, np.array([[0.6977966, 0.3955931]]))
    np.testing.assert_allclose(shift, [[0.000997, 0.046192]], atol=1e-6)


@pytest.mark.parametrize(
    ("op", "shape", "attrs"),
    [
        ("Conv", (6, 4, 3, 3), {}),
        ("Conv", (6, 2, 3, 1), {"group": 2}),
        ("Conv", (4, 1, 2, 2), {"group": 4, "strides": [2, 1], "dilations": [1, 2]}),
        ("ConvTranspose", (4, 3, 1, 1), {}),
        ("ConvTranspose", (4, 3, 2, 2), {"group": 2, "strides": [2, 2]}),
        ("MatMul", (4, 3), {}),
    ],
)
def test_the_response_to_constant_channels_is_what_the_operator_computes(op, shape, attrs):
    net = Net(("n", 4, 6, 6) if op != "MatMul" else ("n", 5, 4))
    y = net.add(op, net.x, net.random(*shape), **attrs)
    node = net.done(y).order()[0]
    layer = Layer(node, node, 2)
    means = net.rng.normal(size=(3, 4)).astype(np.float32)
    full = np.broadcast_to(means[:, None], (3, 5, 4))
    if op != "MatMul":
        full = np.broadcast_to(means[:, :, None, None], (3, 4, 6, 6))
    (found,) = Runner(net.graph).run({"x": np.ascontiguousarray(full)})
    channels_last = np.moveaxis(found, layer.axis, -1).reshape(3, -1, layer.channels)
    expected = layer.response(layer.weights.numpy(), means)
    np.testing.assert_allclose(channels_last.mean(axis=1), expected, rtol=1e-4, atol=1e-5)


def test_fast_correction_takes_back_the_rounding_of_the_weights():
    """Exact without padding, for a single layer, where activations lose nothing on average."""
    net = Net(("n", 4, 5, 5))
    graph = net.done(net.conv(net.x, 3, 1))
    samples = data_for(graph, 1, 8)
    plan(graph, samples)
    net.x.quant = None  # what activations lose is none of its business
    before = mean_errors(graph, graph, samples, FLOAT_BIAS)
    copy = corrected_copy(graph, samples, FLOAT_BIAS, fast)
    after = mean_errors(graph, copy, samples, FLOAT_BIAS)
    assert np.abs(after).max() < 0.01 * np.abs(before).max()


# -- which part of a shift is believed -------------------------------------------------------------


def test_a_shift_that_all_samples_agree_on_is_believed_wholly():
    np.testing.assert_allclose(significant(np.full((5, 2), [0.25, -3.0])), [0.25, -3.0])


def test_a_shift_that_is_smaller_than_its_error_is_not_believed():
    assert significant(np.array([[1.0], [-1.0], [0.5], [-0.3]])) == 0


def test_shrinking_beats_the_plain_mean_where_shifts_are_noise_mostly():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 0.1, 4000) * (rng.random(4000) < 0.5)
    found = truth + rng.normal(0, 0.4, (16, 4000))
    plain = np.mean((found.mean(axis=0) - truth) ** 2)
    assert np.mean((significant(found) - truth) ** 2) < 0.8 * plain


def test_one_sample_is_believed():
    np.testing.assert_array_equal(significant(np.array([[0.5, 0.0]])), [0.5, 0.0])


def test_samples_without_finite_means_are_left_out():
    shifts = np.array([[1.0, 2.0], [np.nan, 2.0], [1.0, 2.0]])
    np.testing.assert_array_equal(significant(shifts), [1.0, 2.0])
    np.testing.assert_array_equal(significant(shifts[1:2]), [0.0, 0.0])


# -- the walk --------------------------------------------------------------------------------------


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


# -- the pass --------------------------------------------------------------------------------------


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
    assert set(found["after"]) == {"fast", mode}
    assert found["kept"] in ("fast", mode, None)
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
    assert context.results["bias"]["kept"] != "sequential"
    after = context.results["bias"]["after"]["sequential"]["out_0"]
    assert after < context.results["bias"]["before"]["out_0"]
    if context.results["bias"]["kept"] is None:
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


def test_layers_that_lead_to_no_other_are_last():
    graph = branches()
    layers = find_layers(graph, Report(""))
    assert last_layers(graph, layers) == [layers[-1]]


def test_integers_end_a_path():
    net = Net(("n", 4))
    x = net.add("Gemm", net.x, net.random(4, 6))
    x.dtype, x.shape = DType.FLOAT, ("n", 6)
    best = net.add("ArgMax", x, axis=1)
    best.dtype, best.shape = DType.INT64, ("n", 1)
    place = net.add("Cast", best, to=1)
    place.dtype, place.shape = DType.FLOAT, ("n", 1)
    y = net.add("Gemm", place, net.random(1, 2))
    y.dtype, y.shape = DType.FLOAT, ("n", 2)
    graph = net.done(net.like("Relu", y))
    layers = find_layers(graph, Report(""))
    assert [layer.output for layer in last_layers(graph, layers)] == [x, y]


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
