"""Graphs run in ONNX Runtime; any value can be fetched or reduced."""

import gc
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from ptq_opt.ir import DataError, DType, Graph, ModelError, Tensor, Value, load, save
from ptq_opt.ir import evaluate as module
from ptq_opt.ir.evaluate import CARRIERS, Runner, decibel, reduce, signal_to_noise
from ptq_opt.ir.text import parse

X = np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32)


def convolution() -> Graph:
    """x [N, 3, H, W] -> Conv 'conv' (4 channels, 3x3) -> Relu 'relu' -> output "y"."""
    graph = Graph()
    x = graph.input("x", DType.FLOAT, ("N", 3, "H", "W"))
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    bias = graph.constant(np.array([1, -1, 0, 2], np.float32), "b")
    conv = graph.add("Conv", [x, graph.constant(weight, "w"), bias], {"pads": [1] * 4}, name="conv")
    relu = graph.add("Relu", [conv.output], name="relu")
    graph.set_outputs([relu.output], ["y"])
    return graph


def by_name(graph: Graph, name: str) -> Value:
    """Result of the node called `name`."""
    return next(node.output for node in graph if node.name == name)


@pytest.mark.parametrize("optimize", [True, False])
def test_any_values_are_fetched_in_the_order_asked(optimize: bool) -> None:
    graph = convolution()
    x, conv, relu = graph.inputs[0], by_name(graph, "conv"), by_name(graph, "relu")
    weight = conv.producer.inputs[1] if conv.producer else None
    assert weight is not None
    runner = Runner(graph, [relu, x, conv, weight, relu], optimize=optimize)
    y, x_back, before, w, y_again = runner.run({"x": X})
    np.testing.assert_array_equal(x_back, X)
    np.testing.assert_array_equal(w, weight.numpy())
    np.testing.assert_array_equal(y, np.maximum(before, 0))
    np.testing.assert_array_equal(y, y_again)
    assert before.min() < 0


def test_the_outputs_are_fetched_when_nothing_is_asked_for() -> None:
    graph = convolution()
    (y,) = Runner(graph).run({"x": X})
    np.testing.assert_array_equal(y, Runner(graph, graph.outputs, threads=1).run({"x": X})[0])


def test_running_leaves_the_graph_as_it_is() -> None:
    graph = convolution()
    before, version = save(graph).SerializeToString(deterministic=True), graph.version
    runner = Runner(graph, [by_name(graph, "conv")])
    assert save(graph).SerializeToString(deterministic=True) == before
    assert graph.version == version
    graph.replace(by_name(graph, "conv"), graph.inputs[0])  # what is open does not change
    assert runner.run({"x": X})[0].shape == (2, 4, 5, 5)


def test_an_input_may_be_called_like_a_fetched_output() -> None:
    graph = Graph()
    a, b = (graph.input(f"fetch_{k}", DType.FLOAT, (1,)) for k in range(2))
    graph.set_outputs([graph.add("Sub", [a, b]).output], ["y"])
    one, two = np.ones(1, np.float32), np.full(1, 2, np.float32)
    found = Runner(graph, [*graph.outputs, b]).run({"fetch_0": one, "fetch_1": two})
    assert [array.tolist() for array in found] == [[-1.0], [2.0]]


def test_what_is_not_fetched_needs_no_data_and_is_not_run() -> None:
    graph = convolution()
    other = graph.input("other", DType.FLOAT, (2,))
    broken = graph.add("Unknown", [other], domain="nowhere")
    graph.info.opsets["nowhere"] = 1
    graph.set_outputs([*graph.outputs, broken.output], ["y", "z"])
    assert Runner(graph, [by_name(graph, "relu")]).run({"x": X})[0].shape == (2, 4, 5, 5)


def test_values_that_bodies_read_are_there() -> None:
    then, other = (
        helper.make_graph(
            [helper.make_node(op, ["inner"], [op])],
            op,
            [],
            [helper.make_empty_tensor_value_info(op)],
        )
        for op in ("Neg", "Identity")
    )
    nodes = [
        helper.make_node("Add", ["x", "x"], ["inner"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    opsets = [helper.make_opsetid("", 17)]
    body = helper.make_graph(nodes, "g", inputs, [output])
    graph = load(helper.make_model(body, opset_imports=opsets, ir_version=8))
    feeds = {"x": np.array([1, 2], np.float32), "flag": np.array(True)}
    inner, y = Runner(graph, [graph.find("inner"), graph.find("y")]).run(feeds)
    assert (inner.tolist(), y.tolist()) == ([2.0, 4.0], [-2.0, -4.0])


def test_a_default_of_an_input_may_be_overridden() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, (2,))
    bias = graph.constant(np.array([1, 2], np.float32), "bias")
    bias.overridable = True
    graph.inputs.append(bias)
    graph.set_outputs([graph.add("Add", [x, bias]).output], ["y"])
    runner = Runner(graph)
    zero = np.zeros(2, np.float32)
    assert runner.run({"x": zero})[0].tolist() == [1, 2]
    assert runner.run({"x": zero, "bias": np.array([3, 4], np.float32)})[0].tolist() == [3, 4]


@pytest.mark.parametrize("outside", [0, 1 << 30])
def test_constants_of_every_type_work_inside_and_beside_the_model(
    outside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OUTSIDE", outside)
    arrays: list[Any] = [np.arange(4).astype(kind) for kind in ("f4", "f8", "f2", "i8", "u1", "?")]
    arrays += [np.array(["a", "b"], object), np.array(3, np.int32), np.zeros((0, 2), np.float32)]
    graph = Graph()
    made = [graph.add("Identity", [graph.constant(array)]).output for array in arrays]
    half = graph.constant(Tensor(np.arange(4).astype(ml_dtypes.bfloat16)))
    made.append(graph.add("Cast", [half], {"to": int(DType.FLOAT)}).output)
    graph.set_outputs(made, [f"y{k}" for k in range(len(made))])
    for found, array in zip(
        Runner(graph).run({}), [*arrays, np.arange(4, dtype="f4")], strict=True
    ):
        np.testing.assert_array_equal(found, array)
        assert found.shape == array.shape


@pytest.mark.parametrize("dtype", CARRIERS)
def test_types_that_numpy_and_the_session_do_not_share_come_and_go(dtype: DType) -> None:
    graph = Graph()
    graph.info.opsets[""] = 25
    x = graph.input("x", dtype, (3,))
    graph.set_outputs([x, graph.add("Cast", [x], {"to": int(DType.FLOAT)}).output], ["x2", "y"])
    given = np.array([0, 1, -2 if not dtype.name.startswith("UINT") else 2]).astype(dtype.numpy)
    same, floats = Runner(graph).run({"x": given})
    assert same.dtype == given.dtype and np.array_equal(same, given)
    np.testing.assert_array_equal(floats, given.astype(np.float32))


def test_a_session_outlives_the_weights_it_was_made_from() -> None:
    size = 1 << 20  # far beyond `OUTSIDE`; freed memory of this size is given back at once
    graph = Graph()
    x = graph.input("x", DType.FLOAT, (1,))
    total = graph.add("Add", [x, graph.constant(np.arange(size, dtype=np.float32))]).output
    graph.set_outputs([total], ["y"])
    runner = Runner(graph, optimize=False)
    del graph, x, total
    gc.collect()
    np.testing.assert_array_equal(runner.run({"x": np.ones(1, np.float32)})[0], np.arange(size) + 1)


# -- errors ----------------------------------------------------------------------------------------


def test_missing_and_wrong_data_are_data_errors() -> None:
    runner = Runner(convolution())
    with pytest.raises(DataError, match="no data for the model's input 'x'"):
        runner.run({"y": X})
    with pytest.raises(DataError, match="rank"):
        runner.run({"x": X[0]})
    with pytest.raises(DataError, match="double"):
        runner.run({"x": X.astype(np.float64)})


def test_an_operator_that_fails_while_running_is_named() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, ("N",))
    shape = graph.constant(np.array([2, 2], np.int64))
    graph.set_outputs([graph.add("Reshape", [x, shape], name="folded").output], ["y"])
    runner = Runner(graph)
    assert runner.run({"x": np.zeros(4, np.float32)})[0].shape == (2, 2)
    with pytest.raises(ModelError, match=r"cannot run Reshape 'folded': .*cannot be reshaped"):
        runner.run({"x": np.zeros(5, np.float32)})


def test_an_operator_that_is_unknown_is_named() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, ("N",))
    graph.set_outputs([graph.add("NoSuchThing", [x], name="odd").output], ["y"])
    with pytest.raises(ModelError, match="cannot run NoSuchThing 'odd'"):
        Runner(graph)


def test_operands_that_do_not_fit_are_named() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, (2, 3))
    graph.set_outputs([graph.add("MatMul", [x, x], name="product").output], ["y"])
    with pytest.raises(ModelError, match="cannot run MatMul 'product'"):
        Runner(graph)


# -- reductions ------------------------------------------------------------------------------------


def reduced(opset: int) -> Iterator[tuple[Any, Any]]:
    """Pairs of what ONNX Runtime and numpy reduce to, with and without a channel axis."""
    operations = {"Min": np.min, "Max": np.max, "Mean": np.mean, "Sum": np.sum}
    for axis in (None, 1, -1):
        graph = Graph()
        graph.info.opsets[""] = opset
        x = graph.input("x", DType.FLOAT, (2, 3, 5, 5))
        made = [reduce(graph, x, f"Reduce{op}", axis) for op in operations]
        others = None if axis is None else tuple(k for k in range(4) if k != axis % 4)
        found = Runner(graph, made).run({"x": X})
        yield from zip(found, [op(X, axis=others) for op in operations.values()], strict=True)


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_reductions_agree_with_numpy_in_every_opset(opset: int) -> None:
    for found, expected in reduced(opset):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_vector_reduced_to_its_channels_is_itself() -> None:
    graph = Graph()
    x = graph.input("x", DType.FLOAT, (3,))
    data = np.array([3, 1, 2], np.float32)
    assert Runner(graph, [reduce(graph, x, "ReduceMax", 0)]).run({"x": data})[0].tolist() == [
        3,
        1,
        2,
    ]


# -- signal to noise -------------------------------------------------------------------------------


def test_signal_to_noise_ratio() -> None:
    assert signal_to_noise([3, 4], [3, 4.5]) == pytest.approx(20.0)
    assert signal_to_noise([1, 1], [1, 1]) == 120
    assert signal_to_noise([1, 1], [1 + 1e-9, 1]) == 120
    assert signal_to_noise([0, 0], [1, 1]) == -120
    assert signal_to_noise([0, 0], [0, 0]) == 120
    assert signal_to_noise([1, 1], [1, np.nan]) == -120
    assert signal_to_noise([1, 1], [1, np.inf]) == -120
    assert signal_to_noise(np.ones((2, 2)), np.zeros((2, 2))) == pytest.approx(0)
    assert decibel(1e-300, 1e-290) == pytest.approx(-100)


def test_model_of_the_repository_runs(request: pytest.FixtureRequest) -> None:
    folder = request.config.rootpath / "tests/data/crepe_tiny"
    graph = load(folder / "model.onnx")
    with np.load(folder / "calib/0000.npz") as sample:
        feeds = {name: sample[name] for name in sample.files}
    every = [value for node in graph for value in node.outputs]
    inner = Runner(graph, every).run(feeds)
    outputs = Runner(graph).run(feeds)
    for output, value in zip(outputs, graph.outputs, strict=True):
        np.testing.assert_allclose(inner[every.index(value)], output, rtol=1e-4, atol=1e-5)
    assert all(isinstance(array, np.ndarray) for array in inner)


def test_integer_weights_that_several_operators_share() -> None:
    """ONNX Runtime's rewrite for exact sums on x86 before VNNI makes them twice by one name."""
    pair = "{0} = QuantizeLinear({1}, s, z) {2} = DequantizeLinear({0}, s, z)"
    graph = parse(f"""
    g (float[1,1,8,8] x) => (float[1,1,8,8] y) <
      float s = {{0.5}}, uint8 z = {{128}}, float u = {{0.01}}, int8 n = {{0}},
      int8[1,1,1,1] w = {{100}}, int8[1,1,1,1] w2 = {{100}}
    > {{
      v = DequantizeLinear(w, u, n)
      v2 = DequantizeLinear(w2, u, n)
      {pair.format("a", "x", "b")}
      c = Conv(b, v)
      {pair.format("d", "c", "e")}
      f = Conv(e, v)
      {pair.format("h", "f", "i")}
      j = Conv(i, v2)
      {pair.format("k", "j", "y")}
    }}""")
    x = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8) / 2
    np.testing.assert_array_equal(Runner(graph).run({"x": x})[0], x)


def test_weights_rounded_in_float_that_several_read() -> None:
    """Folded by ONNX Runtime, they are made twice by one name, too."""
    pair = "q = QuantizeLinear(w, u, n) v = DequantizeLinear(q, u, n)"
    weights = ",".join(str(k % 100) for k in range(1024))
    graph = parse(f"""
    g (float[1,1024,1,1] x) => (float[1,1,1,1] y) <
      float u = {{1}}, int8 n = {{0}}, float[1,1024,1,1] w = {{{weights}}}
    > {{ {pair} y = Conv(x, v) }}""")
    x = np.ones((1, 1024, 1, 1), np.float32)
    stored, product = Runner(graph, [graph.find("v"), graph.find("y")]).run({"x": x})
    np.testing.assert_array_equal(stored.reshape(-1), np.arange(1024) % 100)
    assert product.item() == stored.sum()
