"""Graphs as text: what is printed parses back, and says everything that computes."""

import re

import numpy as np
import onnx
import onnx.parser
import pytest

from ptq_opt.ir import DType, Graph, ModelError, Tensor, grid, load, save
from ptq_opt.ir.text import parse, print_graph
from ptq_opt.tools.corpus.cases import all_models

FULL = """\
g (float[N,2] x ~ uint8(0.5, 3), bool c) => (float[N,2] y) <
  float[2] w ~ int8([0.1, 0.2], 0, axis=0, narrow) = {1, -0.5},
  float[N,2] t
> {
  [scale] t ~ int8(0.1, 0) = Mul(x, w) ~ int8
  u, "" = my.ops.Odd:second <ints = [1, 2], real = 1.0, text = "a\\n\\"b\\"", none: floats = [], \
data = int64[2] {3, 4}, raw = b"\\xff\\x22", kinds = ["a", "b"]> (t, "", t)
  y = If <then_branch = "yes/1" () => (float[N,2] z) {
    z ~ uint8(0.25, 1) = Relu(u)
  }, else_branch = no () => (z) <
    float[2] k = {1, 2}
  > {
    z = Add(k, u)
  }> (c)
}
"""


def elements(graph: Graph) -> list[Tensor]:
    """All constants, in attributes too."""
    found = []
    for part in graph.graphs():
        found += [v.const for v in part.values() if v.const is not None]
        attrs = [a for node in part.order() for a in node.attrs.values()]
        found += [a for a in attrs if isinstance(a, Tensor)]
    return found


def test_a_graph_alone_is_a_model_of_recent_versions() -> None:
    graph = parse("g (float x) => (float y) { y = Relu(x) }")
    assert (graph.info.ir_version, graph.info.opsets) == (10, {"": 21})


def test_a_header_sets_the_versions() -> None:
    text = '<ir_version: 8, opset_import: ["": 18, "my": 2]>\ng (float x) => (float x) {}\n'
    graph = parse(text)
    assert (graph.info.ir_version, graph.info.opsets) == (8, {"": 18, "my": 2})
    assert print_graph(graph) == text


def test_every_construct_is_printed_as_it_was_written() -> None:
    assert print_graph(parse(FULL)) == FULL


def test_grids_belong_to_values() -> None:
    graph = parse(FULL)
    x, w = graph.find("x").quant, graph.find("w").quant
    assert (x.dtype, x.scale, x.zero_point, x.axis, x.narrow) == (DType.UINT8, 0.5, 3, None, False)
    assert w.scale.tolist() == np.float32([0.1, 0.2]).tolist()
    assert (w.zero_point.tolist(), w.axis, w.narrow) == ([0, 0], 0, True)
    branches = graph.find("y").producer.bodies
    assert branches["then_branch"].find("z").quant.scale == 0.25
    assert branches["else_branch"].find("z").quant is None
    assert graph.find("x").info is None


def test_precisions_belong_to_nodes() -> None:
    assert [node.precision for node in parse(FULL)] == ["int8", None, None]


def test_chosen_integers_survive() -> None:
    text = """\
g (float[2] x) => (float[2] y) <
  float[2] w ~ int8(0.5, 0, narrow, integers=[1, -2]) = {0.4, -0.8}
> {
  y = Mul(x, w) ~ int8
}
"""
    info = parse(text).find("w").quant
    real = np.float32([0.4, -0.8])
    assert info.quantize(real).tolist() == [1, -2]
    assert info.stored(real).tolist() == [1, -2] and info.kept(real).tolist() == [0.5, -1]
    other = parse(text.replace("[1, -2]", "[0, -1]")).find("w").quant
    assert other.stored(real).tolist() == [0, -1] and other.kept(real).tolist() == [0, -0.5]
    assert print_graph(parse(text)) == text


def test_blocked_grids_survive() -> None:
    graph = parse("g (float[4,3] x) => (float[4,3] y) { y = Relu(x) }")
    high = np.arange(1.0, 7.0).reshape(2, 3)
    graph.find("y").quant = grid(-high, 2 * high, DType.UINT4, axis=0, block=2)
    again = parse(print_graph(graph)).find("y").quant
    assert np.array_equal(again.scale, graph.find("y").quant.scale)
    assert np.array_equal(again.zero_point, graph.find("y").quant.zero_point)
    assert (again.dtype, again.axis, again.block) == (DType.UINT4, 0, 2)


def test_names_and_symbols_of_any_form_are_quoted() -> None:
    text = (
        'g (float["batch size"] "a/b:0", float inf_) => (float y) {\n  ["n 1"] y = Op("a/b:0")\n}\n'
    )
    assert print_graph(parse(text)) == text
    for name in ("float", "inf", "seq", "ü", "", "1"):
        graph = parse("g (float x) => (float y) { y = Relu(x) }")
        graph.order()[0].name = name
        assert parse(print_graph(graph)).order()[0].name == name


def test_names_are_those_of_the_file() -> None:
    graph = parse("g (float x) => (float y) { t = Relu(x) y = Neg(t) }")
    graph.find("t").name = ""
    graph.replace(graph.find("y"), graph.inputs[0])
    graph.sweep()
    assert [line.strip() for line in print_graph(graph).splitlines()][1] == "y = Identity(x)"


def test_large_constants_are_left_out_unless_asked_for() -> None:
    graph = parse("g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> { y = Mul(x, w) }")
    graph.find("y").quant = grid([-1.0] * 3, [1.0] * 3, DType.INT8, axis=0)
    assert "w = {...}" in print_graph(graph, elide=2)
    assert "int8([...], 0, axis=0)" in print_graph(graph, elide=2)
    assert "w = {1, 2, 3}" in print_graph(graph, elide=3)
    assert "w = {1, 2, 3}" in print_graph(graph, elide=None)
    with pytest.raises(ModelError, match="printed without its large constants"):
        parse(print_graph(graph, elide=2))


@pytest.mark.parametrize("dtype", [d for d in DType if d.bits], ids=lambda d: d.name)
def test_constants_of_every_type_survive(dtype: DType) -> None:
    limits = dtype.integer_range if dtype.is_integer else (0.5, 4)
    array = np.array([1, *limits], object).astype(dtype.numpy)
    graph = parse("g (float x) => (float y) { y = Relu(x) }")
    graph.find("y").producer.attrs["value"] = Tensor(array)
    again = parse(print_graph(graph)).find("y").producer.attrs["value"]
    assert again.dtype is dtype
    assert again.numpy().tobytes() == array.tobytes()


def test_reals_survive_to_the_last_bit() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 1000, np.uint32)
    for array in (bits.view(np.float32), bits.view(np.float64), bits.view(np.float16)):
        graph = parse("g (float x) => (float y) { y = Relu(x) }")
        graph.find("y").producer.attrs["value"] = Tensor(array)
        again = parse(print_graph(graph, elide=None)).find("y").producer.attrs["value"].numpy()
        assert np.array_equal(again, array, equal_nan=True)


def test_functions_are_printed_after_the_graph() -> None:
    text = """\
<ir_version: 10, opset_import: ["": 21, "my": 1]>
g (float x) => (float y) {
  y = my.f <alpha = 0.5> (x)
}
<domain: "my", opset_import: ["": 18], overload: "o">
f <alpha, beta = 2> (a) => (b) <
  float t
> {
  t = LeakyRelu <alpha: float = @alpha> (a)
  b = Neg(t)
}
"""
    assert print_graph(parse(text)) == text


def test_text_without_additions_is_what_onnx_parses() -> None:
    text = re.sub(r" ~ \w+(\([^)]*\))?", "", FULL)
    text = text.replace(', raw = b"\\xff\\x22"', "").replace("\\n", "").replace('"yes/1"', "yes")
    theirs = load(onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>' + text))
    assert print_graph(theirs) == print_graph(parse(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float x) => (float y) { y = Relu(x }", r"line 1, column 39: expected ',', got }"),
        ("g (float x) =>\n (float y) { y = }", r"line 2, column 18: expected a name, got }"),
        ("g (float x) => (float y) <float[2] w = {1}> { }", r"expected data for float\[2\], got {"),
        ("g (float x) => (float x) <int8 w = {1.5}> { }", r"expected data for int8"),
        ("g (float x) => (float x) <int4 w = {8}> { }", r"expected data for int4"),
        ("g (float x) => (float y) { y = Op <a = []> (x) }", "the type of the empty list 'a'"),
        ("g (float x) => (float y) { y = Op <a: int = 1.5> (x) }", "a value of type int for 'a'"),
        (
            "g (float x) => (float y) { y ~ int8(1, 0, width=2) = Op (x) }",
            "axis, block, narrow or integers",
        ),
        ("g (float x) => (float y) { y = Relu(x)", "got end of text"),
        ("<ir_version: 10, colour: 3> g (float x) => (float x) { }", "cannot say colour"),
        ("g (float x) => (float y) { y = Relu(z) }", "reads 'z'"),
        ("g (float x) => (float y) { y = Relu(x) § }", "got §"),
    ],
)
def test_mistakes_are_pointed_at(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse(text)


def test_every_model_of_the_onnx_package_survives() -> None:
    for name, model in all_models().items():
        graph = load(model)
        if sum(tensor.size for tensor in elements(graph)) > 2_000:
            continue
        text = print_graph(graph, elide=None)
        again = parse(text)
        assert print_graph(again, elide=None) == text, name
        for one, other in zip(elements(graph), elements(again), strict=True):
            assert np.array_equal(one.numpy(), other.numpy(), equal_nan=one.dtype.is_float), name


def test_comments_are_skipped() -> None:
    graph = parse("# before\ng (float x) => (float y) { # here\n y = Relu(x) # and there\n}")
    assert [node.op for node in graph] == ["Relu"]
    assert len(save(graph).graph.node) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (" + "seq(" * 5000, "nested too deeply"),
        ("g (float[" + "9" * 5000, "line 1, column 10: expected a number of fewer digits"),
        ('<ir_version: 9, opset_import: "18"> g () => () {}', "cannot say opset_import: '18'"),
        ('<ir_version: 9, opset_import: ["": -1]> g () => () {}', "cannot say opset_import"),
        (
            f"g (float x) => (float y) {{ y = Flatten <axis = {10**29}> (x) }}",
            "expected numbers of at most 64 bits for 'axis'",
        ),
        ("g (float x) => (float y) { y = A <a: float = [bad]> (x) }", "expected"),
        (f"g (float[{2**63}] x) => () {{}}", "expected an integer of at most 64 bits"),
        ("g (float x) => (float y) { y = A <a =", "line 1, column 38: expected"),
        (
            f"g (float x ~ int8(1.0, {10**29})) => (float x) {{}}",
            "the grid of 'x' makes no sense",
        ),
        ("g () => () <w = {1}> {}", "line 1, column 17: expected data for a tensor whose type"),
    ],
)
def test_hostile_texts(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse(text)


def test_names_that_are_not_utf_8_are_printed() -> None:
    """protobuf gives them as bytes, here that of an attribute of a function."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[2] x) => (float[2] y) { y = own.leaky <slope = 0.5> (x) }
        <domain: "own", opset_import: ["": 17]> leaky <slope> (x) => (y)
        { y = LeakyRelu <alpha : float = @slope> (x) }""")
    field = b"\xaa\x01\x05"  # of five bytes: ref_attr_name
    stored = model.SerializeToString()
    model.ParseFromString(stored.replace(field + b"slope", field + b"\xff\xfe\xfd\xfc\xfb"))
    assert '@b"' in print_graph(load(model))
