"""Where two engines round differently: every stored tensor of a model, computed by both.

Each tensor is compared twice. Along the model both engines run on their own, so that differences
pile up; the operator that starts one is found by the second comparison, where our kernels compute
each tensor from the very integers that ONNX Runtime had before it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.table import Table

from ..ir import DType, Graph, Node, Value
from ..ir.clone import clone
from ..ir.evaluate import Runner
from ..ir.tensor import Array
from ..native.program import Program, compile

STORED = (DType.UINT8, DType.INT8, DType.UINT16, DType.INT16)
MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that ONNX Runtime may put between a kernel and the tensor it computes."""
CAUSES = (
    ("softmax", "QLinearSoftmax", "ONNX Runtime multiplies with 1 / step as a whole number"),
    ("add", "QLinearAdd", "order of three additions in float32: ties"),
    ("resize", "", "weights of 1/2048; reals in float32, then divided by the step: ties"),
    ("block_gemm", "", "order of the sums in float32: ties"),
    ("", "in float", "reals in float32, then divided by the step: ties"),
)
"""Our kind of operator, what ONNX Runtime's contains, and what differs; the first that fits."""


@dataclass
class Difference:
    """One stored tensor.

    Attributes:
        node: the operator before its rounding, by its label.
        ours, theirs: what computed it: our kind of operator, ONNX Runtime's operator.
        elements: compared, over all samples.
        along: elements that differ where both engines run the whole model.
        along_steps: the largest of these differences.
        own: elements that differ where both compute from the same integers.
        steps: the largest of these differences.
    """

    node: str
    ours: str
    theirs: str
    elements: int = 0
    along: int = 0
    along_steps: int = 0
    own: int = 0
    steps: int = 0

    @property
    def cause(self) -> str:
        """The rounding that the engines do differently, empty where they agree."""
        if not self.own:
            return ""
        fitting = (text for kind, part, text in CAUSES if kind in self.ours and part in self.theirs)
        return next(fitting, "unknown")


def differences(
    graph: Graph, samples: Iterable[Mapping[str, Array]], options: Mapping[str, Any]
) -> list[Difference]:
    """Every stored tensor of a quantized model in the order of execution.

    Args:
        graph: a QDQ or QOperator model.
        samples: feeds.
        options: of `native.compile`.
    """
    stored = [v for node in graph.order() for v in node.outputs if _is_stored(node, v)]
    whole, where = clone(graph)
    whole.set_outputs([where[v] for v in stored], [f"stored_{i}" for i in range(len(stored))])
    programs = compile(whole, **options), compile(_apart(graph, stored), **options)
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        runner = Runner(whole, threads=options["threads"], optimized=str(optimized))
        theirs = _operators(onnx.load(optimized, load_external_data=False), len(stored))
    rows: list[Difference] = []
    for feeds in samples:
        reference = runner.run(feeds)
        along = programs[0].run(feeds).values()
        given = {**feeds, **{f"given_{i}": array for i, array in enumerate(reference)}}
        own = programs[1].run({name: given[name] for name in programs[1].inputs}).values()
        if not rows:
            kinds = _kinds(programs[1], given, stored)
            labels = [node.label if (node := _source(v)) else "" for v in stored]
            rows = [Difference(*row) for row in zip(labels, kinds, theirs, strict=True)]
        for row, want, *found in zip(rows, reference, along, own, strict=True):
            _count(row, want, *found)
    return rows


def _is_stored(node: Node, value: Value) -> bool:
    """Whether the operator rounds to this tensor; what only moves integers does not."""
    rounds = node.op == "QuantizeLinear" or node.op.startswith(("QLinear", "QGemm"))
    source = node.input(0)
    return rounds and source is not None and not source.is_constant and (
        value.dtype is None or value.dtype in STORED
    )  # fmt: skip


def _apart(graph: Graph, stored: list[Value]) -> Graph:
    """The graph with an input in place of each stored tensor; the outputs are these tensors."""
    apart, where = clone(graph)
    for i, value in enumerate(stored):
        own = where[value]
        apart.replace(own, apart.input(f"given_{i}", own.dtype or DType.UINT8, own.shape))
    apart.set_outputs([where[v] for v in stored], [f"stored_{i}" for i in range(len(stored))])
    apart.sweep()
    apart.inputs = [value for value in apart.inputs if value.uses]
    return apart


def _source(value: Value) -> Node | None:
    """The operator whose result is rounded to a stored tensor."""
    node = value.producer
    while node is not None and node.is_op("QuantizeLinear", "Relu", "Clip"):
        source = node.inputs[0]
        if source is None or source.producer is None or source.producer.op == "DequantizeLinear":
            break
        node = source.producer
    return node


def _operators(model: onnx.ModelProto, count: int) -> list[str]:
    """What computes each of the outputs in the graph that ONNX Runtime runs."""
    makers = {name: node for node in model.graph.node for name in node.output}

    def maker(name: str) -> onnx.NodeProto | None:
        node = makers.get(name)
        while node is not None and node.op_type in MOVES:
            node = makers.get(node.input[0])
        return node

    found = []
    for i in range(count):
        node, text = maker(f"fetch_{i}"), "{}"
        if node is not None and node.op_type == "QuantizeLinear":
            node, text = maker(node.input[0]), "{} in float"
        found.append("" if node is None else text.format(node.op_type))
    return found


def _kinds(program: Program, given: Mapping[str, Array], stored: list[Value]) -> list[str]:
    """Our kind of operator behind each stored tensor."""
    times = program.profile({name: given[name] for name in program.inputs})
    kinds: dict[str, str] = {}
    for time in times:
        for name in time.nodes:
            if kinds.get(name) not in ("conv", "matmul"):
                kinds[name] = time.op
    names = [v.producer.name or v.name for v in stored if v.producer is not None]
    return [kinds.get(name, "") for name in names]


def _count(row: Difference, want: Array, along: Array, own: Array) -> None:
    row.elements += want.size
    if along.shape != want.shape:  # how many boxes are found depends on what differed before
        row.along += want.size
    else:
        row.along, row.along_steps = _more(row.along, row.along_steps, along, want)
    row.own, row.steps = _more(row.own, row.steps, own, want)


def _more(count: int, largest: int, found: Array, want: Array) -> tuple[int, int]:
    steps = np.abs(found.astype(np.int64) - want)
    return count + int(np.count_nonzero(steps)), max(largest, int(steps.max(initial=0)))


def difference_table(rows: list[Difference]) -> Table:
    """Tensors on which the engines differ."""
    table = Table(
        "operator", "ours", "ONNX Runtime's", "along", "max", "own", "max", "rounding",
        box=None, header_style="bold",
    )  # fmt: skip
    for row in rows:
        if row.along or row.own:
            table.add_row(
                row.node[:48], row.ours, row.theirs, f"{row.along / row.elements:.3%}",
                str(row.along_steps), f"{row.own / row.elements:.4%}", str(row.steps), row.cause,
            )  # fmt: skip
    return table
