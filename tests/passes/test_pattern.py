"""Patterns as functions: what matches, what does not, and why."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from rewriting import apply as apply_pass
from rewriting import change, net, noise, only, operand, ops

from ptq_opt.ir import Graph
from ptq_opt.passes import Builder, Match, PatternPass, Rewriter, Skip, Variable
from ptq_opt.passes.pattern import Operator, compile_pattern, match


@dataclass(frozen=True)
class ReluOfSum(PatternPass):
    """Relu of a sum becomes a maximum."""

    name: ClassVar[str] = "relu-of-sum"
    preserves_function: ClassVar[bool] = True

    @staticmethod
    def pattern(p: Builder, x: Variable, y: Variable) -> Operator:
        return p.Relu(p.Add(x, y, bind="sum"))

    def rewrite(self, m: Match, rw: Rewriter) -> None:
        zero = rw.constant(np.float32(0))
        total = rw.add("Add", m.x, m.y, name=m.nodes["sum"].name)
        rw.replace(m.root.output, rw.add("Max", total, zero))


def matches(function: object, graph: Graph, op: str) -> Match | None:
    return match(compile_pattern(function), only(graph, op))


def square(p: Builder, x: Variable) -> Operator:
    return p.Mul(x, x)


def hard_sigmoid(p: Builder, x: Variable) -> Operator:
    return p.Mul(p.Clip(p.Add(x, 3.0), 0.0, 6.0), 1 / 6)


def conv_relu(p: Builder, x: Variable, w: Variable, b: Variable) -> Operator:
    return p.Relu(p.Conv(x, w, b))


def test_rewrites_every_match() -> None:
    graph = net("a = Add(x, x)\n b = Relu(a)\n c = Add(b, x)\n y = Relu(c)")
    assert apply_pass(ReluOfSum(), graph).rewritten == 2
    assert ops(graph) == ["Add", "Max", "Add", "Max"]


def test_operands_may_be_graph_inputs_and_constants() -> None:
    graph = net("a = Add(x, c)\n y = Relu(a)", c=noise(6))
    apply_pass(ReluOfSum(), graph)
    assert ops(graph) == ["Add", "Max"]


def test_the_root_may_be_a_graph_output() -> None:
    graph = net("a = Add(x, x)\n y = Relu(a)\n z = Neg(y)", outputs="float[] y, float[] z")
    apply_pass(ReluOfSum(), graph)
    assert ops(graph) == ["Add", "Max", "Neg"]


def test_an_inner_value_that_the_graph_returns_stands_in_the_way() -> None:
    graph = net("a = Add(x, x)\n y = Relu(a)", outputs="float[] y, float[] a")
    report = apply_pass(ReluOfSum(), graph)
    assert report.skipped == {"the result of Add is needed: the graph returns it": ["Relu 'y'"]}


def test_an_inner_value_read_elsewhere_stands_in_the_way() -> None:
    graph = net("a = Add(x, x)\n b = Relu(a)\n y = Mul(a, b)")
    report = apply_pass(ReluOfSum(), graph)
    assert report.skipped == {"the result of Add is needed: Mul reads it": ["Relu 'b'"]}


def test_an_inner_value_read_by_a_body_stands_in_the_way() -> None:
    graph = net(
        """a = Add(x, x)
        b = Relu(a)
        y = If (c) <
            then_branch = t () => (float[] d) { d = Neg(a) },
            else_branch = e () => (float[] f) { f = Abs(b) }
        >""",
        inputs="bool c, float[2] x",
    )
    report = change(ReluOfSum(), graph)
    assert report.skipped == {"the result of Add is needed: If reads it": ["Relu 'b'"]}


def test_a_shared_operator_may_be_read_from_outside() -> None:
    def pattern(p: Builder, x: Variable, y: Variable) -> Operator:
        return p.Relu(p.Add(x, y, shared=True))

    graph = net("a = Add(x, x)\n y = Relu(a)", outputs="float[] y, float[] a")
    assert matches(pattern, graph, "Relu") is not None


def test_patterns_do_not_reach_into_or_out_of_bodies() -> None:
    graph = net(
        """a = Add(x, x)
        y = If (c) <
            then_branch = t () => (float[] d) { d = Relu(a) },
            else_branch = e () => (float[] f) { g = Add(x, x)  f = Relu(g) }
        >""",
        inputs="bool c, float[2] x",
    )
    change(ReluOfSum(), graph)
    _, then, other = graph.graphs()
    assert (ops(then), ops(other)) == (["Relu"], ["Add", "Max"])


def test_a_variable_used_twice_is_one_value() -> None:
    assert matches(square, net("y = Mul(x, x)"), "Mul") is not None
    assert matches(square, net("a = Neg(x)\n y = Mul(x, a)"), "Mul") is None


@pytest.mark.parametrize("sum_", ["Add(x, three)", "Add(three, x)"])
@pytest.mark.parametrize("product", ["Mul(b, sixth)", "Mul(sixth, b)"])
def test_operands_that_commute_match_either_way(sum_: str, product: str) -> None:
    graph = net(
        f"a = {sum_}\n b = Clip(a, zero, six)\n y = {product}",
        three=np.float32(3), zero=np.float32(0), six=np.float32(6), sixth=np.float32(1 / 6),
    )  # fmt: skip
    found = matches(hard_sigmoid, graph, "Mul")
    assert found is not None and found.x.name == "x"


def test_operands_of_a_difference_do_not_commute() -> None:
    def pattern(p: Builder, x: Variable) -> Operator:
        return p.Sub(x, 1.0)

    one = np.float32(1)
    assert matches(pattern, net("y = Sub(x, one)", one=one), "Sub") is not None
    assert matches(pattern, net("y = Sub(one, x)", one=one), "Sub") is None


@pytest.mark.parametrize("constant", [np.ones((1, 1), np.float32), np.ones(1, np.float32)])
def test_a_number_matches_any_constant_of_one_element(constant: np.ndarray) -> None:
    assert matches(lambda p, x: p.Mul(x, 1.0), net("y = Mul(x, c)", c=constant), "Mul")


@pytest.mark.parametrize("constant", [np.float32(2), np.ones(6, np.float32)])
def test_a_number_matches_nothing_else(constant: np.ndarray) -> None:
    assert matches(lambda p, x: p.Mul(x, 1.0), net("y = Mul(x, c)", c=constant), "Mul") is None
    assert matches(lambda p, x: p.Mul(x, 1.0), net("y = Mul(x, x)"), "Mul") is None


def test_a_number_does_not_match_a_constant_that_callers_may_override() -> None:
    graph = net("y = Mul(x, c)", c=np.float32(1))
    operand(only(graph, "Mul"), 1).overridable = True
    assert matches(lambda p, x: p.Mul(x, 1.0), graph, "Mul") is None


def test_an_operand_left_out_binds_to_nothing() -> None:
    graph = net("a = Conv(x, w)\n y = Relu(a)", w=noise(2, 4, 1, 1))
    found = matches(conv_relu, graph, "Relu")
    assert found is not None and found.b is None and found.w.name == "w"


def test_a_pattern_with_fewer_operands_does_not_match() -> None:
    graph = net("a = Conv(x, w, b)\n y = Relu(a)", w=noise(2, 4, 1, 1), b=noise(2))
    assert matches(lambda p, x, w: p.Relu(p.Conv(x, w)), graph, "Relu") is None


def test_an_operator_stands_for_its_first_result_only() -> None:
    graph = net("a, b = Split <axis = 1, num_outputs = 2> (x)\n y = Relu(b)", opset=18)
    assert matches(lambda p, x: p.Relu(p.Split(x)), graph, "Relu") is None


def test_a_missing_attribute_of_a_match_is_an_error() -> None:
    found = matches(square, net("y = Mul(x, x)"), "Mul")
    with pytest.raises(AttributeError):
        assert found is not None and found.w


def test_a_way_without_outside_readers_is_found_behind_one_with_them() -> None:
    def pattern(p: Builder, x: Variable, y: Variable) -> Operator:
        return p.Add(p.Relu(x), y)

    body = "a = Relu(x)\n b = Relu(x)\n y = Add(a, b)\n z = Neg(a)"
    graph = net(body, outputs="float[] y, float[] z")
    found = matches(pattern, graph, "Add")
    assert found is not None and found.y.name == "a"


def test_a_rewrite_that_declines_is_reported() -> None:
    class Never(ReluOfSum):
        def rewrite(self, m: Match, rw: Rewriter) -> None:
            raise Skip("it is Monday")

    graph = net("a = Add(x, x)\n y = Relu(a)")
    assert apply_pass(Never(), graph).skipped == {"it is Monday": ["Relu 'y'"]}


def test_unnamed_nodes_keep_working() -> None:
    graph = net("a = Add(x, x)\n y = Relu(a)")
    for node in graph:
        node.name = ""
    apply_pass(ReluOfSum(), graph)
    assert ops(graph) == ["Add", "Max"]
