import numpy as np
import pytest
from small_nets import Net, branches

from ptq_opt.ir import DType, Value
from ptq_opt.ir.evaluate import Runner
from ptq_opt.passes.base import Report
from ptq_opt.passes.layers import Layer, find_layers, last_layers


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


def spoilt_by_a_computed_bias(net: Net) -> Value:
    bias = net.graph.input("b", DType.FLOAT, (3,))
    return net.add("Gemm", net.x, net.random(4, 3), bias)


def spoilt_by_computed_weights(net: Net) -> Value:
    return net.add("Gemm", net.x, net.add("Abs", net.random(4, 3)), net.random(3))


def spoilt_by_beta(net: Net) -> Value:
    return net.add("Gemm", net.x, net.random(4, 3), net.random(3), beta=0.5)


def spoilt_by_a_custom_operator(net: Net) -> Value:
    strange = net.graph.add("Strange", [net.x], domain="com.example").output
    strange.dtype, strange.shape = DType.FLOAT, ("n", 4)
    return net.add("Gemm", strange, net.random(4, 3), net.random(3))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoilt_by_a_computed_bias, "its bias is not constant"),
        (spoilt_by_computed_weights, "its weights are not constant float"),
        (spoilt_by_beta, "has alpha or beta"),
        (spoilt_by_a_custom_operator, "ONNX Runtime cannot compute it"),
    ],
)
def test_layers_that_cannot_be_corrected_have_a_reason(spoil, reason):
    net = Net(("n", 4))
    y = spoil(net)
    y.dtype, y.shape = DType.FLOAT, ("n", 3)
    assert y.producer is not None
    y.producer.precision = "int8"
    report = Report("")
    assert find_layers(net.done(y), report) == []
    assert list(report.skipped) == [reason]
