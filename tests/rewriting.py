"""Small graphs written as text, and passes applied to them with their promise checked."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from ptq_opt.ir import DType, Graph, Node, Value
from ptq_opt.ir.evaluate import Runner
from ptq_opt.ir.samples import random_samples
from ptq_opt.ir.shapes import infer
from ptq_opt.ir.target import find_target
from ptq_opt.ir.tensor import Array
from ptq_opt.ir.text import parse
from ptq_opt.ir.verify import verify
from ptq_opt.passes import Context, Pass, Report
from ptq_opt.passes.invariants import difference


def net(
    body: str,
    inputs: str = "float[1,4,6,6] x",
    outputs: str = "float[] y",
    opset: int = 17,
    **constants: Array,
) -> Graph:
    """The graph with operators `body`; shapes of inner values are inferred."""
    data = ",".join(_initializer(name, array) for name, array in constants.items())
    graph = parse(
        f'<ir_version: 8, opset_import: ["": {opset}, "other": 1]>\n'
        f"g ({inputs}) => ({outputs}) <{data}> {{\n{body}\n}}"
    )
    infer(graph)
    return graph


def _initializer(name: str, array: Array) -> str:
    kind = DType.of(array).name.lower()
    items = array.astype(int) if array.dtype == bool else array
    elements = ",".join(str(item) for item in items.reshape(-1).tolist())
    return f"{kind}[{','.join(map(str, array.shape))}] {name} = {{{elements}}}"


def noise(*shape: int, seed: int = 0, positive: bool = False) -> Array:
    """Normal float32 noise."""
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return np.abs(array) + np.float32(0.1) if positive else array


def normalization(channels: int, seed: int = 1, **others: Array) -> dict[str, Array]:
    """Parameters of a BatchNormalization called gamma, beta, mean and var."""
    names = ("gamma", "beta", "mean", "var")
    made = {n: noise(channels, seed=seed + k, positive=n == "var") for k, n in enumerate(names)}
    return made | others


def run(graph: Graph, count: int = 2) -> list[list[Array]]:
    """Outputs for random samples."""
    runner = Runner(graph)
    return [runner.run(feeds) for feeds in random_samples(graph.inputs, count)]


def apply(item: Pass, graph: Graph, tolerance: float = 1e-5) -> Report:
    """Run one pass; the graph stays valid, and its outputs the same."""
    names = list(graph.output_names)
    before = run(graph)
    report = change(item, graph)
    assert graph.output_names == names
    for expected, found in zip(before, run(graph), strict=True):
        for name, a, b in zip(names, expected, found, strict=True):
            assert difference(a, b) <= tolerance, f"output {name} changed"
    return report


def change(item: Pass, graph: Graph) -> Report:
    """Run one pass on a graph that may not be runnable; it stays valid."""
    context = Context(target=find_target("ort-cpu"))
    item.run(graph, context)
    verify(graph)
    return context.report


def ops(graph: Graph) -> list[str]:
    """Operator types in order."""
    return [node.op for node in graph]


def only(graph: Graph, op: str) -> Node:
    """The one operator of type `op`."""
    (found,) = (node for node in graph if node.op == op)
    return found


def operand(node: Node, slot: int) -> Value:
    """Operand `slot`, which is there."""
    value = node.inputs[slot]
    assert value is not None
    return value


@contextmanager
def installed(passes: Iterable[type[Pass]]) -> Iterator[None]:
    """Make passes known by name, as if they were ours."""
    from ptq_opt.passes import registry

    known = {item.name: item for item in passes}
    table = {**registry.BUILTIN, **dict.fromkeys(known, "")}
    real = registry._builtin

    def find(name: str) -> type[Pass]:
        return known[name] if name in known else real(name)

    with (
        mock.patch.object(registry, "BUILTIN", table),
        mock.patch.object(registry, "_builtin", find),
    ):
        yield
