"""Random edits that do not change what a graph computes keep it sound, savable and printable."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from ptq_opt.ir import Graph, Node, Value, load, save
from ptq_opt.ir.text import parse, print_graph
from ptq_opt.ir.verify import verify

Rng = np.random.Generator
BASE = """
    g (bool c, float[2,3] x, float[2,3] z) => (float[2,3] out, float[2,3] inner, float[2,3] last)
    <float[3] w = {1, -2, 3}> {
        a = Mul(x, w)
        inner = Add(a, z)
        b = Relu(inner)
        d = If (c) <then_branch = yes () => (p) { q = Neg(b) p = Add(q, w) },
                    else_branch = no () => (r) { r = Mul(a, b) }>
        e = Concat <axis = 1> (b, d, b)
        f, g, h = Split <axis = 1, num_outputs = 3> (e)
        out = Sub(f, h)
        last = Add(g, inner)
    }"""


def values(graph: Graph) -> list[Value]:
    return [v for v in graph.values() if v.uses and v not in graph.captures]


def pick(rng: Rng, items: list) -> object:
    return items[rng.integers(len(items))]


def put_identity(rng: Rng, graph: Graph) -> None:
    """Between a value and all its readers."""
    value = pick(rng, values(graph))
    identity = graph.add("Identity", [value])
    for node, slot in list(value.uses):
        if node is not identity:
            graph.set_input(node, slot, identity.output)


def put_negations(rng: Rng, graph: Graph) -> None:
    """Two of them, before one reader."""
    value = pick(rng, [v for v in values(graph) if v.name != "c" and v.origin != "c"])
    node, slot = pick(rng, list(value.uses))
    once = graph.add("Neg", [value], like=node)
    graph.set_input(node, slot, graph.add("Neg", [once.output], like=node).output)


def copy_node(rng: Rng, graph: Graph) -> None:
    """For one of the readers of its first result."""
    node: Node = pick(rng, [n for n in graph if n.outputs[0].uses and not n.bodies])
    twin = graph.add(node.op, node.inputs, node.attrs, len(node.outputs), name=node.name)
    reader, slot = pick(rng, list(node.outputs[0].uses))
    graph.set_input(reader, slot, twin.output)


def copy_constant(rng: Rng, graph: Graph) -> None:
    """For all readers of it."""
    constants = [v for v in values(graph) if v.is_constant]
    if constants:
        old = pick(rng, constants)
        graph.replace(old, graph.constant(old.numpy().copy(), old.name))


def drop_identity(rng: Rng, graph: Graph) -> None:
    found = [n for n in graph if n.op == "Identity" and n.inputs[0] is not None]
    if found:
        node: Node = pick(rng, found)
        graph.replace(node.output, node.inputs[0])
        graph.erase(node)


def sweep(rng: Rng, graph: Graph) -> None:
    graph.sweep()


EDITS = [put_identity, put_negations, copy_node, copy_constant, drop_identity, sweep]


@pytest.mark.parametrize("seed", range(12))
def test_edits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = parse(BASE)
    feeds = {name: rng.standard_normal((2, 3)).astype(np.float32) for name in ("x", "z")}
    feeds["c"] = np.array(bool(seed % 2))
    expected = ReferenceEvaluator(save(graph)).run(None, feeds)
    for _ in range(40):
        part = pick(rng, list(graph.graphs()))
        pick(rng, EDITS)(rng, part)
        verify(graph)
    model = save(graph)
    onnx.checker.check_model(model, full_check=True)
    for again in (model, save(load(model)), save(parse(print_graph(graph, elide=None)))):
        found = ReferenceEvaluator(again).run(None, feeds)
        assert all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))
