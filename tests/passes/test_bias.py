from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import (
    NETS,
    WEIGHTED,
    Feeds,
    Net,
    data_for,
    plan,
)

from ptq_opt.ir import DType, Graph, QuantInfo
from ptq_opt.ir.clone import clone
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.samples import open_samples
from ptq_opt.ir.target import find_target
from ptq_opt.passes.base import Report
from ptq_opt.passes.bias import (
    add_to_biases,
    fast,
    float_means,
    handed_on,
    sequential,
    significant,
)
from ptq_opt.passes.layers import find_layers
from ptq_opt.passes.quant import write_qdq
from ptq_opt.passes.sums import bias_grid

TARGET = find_target("ort-cpu")
FLOAT_BIAS = replace(TARGET, bias=None)


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


@settings(max_examples=20)
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
