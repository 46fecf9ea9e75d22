"""Shape inference fills gaps and never forgets."""

import numpy as np
import onnx
import pytest

from ptq_opt.ir import DType, Graph, ModelError, Tensor, Value, load
from ptq_opt.ir.errors import OutOfMemory
from ptq_opt.ir.shapes import correct, infer
from ptq_opt.ir.text import parse
from ptq_opt.tools.corpus.cases import all_models


def inferred(text: str) -> Graph:
    graph = parse(text)
    infer(graph)
    return graph


def kind(value: Value) -> tuple[DType | None, object]:
    return value.dtype, value.shape


def test_inner_values_get_type_and_shape() -> None:
    graph = inferred("""
        g (float[N,3,8,8] x) => (float[] y) <float[4,3,1,1] w = {1,2,3,4,5,6,7,8,9,10,11,12}> {
            t = Conv <strides = [2, 2]> (x, w)
            y = GlobalAveragePool(t)
        }""")
    assert kind(graph.find("t")) == (DType.FLOAT, ("N", 4, 4, 4))
    assert kind(graph.find("y")) == (DType.FLOAT, ("N", 4, 1, 1))


def test_known_dimensions_are_kept_and_unknown_ones_refined() -> None:
    graph = parse("g (float[N,3] x) => (float[M,?] y) { t = Relu(x) y = Neg(t) }")
    graph.find("t").shape = (8, None)
    infer(graph)
    assert graph.find("t").shape == (8, 3)
    assert graph.find("y").shape == ("M", 3)
    assert graph.inputs[0].shape == ("N", 3)


def test_values_made_by_a_rewrite_are_filled() -> None:
    graph = parse("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    cast = graph.add("Cast", [graph.inputs[0]], {"to": int(DType.FLOAT16)})
    graph.set_input(graph.find("y").producer, 0, cast.output)
    infer(graph)
    assert kind(cast.output) == (DType.FLOAT16, ("N", 3))


def test_small_integer_constants_say_shapes() -> None:
    graph = inferred("""
        g (float[2,6] x) => (float[] y) <int64[3] s = {2, 3, -1}> { y = Reshape(x, s) }""")
    assert graph.find("y").shape == (2, 3, 2)


def test_small_real_constants_say_scales() -> None:
    graph = inferred("""
        g (float[1,1,4,6] x) => (float[] y) <float[4] s = {1, 1, 2, 0.5}> { y = Resize(x, , s) }""")
    assert graph.find("y").shape == (1, 1, 8, 3)


def test_shapes_that_are_computed_are_followed() -> None:
    graph = inferred("""
        g (float[2,6] x, float[3,4] z) => (float[] y) {
            s = Shape(z)
            y = Reshape(x, s)
        }""")
    assert graph.find("y").shape == (3, 4)


def test_weights_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = parse("g (float[2,50] x) => (float[] y) { t = Constant() y = MatMul(x, t) }")
    weights = Tensor(np.ones((50, 50), np.float32))
    graph.find("t").producer.attrs["value"] = weights
    product = graph.add("MatMul", [graph.find("y"), graph.constant(weights)])

    def refuse(_: object) -> np.ndarray:
        raise AssertionError("weights were read")

    monkeypatch.setattr(Tensor, "numpy", refuse)
    infer(graph)
    assert graph.find("y").shape == (2, 50)
    assert product.output.shape == (2, 50)


def test_custom_operators_stay_unknown_and_stop_nothing() -> None:
    graph = inferred("""
        <ir_version: 10, opset_import: ["": 21, "my": 1]>
        g (float[2] x) => (float[] y, float[] z) { t = my.Op(x) y = Relu(t) z = Neg(x) }""")
    assert kind(graph.find("t")) == (None, None)
    assert kind(graph.find("z")) == (DType.FLOAT, (2,))


def test_bodies_and_their_stand_ins_are_filled() -> None:
    graph = inferred("""
        g (bool c, float[2,3] x) => (float[] y) {
            t = Relu(x)
            y = If (c) <then_branch = yes () => (a) { u = Abs(t) a = Neg(u) },
                        else_branch = no () => (b) { b = Neg(t) }>
        }""")
    body = graph.find("y").producer.bodies["then_branch"]
    assert kind(next(iter(body.captures))) == (DType.FLOAT, (2, 3))
    assert kind(body.find("u")) == (DType.FLOAT, (2, 3))
    assert graph.find("y").shape == (2, 3)


def test_functions_are_looked_through() -> None:
    graph = inferred("""
        <ir_version: 10, opset_import: ["": 21, "my": 1]>
        g (float[2] x) => (float[] y) { t = my.f(x) y = Neg(t) }
        <domain: "my", opset_import: ["": 21]> f (a) => (b) { b = Relu(a) }""")
    assert graph.find("t").shape == (2,)


def test_symbols_that_inference_makes_up_are_not_kept() -> None:
    graph = inferred("g (float[N] x) => (float[] y) { t = NonZero(x) y = Cast<to = 1>(t) }")
    assert graph.find("t").shape == (1, None)


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ("float[2, 4]", ("N", 4, 8, 8)),  # a rank
        ("float[N, 4, 9, 8]", ("N", 4, 8, 8)),  # a size
        ("float[1, 4, 8, 8]", ("N", 4, 8, 8)),  # the batch it was exported with
    ],
)
def test_what_is_declared_against_the_operators_is_taken_back(
    declared: str, found: tuple[object, ...]
) -> None:
    graph = parse(f"g (float[N,4,8,8] x) => ({declared} y) {{ t = Relu(x) y = Neg(t) }}")
    y = graph.find("y")
    before = y.shape
    assert correct(graph) == {y: before}
    assert y.shape == found


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,4] x) => (float[M,4] y) { y = Relu(x) }",  # a symbol of another name
        "g (float[N,4] x, int64[2] s) => (float[8,2] y) { y = Reshape(x, s) }",  # unknown
        "g (float[4] x) => (float[2,2] y) { t = my.own(x) y = Relu(t) }",  # of a custom operator
        "g (float[4] x) => (float[] y) { y = Relu(x) }",  # nothing is declared
    ],
)
def test_what_may_be_so_is_left_as_declared(text: str) -> None:
    graph = parse(f'<ir_version: 10, opset_import: ["": 21, "my": 1]> {text}')
    assert correct(graph) == {}


def test_declarations_inside_bodies_are_taken_back_too() -> None:
    graph = parse("""
        g (bool c, float[2,3] x) => (float[2,3] y) {
            y = If (c) <then_branch = yes () => (float[6] a) { a = Neg(x) },
                        else_branch = no () => (float[2,3] b) { b = Abs(x) }>
        }""")
    body = graph.find("y").producer.bodies["then_branch"]
    assert list(correct(graph).values()) == [(6,)]
    assert body.outputs[0].shape == (2, 3)


def test_no_model_makes_it_fail_or_forget() -> None:
    for name, model in all_models().items():
        graph = load(model)
        before = {value: kind(value) for value in graph.values()}
        infer(graph)
        for value, (dtype, shape) in before.items():
            assert dtype in (None, value.dtype), name
            pairs = zip(shape or (), value.shape or (), strict=shape is not None)
            assert all(new == old or not isinstance(old, int) for old, new in pairs), name


def test_what_inference_refuses_is_an_error_of_ours() -> None:
    graph = parse(
        """
        <ir_version: 9, opset_import: ["": 18]>
        g (float x) => (float y) { t = own.same(x) y = Relu(t) }
        <domain: "own", opset_import: ["": 18]> same (p) => (r) { r = Relu(p) }
        """
    )
    with pytest.raises(ModelError, match=r"cannot be inferred: .*No opset import for domain own"):
        infer(graph)


def test_an_inference_without_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", refuse)
    with pytest.raises(OutOfMemory, match="shapes of the model cannot be inferred"):
        infer(parse("g (float[1] x) => (float[1] y) { t = Relu(x) y = Relu(t) }"))


def test_where_all_is_known_nothing_is_inferred(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = parse("g (float[1] x) => (float[1] y) { t = Relu(x) y = Relu(t) }")
    infer(graph)
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", None)
    infer(graph)
    assert graph.find("t").shape == (1,)
