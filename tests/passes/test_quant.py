"""What a plan looks like written out, and that ONNX Runtime computes what it says."""

import numpy as np
import onnxruntime as ort
import pytest
from rewriting import net, noise, operand, ops

from ptq_opt.ir import DType, Graph, Value, grid, save
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.onnx_save import save_model
from ptq_opt.ir.samples import random_samples
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.ir.verify import verify
from ptq_opt.passes import Context
from ptq_opt.passes.quant import Quantize, write_qdq
from ptq_opt.passes.sums import bias_grid

TARGET = find_target("ort-cpu")


def planned(
    body: str, grids: dict[str, tuple[float, float]], floats: str = "", **kw: object
) -> Graph:
    """A graph annotated by hand: activations on uint8 grids, weights w per channel."""
    graph = net(body, **kw)  # type: ignore[arg-type]
    for node in graph:
        node.precision = "float" if node.op in floats.split() else "int8"
    for value in graph.values():
        if value.name in grids:
            value.quant = grid(*grids[value.name], DType.UINT8)
        elif value.name == "w":
            others = (1, 2, 3)
            data = value.numpy()
            low, high = data.min(others), data.max(others)
            value.quant = grid(low, high, DType.INT8, symmetric=True, axis=0)
    return graph


def convolution(**kw: object) -> Graph:
    return planned(
        "c = Conv (x, w, b)\n y = Relu(c)", {"x": (-3, 3), "y": (0, 5)},
        w=noise(5, 4, 3, 3), b=noise(5), **kw,
    )  # fmt: skip


def producer_ops(value: Value | None) -> list[str]:
    """Operators from `value` up its first operands."""
    found = []
    while value is not None and value.producer is not None:
        found.append(value.producer.op)
        value = value.producer.input(0)
    return found


def test_a_convolution_between_quantizers() -> None:
    graph = convolution()
    write_qdq(graph, TARGET)
    verify(graph)
    conv = next(node for node in graph if node.op == "Conv")
    assert producer_ops(operand(conv, 0)) == ["DequantizeLinear", "QuantizeLinear"]
    assert producer_ops(graph.outputs[0]) == [
        "DequantizeLinear", "QuantizeLinear", "Relu", "Conv", "DequantizeLinear", "QuantizeLinear",
    ]  # fmt: skip
    for slot, dtype in ((1, DType.INT8), (2, DType.INT32)):
        pair = operand(conv, slot).producer
        assert pair is not None
        stored = operand(pair, 0)
        assert pair.op == "DequantizeLinear" and pair.attrs["axis"] == 0
        assert stored.is_constant and stored.dtype is dtype


def test_no_float_weights_remain() -> None:
    graph = convolution()
    write_qdq(graph, TARGET)
    model = save(graph)
    floats = [t for t in model.graph.initializer if t.data_type == 1 and np.prod(t.dims) > 5]
    assert floats == []


def test_the_bias_is_exact_to_half_a_step() -> None:
    graph = convolution()
    data, weights = graph.inputs[0].quant, graph.find("w").quant
    assert data and weights
    info = bias_grid(data, weights, DType.INT32)
    bias = graph.find("b").numpy()
    assert np.all(np.abs(info.fake(bias) - bias) <= info.scale / 2 * 1.001)


def test_numbers_are_those_of_the_grids() -> None:
    """Against the arithmetic of `QuantInfo`, in float64."""
    graph = convolution()
    x, w, b, y = (graph.find(name) for name in "xwby")
    assert x.quant and w.quant and y.quant
    reference = net(
        "c = Conv (x, w, b)\n y = Relu(c)", w=w.quant.fake(w.numpy()),
        b=bias_grid(x.quant, w.quant, DType.INT32).fake(b.numpy()),
    )  # fmt: skip
    feeds = next(iter(random_samples(graph.inputs, 1)))
    expected = Runner(reference).run({"x": x.quant.fake(feeds["x"])})[0]
    grid_of_y = y.quant
    write_qdq(graph, TARGET)
    for optimize in (False, True):
        found = Runner(graph, optimize=optimize).run(feeds)[0]
        steps = np.abs(found - grid_of_y.fake(expected)) / grid_of_y.scale
        assert steps.max() < 1.01, "one step where a sum lies on a border"
        assert np.mean(steps > 0.01) < 0.01


def test_a_value_made_in_float_stays_float_for_float_readers() -> None:
    graph = planned(
        "t = Tanh(x)\n c = Conv (t, w)\n y = Add(c, t)", {"t": (-1, 1), "c": (-4, 4)},
        floats="Tanh Add", w=noise(4, 4, 1, 1),
    )  # fmt: skip
    write_qdq(graph, TARGET)
    add = next(node for node in graph if node.op == "Add")
    assert producer_ops(operand(add, 1)) == ["Tanh"]
    assert producer_ops(operand(add, 0))[:2] == ["DequantizeLinear", "QuantizeLinear"]


def test_a_value_made_in_integers_is_read_dequantized_by_all() -> None:
    graph = planned(
        "c = Conv (x, w)\n y = Tanh(c)\n z = Sigmoid(c)", {"x": (-3, 3), "c": (-4, 4)},
        floats="Tanh Sigmoid", w=noise(4, 4, 1, 1), outputs="float[] y, float[] z, float[] c",
    )  # fmt: skip
    write_qdq(graph, TARGET)
    pair = ["DequantizeLinear", "QuantizeLinear"]
    for output in graph.outputs:
        assert producer_ops(output)[-5:] == [*pair, "Conv", *pair]
    assert ops(graph).count("QuantizeLinear") == 2


def test_shared_weights_are_stored_once() -> None:
    graph = planned(
        "c = Conv (x, w)\n y = Conv (c, w)", {"x": (-3, 3), "c": (-4, 4), "y": (-9, 9)},
        w=noise(4, 4, 1, 1),
    )  # fmt: skip
    write_qdq(graph, TARGET)
    stored = [t for t in save(graph).graph.initializer if t.data_type == 3 and len(t.dims) == 4]
    assert len(stored) == 1


def test_a_shared_bias_is_stored_for_each_accumulator() -> None:
    graph = planned(
        "c = Conv (x, w, b)\n y = Conv (c, w, b)", {"x": (-3, 3), "c": (-8, 8), "y": (-9, 9)},
        w=noise(4, 4, 1, 1), b=noise(4),
    )  # fmt: skip
    write_qdq(graph, TARGET)
    convs = [node for node in graph if node.op == "Conv"]
    stored = [operand(node, 2).producer for node in convs]
    assert stored[0] is not stored[1]


def test_weights_read_in_float_too_stay_in_float_there() -> None:
    graph = planned(
        "c = Conv (x, w)\n y = Add(c, w)", {"x": (-3, 3), "c": (-4, 4)}, floats="Add",
        inputs="float[1,4,1,1] x", w=noise(1, 4, 1, 1),
    )  # fmt: skip
    write_qdq(graph, TARGET)
    add = next(node for node in graph if node.op == "Add")
    assert operand(add, 1).is_constant


def test_a_target_may_keep_biases_in_float() -> None:
    graph = convolution()
    write_qdq(graph, find_target("tensorrt"))
    conv = next(node for node in graph if node.op == "Conv")
    assert operand(conv, 2).dtype is DType.FLOAT
    assert operand(conv, 2).is_constant


@pytest.mark.parametrize("clamp", ["", "r = Relu(p)"])
@pytest.mark.parametrize(
    ("product", "weights"),
    [
        ("Conv", noise(8, 8, 3, 3)),
        ("Conv <group = 8>", noise(8, 1, 3, 3)),
        ("ConvTranspose", noise(8, 6, 2, 2)),
    ],
)
def test_what_is_in_float_is_computed_in_float(product: str, weights: Array, clamp: str) -> None:
    """ONNX Runtime would make int8 of these weights, with one scale for all of them."""
    weights[0] *= 100
    names = ["p", "r"] if clamp else ["p"]
    body = f"a = Sigmoid(x)\n p = {product} (a, v)\n {clamp}\n y = LeakyRelu({names[-1]})"
    grids = {"x": (-3.0, 3.0), "a": (0.0, 1.0), names[-1]: (-300.0, 300.0), "y": (-3.0, 300.0)}
    floats = f"{product.split()[0]} Relu"
    graph = planned(body, grids, floats, inputs="float[1,8,8,8] x", v=weights)
    Quantize().run(graph, Context(TARGET))
    verify(graph)
    feeds = {"x": noise(1, 8, 8, 8)}
    model = save_model(graph)
    plain = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    literal = ort.InferenceSession(model.SerializeToString(), options)
    step = float(graph.outputs[0].producer.inputs[1].numpy())
    difference = plain.run(None, feeds)[0] - literal.run(None, feeds)[0]
    assert np.abs(difference).max() <= 1.01 * step, "a tie at most"


def test_the_opset_rises_to_what_the_grids_need() -> None:
    graph = net("y = Relu(x)", opset=11)
    Quantize().run(graph, Context(TARGET))
    assert graph.info.opset == 13
    graph = convolution()
    graph.inputs[0].quant = grid(-3, 3, DType.UINT16)
    Quantize().run(graph, Context(TARGET))
    assert graph.info.opset == 21


def test_a_plan_without_integers_changes_nothing() -> None:
    graph = net("y = Relu(x)")
    write_qdq(graph, TARGET)
    assert ops(graph) == ["Relu"]


EVERYTHING = """
c = Conv <pads = [1,1,1,1]> (x, w, b)
r = Relu(c)
d = Conv (x, v)
m = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1], strides = [1,1]> (r)
a = Add(m, r)
s = Sigmoid(a)
k = Concat <axis = 1> (a, s)
p = AveragePool <kernel_shape = [2,2], strides = [2,2]> (k)
l = LeakyRelu(p)
q = GlobalAveragePool(l)
u = Mul(l, q)
f = Flatten(q)
g = Gemm <transB = 1> (f, h, e)
y = MatMul(g, n)
"""


def everything() -> Graph:
    graph = net(
        EVERYTHING, outputs="float[] y, float[] u", w=noise(4, 4, 3, 3), b=noise(4),
        v=noise(4, 4, 1, 1), h=noise(6, 8), e=noise(6), n=noise(6, 3),
    )  # fmt: skip
    for node in graph:
        node.precision = "int8"
        for value in [*node.outputs, *(v for v in node.inputs if v is not None)]:
            if value.const is None and value.name != "c":
                low = 0 if value.name in ("r", "m", "s") else -6
                value.quant = grid(low, 6, DType.UINT8)
    graph.find("m").quant = graph.find("r").quant
    graph.find("f").quant = graph.find("q").quant
    for name, axis in (("w", 0), ("v", 0), ("h", 0), ("n", 1)):
        value = graph.find(name)
        others = tuple(k for k in range(value.numpy().ndim) if k != axis)
        low, high = value.numpy().min(others), value.numpy().max(others)
        value.quant = grid(low, high, DType.INT8, symmetric=True, axis=axis)
    return graph


def test_operators_on_integers_compute_the_same() -> None:
    plain, merged = everything(), everything()
    Quantize().run(plain, Context(TARGET))
    Quantize("qoperator").run(merged, Context(TARGET))
    verify(merged)
    kinds = ops(merged)
    assert kinds.count("QuantizeLinear") == 1 and kinds.count("DequantizeLinear") == 2
    assert {"QLinearConv", "QGemm", "QLinearMatMul", "QLinearConcat", "QLinearMul"} <= set(kinds)
    assert not {"Conv", "Gemm", "MatMul", "Relu", "Sigmoid"} & set(kinds)
    for feeds in random_samples(plain.inputs, 3):
        pairs = zip(Runner(plain).run(feeds), Runner(merged).run(feeds), strict=True)
        for expected, found in pairs:
            assert np.abs(expected - found).max() <= 12 / 255 * 1.01, "one step"


def test_an_operator_next_to_floats_keeps_its_converters() -> None:
    graph = planned(
        "t = Tanh(x)\n c = Conv (t, w)\n y = Add(c, t)", {"t": (-1, 1), "c": (-4, 4)},
        floats="Tanh Add", w=noise(4, 4, 1, 1),
    )  # fmt: skip
    Quantize("qoperator").run(graph, Context(TARGET))
    assert ops(graph) == ["Tanh", "QuantizeLinear", "QLinearConv", "DequantizeLinear", "Add"]


def test_a_clamp_the_grid_does_not_replace_stays() -> None:
    graph = planned(
        "c = Conv (x, w)\n y = Relu(c)", {"x": (-3, 3), "y": (-2, 2)}, w=noise(4, 4, 1, 1)
    )
    Quantize("qoperator").run(graph, Context(TARGET))
    assert "Relu" in ops(graph) and "Conv" in ops(graph)
