"""What is known before the model runs becomes a constant."""

import numpy as np
import pytest
from rewriting import apply, change, net, noise, only, operand, ops

from ptq_opt.ir import Graph
from ptq_opt.ir.evaluate import Runner
from ptq_opt.passes.canonicalize import Canonicalize


def canonical(graph: Graph) -> Graph:
    apply(Canonicalize(), graph)
    return graph


@pytest.mark.parametrize(
    "attribute",
    [
        "value = float[2] {1, 2}",
        "value_floats = [1.0, 2.0]",
        "value_float = 3.0",
    ],
)
def test_constant_nodes_become_initializers(attribute: str) -> None:
    graph = canonical(net(f"c = Constant <{attribute}> ()\n y = Sub(c, x)", "float[2] x"))
    assert ops(graph) == ["Sub"]
    value = operand(only(graph, "Sub"), 0)
    assert value.is_constant and value.name == "c"


@pytest.mark.parametrize("attribute", ["value_int = 3", "value_ints = [3, 4]"])
def test_integer_constants_keep_their_type(attribute: str) -> None:
    body = f"c = Constant <{attribute}> ()\n y = Add(x, c)"
    graph = canonical(net(body, "int64[2] x", "int64[] y"))
    assert operand(only(graph, "Add"), 1).numpy().dtype == np.int64


def test_a_constant_may_be_the_output() -> None:
    graph = net("c = Constant <value_float = 3.0> ()\n y = Identity(c)\n z = Neg(x)",
                outputs="float[] y, float[] z")  # fmt: skip
    assert ops(canonical(graph)) == ["Neg"]
    assert graph.output_names == ["y", "z"]


def test_operators_of_constants_are_computed() -> None:
    graph = canonical(
        net(
            "a = Mul(two, three)\n b = Cast <to = 1> (a)\n c = Sqrt(b)\n y = Add(x, c)",
            two=np.array([2]), three=np.array([8]),
        )
    )  # fmt: skip
    assert ops(graph) == ["Add"]
    assert operand(only(graph, "Add"), 1).numpy() == 4


@pytest.mark.parametrize(
    "change", ["Transpose <perm = [3,2,1,0]> (w)", "Reshape(w, s)", "Identity(w)"]
)
def test_weights_behind_data_movement_become_weights(change: str) -> None:
    graph = net(f"v = {change}\n y = Conv(x, v)", w=noise(4, 4, 4, 4), s=np.array([4, 4, 4, 4]))
    assert ops(canonical(graph)) == ["Conv"]
    assert operand(only(graph, "Conv"), 1).is_constant


def test_half_precision_weights_behind_a_cast_become_weights() -> None:
    weight = noise(64, 64).astype(np.float16)
    graph = net("v = Cast <to = 1> (w)\n y = MatMul(x, v)", "float[2,64] x", w=weight)
    assert ops(canonical(graph)) == ["MatMul"]


@pytest.mark.parametrize(
    "grow",
    [
        "big = Expand(c, shape)",
        "big = ConstantOfShape(shape)",
        "big = Tile(c, shape)",
    ],
)
def test_small_constants_are_not_blown_up(grow: str) -> None:
    graph = net(
        f"{grow}\n t = ReduceMax <keepdims = 0> (big)\n y = Add(x, t)",
        c=np.ones((1, 1, 1), np.float32), shape=np.array([64, 64, 64]),
    )  # fmt: skip
    report = apply(Canonicalize(), graph)
    assert list(report.skipped) == ["its result is large"]
    assert ops(graph) == [grow.split(" = ")[1].split("(")[0], "ReduceMax", "Add"]


def test_random_numbers_stay_random() -> None:
    graph = net("r = RandomNormal <shape = [2]> ()\n y = Add(x, r)", "float[2] x")
    change(Canonicalize(), graph)
    assert ops(graph) == ["RandomNormal", "Add"]


def test_initializers_that_callers_may_override_are_no_constants() -> None:
    graph = net("a = Mul(c, c)\n y = Add(x, a)", "float[2] x", c=np.ones(2, np.float32))
    value = operand(only(graph, "Mul"), 0)
    value.overridable = True
    graph.inputs.append(value)
    assert ops(canonical(graph)) == ["Mul", "Add"]


def test_quantized_weights_stay_quantized() -> None:
    graph = net(
        "w = DequantizeLinear(q, s)\n y = MatMul(x, w)", "float[2,2] x",
        q=np.ones((2, 2), np.int8), s=np.float32(0.5),
    )  # fmt: skip
    assert ops(canonical(graph)) == ["DequantizeLinear", "MatMul"]


def test_the_shape_of_a_static_tensor_is_a_constant() -> None:
    graph = net(
        "s = Shape(x)\n n = Gather(s, i)\n u = Unsqueeze(n, axis)\n"
        "t = Concat <axis = 0> (u, rest)\n y = Reshape(x, t)",
        i=np.array(1), axis=np.array([0]), rest=np.array([-1]),
    )  # fmt: skip
    assert ops(canonical(graph)) == ["Reshape"]
    assert operand(only(graph, "Reshape"), 1).numpy().tolist() == [4, -1]


@pytest.mark.parametrize(
    "part",
    [
        "d = Gather(s, last)",
        "d0 = Slice(s, two, four)\n d = Squeeze(d0)",
        "d0 = Slice(s, last, four)\n d = Squeeze(d0)",
        "d0 = Shape <start = 2> (x)\n d = Squeeze(d0)",
    ],
)
def test_known_sizes_of_a_dynamic_tensor_are_constants(part: str) -> None:
    graph = net(
        f"s = Shape(x)\n {part}\n f = Cast <to = 1> (d)\n y = Mul(x, f)", "float[n,4,6] x",
        last=np.array([-1]), two=np.array([2]), four=np.array([4]),
    )  # fmt: skip
    assert ops(canonical(graph)) == ["Mul"]


def test_unknown_sizes_are_still_computed() -> None:
    graph = net(
        "s = Shape(x)\n d = Gather(s, first)\n f = Cast <to = 1> (d)\n y = Mul(x, f)",
        "float[n,4] x", first=np.array([0]),
    )  # fmt: skip
    canonical(graph)
    assert ops(graph) == ["Shape", "Gather", "Cast", "Mul"]
    (found,) = Runner(graph).run({"x": np.ones((3, 4), np.float32)})
    assert (found == 3).all()


def test_an_index_out_of_range_is_not_our_error() -> None:
    graph = net(
        "s = Shape(x)\n d = Gather(s, far)\n f = Cast <to = 1> (d)\n y = Mul(x, f)",
        "float[n,4] x", far=np.array([7]),
    )  # fmt: skip
    change(Canonicalize(), graph)
    assert "Gather" in ops(graph)


def test_a_malformed_operator_of_constants_is_not_our_error() -> None:
    graph = net(
        "r = Range(zero, end, zero)\n f = Cast <to = 1> (r)\n y = Add(x, f)", "float[4] x",
        zero=np.array(0), end=np.array([4, 5]),
    )  # fmt: skip
    report = change(Canonicalize(), graph)
    assert ops(graph)[0] == "Range"
    assert "cannot be computed ahead: ValueError" in report.skipped


def test_a_cast_to_a_known_type_is_a_cast() -> None:
    graph = net("c = CastLike(k, x)\n y = Mul(x, c)", k=np.array(3))
    assert ops(canonical(graph)) == ["Mul"]
    graph = net("y = CastLike(i, x)", "float[2] x, int64[2] i")
    assert ops(canonical(graph)) == ["Cast"]


def test_several_results_are_all_computed() -> None:
    graph = net(
        "a, b = Split <axis = 0, num_outputs = 2> (c)\n d = Add(x, a)\n y = Add(d, b)",
        "float[2] x", opset=18, c=noise(4),
    )  # fmt: skip
    assert ops(canonical(graph)) == ["Add"]


def test_constants_inside_bodies_are_computed() -> None:
    graph = canonical(
        net(
            """y = If (p) <
                then_branch = t () => (float[] a) {
                    c = Constant <value_float = 2.0> ()  d = Sqrt(c)  a = Mul(x, d) },
                else_branch = e () => (float[] b) { b = Neg(x) }
            >""",
            inputs="bool p, float[2] x",
        )
    )
    assert [ops(part) for part in graph.graphs()] == [["If"], ["Mul"], ["Neg"]]
