"""Arithmetic with constants takes one form: at most one Mul, then one Add."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewriting import apply, net, noise, only, operand, ops

from ptq_opt.ir import Graph
from ptq_opt.passes.canonicalize import Canonicalize


def canonical(graph: Graph) -> Graph:
    apply(Canonicalize(), graph)
    return graph


def test_sum_of_several_is_a_chain_of_add() -> None:
    graph = net("n = Neg(x)\n e = Exp(x)\n y = Sum(x, n, e, x)")
    assert ops(canonical(graph)) == ["Neg", "Exp", "Add", "Add", "Add"]


def test_subtracting_a_constant_is_adding() -> None:
    graph = canonical(net("y = Sub(x, c)", c=np.float32(3)))
    assert ops(graph) == ["Add"] and operand(only(graph, "Add"), 1).numpy() == -3


def test_subtracting_from_a_constant_stays() -> None:
    assert ops(canonical(net("y = Sub(c, x)", c=np.float32(3)))) == ["Sub"]


def test_dividing_by_a_constant_is_multiplying() -> None:
    graph = canonical(net("y = Div(x, c)", c=np.array([[[1]], [[2]], [[4]], [[5]]], np.float32)))
    assert ops(graph) == ["Mul"]


@pytest.mark.parametrize("divisor", [0.0, 1e-40, 1e35, np.inf])
def test_divisors_without_an_inverse_stay(divisor: float) -> None:
    graph = net("e = Exp(x)\n y = Div(e, c)", c=np.float32([divisor]))
    assert ops(canonical(graph)) == ["Exp", "Div"]


def test_integer_arithmetic_stays() -> None:
    graph = net("a = Div(x, c)\n y = Sub(a, c)", "int64[3] x", "int64[] y", c=np.array([3]))
    assert ops(canonical(graph)) == ["Div", "Sub"]


def test_constants_come_second() -> None:
    graph = canonical(net("a = Mul(c, x)\n y = Add(c, a)", c=np.float32(3)))
    assert [operand(node, 1).is_constant for node in graph] == [True, True]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Mul(x, p)\n y = Mul(a, q)", ["Mul"]),
        ("a = Add(x, p)\n y = Add(a, q)", ["Add"]),
        ("a = Add(x, p)\n y = Mul(a, q)", ["Mul", "Add"]),
        ("a = Mul(x, p)\n y = Add(a, q)", ["Mul", "Add"]),
        ("a = Sub(x, p)\n y = Div(a, q)", ["Mul", "Add"]),
        ("a = Add(x, p)\n b = Mul(a, q)\n c = Add(b, p)\n y = Mul(c, q)", ["Mul", "Add"]),
    ],
)
def test_chains_collapse(body: str, expected: list[str]) -> None:
    graph = net(body, p=noise(4, 1, 1), q=noise(4, 1, 1, seed=1, positive=True))
    assert ops(canonical(graph)) == expected


@settings(max_examples=20)
@given(st.lists(st.sampled_from(["Add", "Sub", "Mul", "Div"]), min_size=1, max_size=6))
def test_any_chain_collapses_to_at_most_two(chain: list[str]) -> None:
    names = ["x", *(f"v{k}" for k in range(len(chain) - 1)), "y"]
    body = "\n".join(
        f"{after} = {op}({before}, {'pq'[k % 2]})"
        for k, (op, before, after) in enumerate(zip(chain, names, names[1:], strict=False))
    )
    graph = net(body, p=noise(1, 4, 1, 1, positive=True), q=np.float32(2))
    assert ops(canonical(graph)) in ([], ["Mul"], ["Add"], ["Mul", "Add"])


def test_a_chain_that_is_read_in_the_middle_stays() -> None:
    graph = net("a = Mul(x, p)\n y = Mul(a, p)", outputs="float[] y, float[] a", p=noise(4, 1, 1))
    assert ops(canonical(graph)) == ["Mul", "Mul"]


def test_constants_of_different_axes_do_not_merge_into_a_large_one() -> None:
    graph = net("a = Mul(x, p)\n y = Mul(a, q)", p=noise(4, 1, 1), q=noise(6))
    report = apply(Canonicalize(), graph)
    assert list(report.skipped) == ["one constant for both would be larger than either"]


def test_constants_that_would_overflow_do_not_merge() -> None:
    graph = net("a = Mul(x, p)\n y = Mul(a, q)", p=np.float32(1e-25), q=np.float32(1e31))
    assert ops(canonical(graph)) == ["Mul", "Mul"]


@pytest.mark.parametrize("op", ["Add(n, zero)", "Sub(n, zero)", "Mul(n, one)", "Div(n, one)"])
def test_neutral_elements_are_gone(op: str) -> None:
    graph = net(f"n = Neg(x)\n y = {op}", zero=np.zeros((4, 1, 1), np.float32), one=np.float32(1))
    assert ops(canonical(graph)) == ["Neg"]


def test_a_neutral_element_that_makes_the_result_larger_stays() -> None:
    graph = net("y = Add(x, zero)", "float[1,4] x", zero=np.zeros((3, 1), np.float32))
    assert ops(canonical(graph)) == ["Add"]


def test_a_shared_constant_is_not_changed_for_the_other_reader() -> None:
    graph = net("a = Sub(x, c)\n b = Div(c, x)\n y = Add(a, b)", c=noise(4, 1, 1, positive=True))
    assert ops(canonical(graph)) == ["Add", "Div", "Add"]
