"""Activations that exporters write out become one operator, or one written form."""

import numpy as np
import pytest
from rewriting import apply, net, noise, only, operand, ops

from ptq_opt.ir import Graph
from ptq_opt.passes.canonical.clips import bounds
from ptq_opt.passes.canonicalize import Canonicalize
from ptq_opt.passes.fold_bn import FoldBatchNorm

NUMBERS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "six": 6, "sixth": 1 / 6, "half": 0.5,
    "minus": -1, "root2": 2**0.5, "rroot2": 0.5**0.5, "c": (2 / np.pi) ** 0.5, "k": 0.044715,
    "lowest": np.finfo(np.float32).min, "highest": np.finfo(np.float32).max,
}  # fmt: skip


def canonical(body: str, opset: int = 17, **more: np.ndarray) -> Graph:
    constants = {name: np.float32(value) for name, value in NUMBERS.items()} | more
    graph = net(body, opset=opset, **constants)
    apply(Canonicalize(), graph, 1e-5)
    return graph


# -- Clip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "y = Clip(x, zero, six)",
        "a = Relu(x)\n y = Min(a, six)",
        "a = Relu(x)\n y = Min(six, a)",
        "a = Max(x, zero)\n y = Min(a, six)",
        "a = Min(x, six)\n y = Max(zero, a)",
        "a = Relu(x)\n b = Min(a, six)\n y = Max(b, zero)",
        "a = Relu(x)\n y = Clip(a, zero, six)",
        "a = Clip(x, minus, six)\n y = Relu(a)",
        "a = Clip(x, zero)\n y = Clip(a, minus, six)",
    ],
)
def test_relu6(body: str) -> None:
    graph = canonical(body)
    assert ops(graph) == ["Clip"]
    assert bounds(only(graph, "Clip")) == (0, 6)


@pytest.mark.parametrize(
    "body", ["y = Clip(x, zero)", "y = Max(x, zero)", "y = Clip(x, zero, highest)"]
)
def test_clip_from_zero_is_relu(body: str) -> None:
    assert ops(canonical(body)) == ["Relu"]


def test_bounds_beyond_all_floats_are_none() -> None:
    graph = canonical("y = Clip(x, lowest, six)")
    assert bounds(only(graph, "Clip")) == (-np.inf, 6)
    assert operand_count(graph) == 2


def operand_count(graph: Graph) -> int:
    return sum(value is not None for value in only(graph, "Clip").inputs)


def test_a_clip_read_in_the_middle_stays() -> None:
    graph = net("a = Relu(x)\n y = Min(a, six)", outputs="float[] y, float[] a", six=np.float32(6))
    apply(Canonicalize(), graph)
    assert ops(graph) == ["Relu", "Clip"]


def test_the_minimum_of_two_tensors_stays() -> None:
    assert ops(canonical("a = Neg(x)\n y = Min(x, a)")) == ["Neg", "Min"]


def test_a_minimum_per_channel_stays() -> None:
    assert ops(canonical("y = Min(x, cap)", cap=noise(4, 1, 1))) == ["Min"]


def test_integers_are_not_clipped() -> None:
    graph = net("y = Min(x, six)", "int64[3] x", "int64[] y", six=np.array(6))
    apply(Canonicalize(), graph)
    assert ops(graph) == ["Min"]


# -- Relu ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "a = Relu(x)",
        "a = Sigmoid(x)",
        "a = Softmax(x)",
        "a = Clip(x, half, six)",
        "b = Relu(x)\n a = AveragePool <kernel_shape = [2,2]> (b)",
        "b = Relu(x)\n e = Sigmoid(x)\n d = Concat <axis = 1> (b, e)\n a = Flatten(d)",
    ],
)
def test_relu_of_what_is_never_negative(body: str) -> None:
    graph = canonical(f"{body}\n y = Relu(a)")
    assert len(graph) == len(body.split("\n"))


@pytest.mark.parametrize(
    "body",
    [
        "a = Clip(x, minus, six)\n b = Neg(a)",
        "a = Relu(x)\n b = Neg(a)",
        "a = Relu(x)\n b = Concat <axis = 1> (a, x)",
        "a = Relu(x)\n b = Sub(a, one)",
    ],
)
def test_relu_of_what_may_be_negative_stays(body: str) -> None:
    assert ops(canonical(f"{body}\n y = Relu(b)"))[-1] == "Relu"


def test_relu_goes_into_the_branches_of_a_concat() -> None:
    body = (
        "r = Relu(x)\n p = AveragePool <kernel_shape = [1,1]> (r)\n q = Conv(r, w)\n"
        "d = Concat <axis = 1> (p, q)\n y = Relu(d)"
    )
    graph = canonical(body, w=noise(2, 4, 1, 1))
    assert ops(graph) == ["Relu", "AveragePool", "Conv", "Relu", "Concat"]
    assert operand(only(graph, "Concat"), 0).producer is only(graph, "AveragePool")


@pytest.mark.parametrize(
    ("branch", "outputs"),
    [("n = Neg(x)", "float[] y"), ("n = Conv(x, w)", "float[] y, float[] n")],
)
def test_relu_stays_behind_a_concat_when_a_branch_cannot_take_it(branch: str, outputs: str) -> None:
    body = f"{branch}\n c = Conv(x, w)\n d = Concat <axis = 1> (n, c)\n y = Relu(d)"
    graph = net(body, outputs=outputs, w=noise(2, 4, 1, 1))
    apply(Canonicalize(), graph)
    assert ops(graph)[-2:] == ["Concat", "Relu"]


# -- hard swish ------------------------------------------------------------------------------------

HARD_SWISH = [
    "a = Add(x, three)\n b = Clip(a, zero, six)\n d = Mul(x, b)\n y = Div(d, six)",
    "a = Add(x, three)\n b = Clip(a, zero, six)\n d = Div(b, six)\n y = Mul(x, d)",
    "a = Add(three, x)\n b = Clip(a, zero, six)\n d = Mul(b, sixth)\n y = Mul(d, x)",
    "a = Add(x, three)\n r = Relu(a)\n b = Min(r, six)\n d = Mul(b, x)\n y = Mul(d, sixth)",
    "a = Add(x, three)\n b = Clip(a, zero, six)\n e = Mul(x, sixth)\n y = Mul(e, b)",
    "d = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)\n y = Mul(x, d)",
]


@pytest.mark.parametrize("body", HARD_SWISH)
def test_hard_swish_is_one_operator(body: str) -> None:
    assert ops(canonical(body)) == ["HardSwish"]


@pytest.mark.parametrize("body", HARD_SWISH)
def test_hard_swish_has_one_form_before_it_was_an_operator(body: str) -> None:
    assert ops(canonical(body, opset=13)) == ["HardSigmoid", "Mul"]


def test_hard_sigmoid_of_another_tensor_stays_a_gate() -> None:
    body = "n = Exp(x)\n a = Add(n, three)\n b = Clip(a, zero, six)\n d = Div(b, six)\n"
    assert ops(canonical(f"{body} y = Mul(x, d)")) == ["Exp", "HardSigmoid", "Mul"]


def test_another_slope_is_no_hard_swish() -> None:
    assert ops(canonical("d = HardSigmoid(x)\n y = Mul(x, d)")) == ["HardSigmoid", "Mul"]


def test_a_gate_that_is_read_elsewhere_stays() -> None:
    graph = net(
        "d = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)\n y = Mul(x, d)",
        outputs="float[] y, float[] d",
    )
    apply(Canonicalize(), graph)
    assert ops(graph) == ["HardSigmoid", "Mul"]


# -- sigmoid and SiLU ------------------------------------------------------------------------------


@pytest.mark.parametrize("minus", ["Neg(x)", "Mul(x, minus)"])
def test_sigmoid(minus: str) -> None:
    start = f"n = {minus}\n e = Exp(n)\n d = Add(e, one)\n"
    assert ops(canonical(f"{start} y = Div(one, d)")) == ["Sigmoid"]
    assert ops(canonical(f"{start} y = Reciprocal(d)")) == ["Sigmoid"]


def test_silu() -> None:
    body = "n = Neg(x)\n e = Exp(n)\n d = Add(one, e)\n y = Div(x, d)"
    assert ops(canonical(body)) == ["Sigmoid", "Mul"]
    assert ops(canonical("s = Sigmoid(x)\n y = Mul(s, x)")) == ["Sigmoid", "Mul"]


# -- GELU ------------------------------------------------------------------------------------------

ERF = ["u = Div(x, root2)\n f = Erf(u)\n", "u = Mul(rroot2, x)\n f = Erf(u)\n"]
TANH = [
    "p = Pow(x, three)\n q = Mul(p, k)\n r = Add(x, q)\n u = Mul(r, c)\n",
    "p0 = Mul(x, x)\n p = Mul(x, p0)\n q = Mul(k, p)\n r = Add(q, x)\n u = Mul(c, r)\n",
    "p = Pow(x, two)\n q = Mul(p, k)\n r = Add(q, one)\n s = Mul(x, c)\n u = Mul(r, s)\n",
]
OUTER = [
    "g = Add(f, one)\n h = Mul(x, g)\n y = Mul(h, half)",
    "g = Add(one, f)\n h = Mul(x, half)\n y = Mul(h, g)",
    "g = Add(f, one)\n h = Mul(g, half)\n y = Mul(x, h)",
    "g = Add(f, one)\n h = Mul(g, x)\n y = Div(h, two)",
]


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", ERF)
def test_gelu(inner: str, outer: str) -> None:
    graph = canonical(inner + outer, opset=20)
    assert ops(graph) == ["Gelu"]
    assert only(graph, "Gelu").attrs["approximate"] == "none"


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", TANH)
def test_gelu_by_tanh(inner: str, outer: str) -> None:
    graph = canonical(f"{inner} f = Tanh(u)\n{outer}", opset=20)
    assert ops(graph) == ["Gelu"]
    assert only(graph, "Gelu").attrs["approximate"] == "tanh"


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", ERF)
def test_gelu_has_one_form_before_it_was_an_operator(inner: str, outer: str) -> None:
    graph = canonical(inner + outer)
    assert ops(graph) == ["Div", "Erf", "Add", "Mul", "Mul"]
    assert operand(only(graph, "Erf"), 0).producer is only(graph, "Div")


@pytest.mark.parametrize("after", ["y = Mul(z, three)", "y = MatMul(z, w)"])
def test_the_last_factor_of_a_written_gelu_stays(after: str) -> None:
    outer = OUTER[0].replace("y =", "z =")
    graph = canonical(f"{ERF[0]}{outer}\n {after}", w=noise(6, 2))
    apply(FoldBatchNorm(), graph)
    assert ops(graph)[:5] == ["Div", "Erf", "Add", "Mul", "Mul"]
    assert len(graph) == 6


def test_another_cubic_is_no_gelu() -> None:
    cubic = TANH[0].replace("Mul(p, k)", "Mul(p, sixth)")
    assert "Tanh" in ops(canonical(f"{cubic} f = Tanh(u)\n{OUTER[0]}", opset=20))


def test_a_gate_of_another_tensor_is_no_gelu() -> None:
    body = "n = Neg(x)\n u = Div(n, root2)\n f = Erf(u)\n g = Add(f, one)\n h = Mul(x, g)\n"
    assert "Erf" in ops(canonical(body + "y = Mul(h, half)", opset=20))
