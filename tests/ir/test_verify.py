"""Verification finds every kind of damage and says what is wrong where."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ptq_opt.ir import DType, Graph, GraphError, Node, Value, grid
from ptq_opt.ir.text import parse
from ptq_opt.ir.verify import CHECKS, verify

TEXT = """
    g (bool c, float[2,3] x) => (float[2,3] y, float[2,3] z) <float[3] w = {1, 2, 3}> {
        [mul] t = Mul(x, w)
        [relu] y = Relu(t)
        [if] z = If <then_branch = yes () => (float[2,3] a) { [neg] a = Neg(t) },
                     else_branch = no () => (float[2,3] b) { [abs] b = Abs(t) }> (c)
    }"""


@pytest.fixture
def graph() -> Graph:
    return parse(TEXT)


def node(graph: Graph, name: str) -> Node:
    return next(n for part in graph.graphs() for n in part.nx if n.name == name)


def quantize(value: Value, **changes: object) -> None:
    value.quant = replace(grid([-1.0] * 3, [1.0] * 3, DType.INT8, axis=1), **changes)


def store(value: Value, integers: list[object]) -> None:
    value.quant = replace(grid(-1.0, 1.0, DType.INT8), integers=np.array(integers))


def body_of(graph: Graph) -> Graph:
    return node(graph, "if").bodies["then_branch"]


Damage = Callable[[Graph], object]
DAMAGES: list[tuple[str, str, Damage]] = [
    ("uses-recorded", "Relu 'relu' reads 't'", lambda g: g.find("t").uses.clear()),
    (
        "uses-true",
        "'w' has a use as operand 5 of Mul 'mul'",
        lambda g: g.find("w").uses.update({(node(g, "mul"), 5): None}),
    ),
    (
        "uses-true",
        "'w' has a use by Add, which is not in the graph",
        lambda g: g.find("w").uses.update({(Node("Add"), 0): None}),
    ),
    (
        "edges",
        "no edge from Mul 'mul' to Relu 'relu'",
        lambda g: g.nx.remove_edge(node(g, "mul"), node(g, "relu")),
    ),
    (
        "edges",
        "edge from Relu 'relu' to If 'if', which reads none",
        lambda g: g.nx.add_edge(node(g, "relu"), node(g, "if")),
    ),
    ("producers", "result 0 of Mul 'mul'", lambda g: setattr(g.find("t"), "index", 1)),
    (
        "producers",
        "result 't' .* constant",
        lambda g: setattr(g.find("t"), "const", g.find("w").const),
    ),
    ("operands-exist", "Mul 'mul' reads 'x'", lambda g: g.inputs.pop()),
    ("operands-exist", "Neg 'neg' reads 't'", lambda g: body_of(g).captures.clear()),
    ("acyclic", "cycle through (Mul|Relu)", lambda g: g.set_input(node(g, "mul"), 1, g.find("y"))),
    ("ranks", "has the rank of", lambda g: setattr(node(g, "mul"), "rank", node(g, "relu").rank)),
    ("inputs", "listed twice", lambda g: g.inputs.append(g.inputs[0])),
    ("inputs", "input 't' is a result", lambda g: g.inputs.append(g.find("t"))),
    ("inputs", "input 'w' holds constant data", lambda g: g.inputs.append(g.find("w"))),
    ("outputs", "2 outputs have 3 names", lambda g: g.output_names.append("more")),
    ("outputs", "output 1 has no value", lambda g: g.set_input(g.sink, 1, None)),
    ("interface", "two inputs are called 'x'", lambda g: setattr(g.inputs[0], "name", "x")),
    ("interface", "an input has no name", lambda g: setattr(g.inputs[0], "name", "")),
    ("interface", "two outputs are called 'y'", lambda g: setattr(g, "output_names", ["y", "y"])),
    ("interface", "'x' has the name of an input", lambda g: setattr(g, "output_names", ["x", "y"])),
    ("constants", "constant 'w'", lambda g: setattr(g.find("w"), "dtype", DType.INT8)),
    ("constants", "constant 'w'", lambda g: setattr(g.find("w"), "shape", (4,))),
    ("captures", "Relu 'relu' captures values", lambda g: g.capture(node(g, "relu"), g.find("w"))),
    (
        "captures",
        "'t' in then_branch of If 'if' stands for capture 7",
        lambda g: body_of(g).captures.update({next(iter(body_of(g).captures)): 7}),
    ),
    (
        "captures",
        "'t' in then_branch of If 'if' is .*INT8",
        lambda g: (
            setattr(next(iter(body_of(g).captures)), "dtype", DType.INT8),
            setattr(g.find("t"), "dtype", DType.FLOAT),
        ),
    ),
    ("opsets", "Mul 'mul' .* set 'my'", lambda g: setattr(node(g, "mul"), "domain", "my")),
    ("opsets", "then_branch of If 'if': Neg", lambda g: setattr(node(g, "neg"), "domain", "my")),
    ("grids", "not an integer type", lambda g: quantize(g.find("y"), dtype=DType.FLOAT)),
    (
        "grids",
        "only constants are stored in half",
        lambda g: quantize(g.find("y"), dtype=DType.FLOAT16),
    ),
    ("grids", "cannot be stored", lambda g: quantize(g.inputs[0])),
    ("grids", "positive", lambda g: quantize(g.find("y"), scale=np.float32([1, 0, 1]))),
    ("grids", "zero points must lie", lambda g: quantize(g.find("y"), zero_point=np.full(3, 300))),
    ("grids", r"\[3\] scales, \[2\] zero", lambda g: quantize(g.find("y"), zero_point=np.zeros(2))),
    ("grids", "scales but no axis", lambda g: quantize(g.find("y"), axis=None)),
    ("grids", "axis 2 of a tensor of rank 2", lambda g: quantize(g.find("y"), axis=2)),
    ("grids", r"needs \[2\]", lambda g: quantize(g.find("y"), axis=0)),
    ("grids", r"needs \[2, 2\]", lambda g: quantize(g.find("y"), block=2)),
    ("grids", "for a constant", lambda g: quantize(g.find("y"), integers=np.zeros((2, 3)))),
    ("grids", "integers must lie", lambda g: store(g.find("w"), [1, 0, 300])),
    ("grids", "of their shape", lambda g: store(g.find("w"), [[1, 0, 2]])),
    (
        "one-owner",
        "'w' is in 'g' and in 'yes'",
        lambda g: body_of(g).set_input(node(g, "neg"), 0, g.find("w")),
    ),
]


def test_a_sound_graph_passes(graph: Graph) -> None:
    quantize(graph.find("y"))
    graph.find("w").quant = grid([-1.0] * 3, [1.0] * 3, DType.INT8, axis=-1)
    blocks = grid(np.full((1, 3), -1.0), np.ones((1, 3)), DType.INT4, axis=0, block=32)
    graph.find("z").quant = blocks
    verify(graph)


@pytest.mark.parametrize(
    ("check", "message", "damage"), DAMAGES, ids=[f"{d[0]}:{d[1]}" for d in DAMAGES]
)
def test_damage_is_found(graph: Graph, check: str, message: str, damage: Damage) -> None:
    damage(graph)
    with pytest.raises(GraphError, match=rf"(?m)\[{check}\].*{message}"):
        verify(graph)


def test_every_check_has_a_test() -> None:
    assert {check for check, _, _ in DAMAGES} == {*CHECKS, "one-owner"}


def test_all_problems_are_reported_at_once(graph: Graph) -> None:
    graph.find("t").index = 1
    graph.output_names.append("more")
    with pytest.raises(GraphError, match=r"(?s)\[producers\].*\[outputs\]"):
        verify(graph)


def test_a_long_list_is_cut(graph: Graph) -> None:
    for k in range(50):
        graph.find("w").uses[Node(f"Op{k}"), 0] = None
    with pytest.raises(GraphError, match=r"and 30 more$"):
        verify(graph)


def test_functions_are_checked_too() -> None:
    graph = parse("""
        <ir_version: 10, opset_import: ["": 21, "my": 1]>
        g (float x) => (float y) { y = my.f(x) }
        <domain: "my", opset_import: ["": 21]> f (a) => (b) { b = Relu(a) }""")
    verify(graph)
    next(iter(graph.info.functions.values())).inputs.clear()
    with pytest.raises(GraphError, match="function my::f: Relu 'b' reads 'a'"):
        verify(graph)


def test_edits_keep_a_graph_sound(graph: Graph) -> None:
    t = graph.find("t")
    graph.replace(t, graph.add("Identity", [t]).output)
    with pytest.raises(GraphError, match="acyclic"):
        verify(graph)  # the Identity reads itself now
    graph = parse(TEXT)
    t = graph.find("t")
    identity = graph.add("Identity", [graph.inputs[1]])
    graph.replace(t, identity.output)
    graph.sweep()
    verify(graph)
