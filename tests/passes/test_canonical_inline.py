"""Functions and branches that are known are written out where they are called."""

import numpy as np
import pytest
from rewriting import apply, change, net, ops

from ptq_opt.ir import Graph
from ptq_opt.ir.text import parse
from ptq_opt.passes.canonicalize import Canonicalize


def model(body: str, *functions: str, outputs: str = "float[] y", opset: int = 17) -> Graph:
    """A model that calls functions of domain `mine`."""
    imports = f'opset_import: ["": {opset}, "mine": 1]'
    texts = [f'<domain: "mine", {imports}>\n{function}' for function in functions]
    main = f"g (float[2,3] x) => ({outputs}) {{ {body} }}"
    return parse("\n".join([f"<ir_version: 10, {imports}>", main, *texts]))


def canonical(graph: Graph) -> Graph:
    apply(Canonicalize(), graph)
    return graph


def test_a_function_is_written_out() -> None:
    graph = model("[call] a = mine.F(x)\n y = Neg(a)", "F (p) => (q) { r = Exp(p) q = Abs(r) }")
    assert ops(canonical(graph)) == ["Exp", "Abs", "Neg"]
    first, last, _ = graph
    assert graph.info.functions == {}
    assert (first.output.name, last.output.name, last.output.origin) == ("call/r", "a", "a")


def test_every_call_gets_operators_of_its_own() -> None:
    graph = model("a = mine.F(x)\n y = mine.F(a)", "F (p) => (q) { q = Exp(p) }")
    assert ops(canonical(graph)) == ["Exp", "Exp"]


def test_functions_that_call_functions() -> None:
    graph = model(
        "y = mine.F(x)",
        "F (p) => (q) { r = mine.G(p) q = Abs(r) }",
        "G (p) => (q) { q = Exp(p) }",
    )
    assert ops(canonical(graph)) == ["Exp", "Abs"]


def test_parameters_of_a_function() -> None:
    graph = model(
        "y = mine.F <slope = 0.3> (x)",
        "F <slope> (p) => (q) { q = LeakyRelu <alpha: float = @slope> (p) }",
    )
    (node,) = canonical(graph)
    assert node.attrs["alpha"] == pytest.approx(0.3)


def test_parameters_that_are_not_given_have_their_default() -> None:
    graph = model(
        "a = mine.F(x)\n y = mine.G(a)",
        "F <slope: float = 0.4> (p) => (q) { q = LeakyRelu <alpha: float = @slope> (p) }",
        "G <slope> (p) => (q) { q = LeakyRelu <alpha: float = @slope> (p) }",
    )
    first, second = canonical(graph)
    assert first.attrs["alpha"] == pytest.approx(0.4)
    assert second.attrs["alpha"] == pytest.approx(0.01)


def test_operands_that_are_left_out() -> None:
    graph = model("y = mine.F(x)", "F (p, low) => (q) { q = Clip(p, low) }")
    assert ops(canonical(graph)) == []


def test_results_that_are_inputs_of_the_function() -> None:
    graph = model(
        "a, b = mine.F(x)\n y = Add(a, b)", "F (p) => (r, q) { r = Identity(p) q = Exp(p) }",
    )  # fmt: skip
    assert ops(canonical(graph)) == ["Exp", "Add"]


def test_a_call_that_is_an_output() -> None:
    graph = model("a = Neg(x)\n y, z = mine.F(a)", "F (p) => (q, r) { r = Identity(p) q = Exp(p) }",
                  outputs="float[] y, float[] z")  # fmt: skip
    assert ops(canonical(graph)) == ["Neg", "Exp"]


def test_bodies_inside_a_function() -> None:
    graph = model(
        "s = ReduceSum <keepdims = 0> (x)\n z = Constant <value_float = 0.0> ()\n"
        "c = Greater(s, z)\n y = mine.F(c, x, x)",
        """F (c, p, q) => (r) {
            r = If (c) <then_branch = t () => (a) { a = Add(p, q) },
                        else_branch = e () => (b) { b = Sub(q, p) }>
        }""",
    )
    assert ops(canonical(graph)) == ["ReduceSum", "Greater", "If"]


def test_a_function_of_another_version_stays() -> None:
    graph = model("y = mine.F(x)", "F (p) => (q) { q = Exp(p) }")
    (function,) = graph.info.functions.values()
    function.info.opsets[""] = 20
    change(Canonicalize(), graph)
    assert ops(graph) == ["F"]


@pytest.mark.parametrize(("condition", "expected"), [(True, ["Neg"]), (False, ["Exp", "Abs"])])
def test_a_known_branch_is_written_out(condition: bool, expected: list[str]) -> None:
    graph = net(
        """y = If (c) <
            then_branch = t () => (float[] a) { a = Neg(x) },
            else_branch = e () => (float[] b) { d = Exp(x)  b = Abs(d) }
        >""",
        c=np.array(condition),
    )
    assert ops(canonical(graph)) == expected


def test_a_branch_that_depends_on_known_shapes() -> None:
    graph = net(
        """s = Shape(x)
        n = Gather(s, one)
        c = Equal(n, four)
        y = If (c) <
            then_branch = t () => (float[] a) { a = Neg(x) },
            else_branch = e () => (float[] b) { b = Identity(x) }
        >""",
        one=np.array(1), four=np.array(4),
    )  # fmt: skip
    assert ops(canonical(graph)) == ["Neg"]


def test_a_branch_with_constants_and_branches_of_its_own() -> None:
    graph = net(
        """y = If (c) <
            then_branch = t () => (float[] a) {
                k = Constant <value_float = 2.0> ()
                m = Mul(x, k)
                a = If (p) <
                    then_branch = u () => (float[] d) { d = Add(m, x) },
                    else_branch = v () => (float[] f) { f = Sub(m, x) }
                >
            },
            else_branch = e () => (float[] b) { b = Identity(x) }
        >""",
        inputs="float[2] x, bool p",
        c=np.array(True),
    )
    assert ops(canonical(graph)) == ["Mul", "If"]
    assert [ops(part) for part in graph.graphs()][1:] == [["Add"], ["Sub"]]


def test_a_branch_that_only_returns_what_it_captures() -> None:
    graph = net(
        """n = Neg(x)
        y = If (c) <
            then_branch = t () => (float[] a) { a = Identity(n) },
            else_branch = e () => (float[] b) { b = Exp(n) }
        >""",
        c=np.array(True),
    )
    assert ops(canonical(graph)) == ["Neg"]


def test_an_unknown_branch_stays() -> None:
    graph = net(
        """y = If (c) <
            then_branch = t () => (float[] a) { a = Neg(x) },
            else_branch = e () => (float[] b) { b = Exp(x) }
        >""",
        inputs="float[2] x, bool c",
    )
    assert ops(canonical(graph)) == ["If"]
