"""Half precision for what stays in float: smaller weights, and faster where an engine has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import DType, Graph, Node, Value
from ..ir.clone import clone
from ..ir.evaluate import Runner, reduce
from ..ir.reach import out_of_reach
from ..ir.samples import Samples
from ..ir.tensor import Array
from .base import Context, Pass

LARGEST = 65504.0
"""Of half precision."""
OPERATORS = frozenset(
    (
        *("Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv"),
        *("ConvTranspose", "Div", "Elu", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu"),
        *("Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish"),
        *("InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "MatMul", "Max"),
        *("MaxPool", "Min", "Mul", "Neg", "PRelu", "Pad", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sqrt"),
        *("Squeeze", "Sub", "Tanh", "Tile", "Transpose", "Unsqueeze", "Where"),
    )
)
"""Operators whose floats may all be of half precision."""


@dataclass(frozen=True)
class Half(Pass):
    """Compute in half precision what is left in float; what could overflow stays in float32.

    Attributes:
        samples: the largest magnitudes are learned from at most so many.
        margin: values may grow by this factor before they overflow.
    """

    name: ClassVar[str] = "half"
    requires: ClassVar[tuple[str, ...]] = ("quantized",)
    invalidates: ClassVar[tuple[str, ...]] = ("clean",)

    samples: int = 32
    margin: float = 4.0

    def __post_init__(self) -> None:
        """Check the options."""
        if self.samples < 1 or self.margin < 1:
            raise ValueError("samples and margin must be at least 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Convert operators, with casts at the borders."""
        hidden = out_of_reach(graph)
        nodes = [node for node in graph.order() if _may_be_half(node, hidden)]
        values = list(dict.fromkeys(v for node in nodes for v in _floats(node)))
        live = [value for value in values if value.const is None]
        reached = largest(graph, live, context.need_samples(self.name).head(self.samples))
        reached |= {v: _magnitude(v.numpy()) for v in values if v.const is not None}
        chosen: dict[Node, None] = {}
        for node in nodes:
            worst = max(_floats(node), key=lambda value: reached[value])
            limit = LARGEST / (1.0 if worst.const is not None else self.margin)
            if reached[worst] <= limit:
                chosen[node] = None
            else:
                context.report.skip(f"reaches {reached[worst]:.3g}, too much for half", node)
        context.report.matched, context.report.rewritten = len(nodes), len(chosen)
        casts = convert(graph, chosen)
        context.report.note(f"{len(chosen)} operators in half precision, {casts} casts")


def _may_be_half(node: Node, hidden: Collection[Value]) -> bool:
    floats = _floats(node)
    return (
        not node.domain
        and node.op in OPERATORS
        and node.precision != "int8"
        and not node.captures
        and bool(floats)
        and all(value.dtype is DType.FLOAT for value in floats)
        and not any(value in hidden for value in floats)
    )


def _floats(node: Node) -> list[Value]:
    """Operands and results that are reals of any width."""
    values = (*node.inputs, *node.outputs)
    return [v for v in values if v is not None and (v.dtype is None or v.dtype.is_float)]


def largest(graph: Graph, values: Iterable[Value], samples: Samples) -> dict[Value, float]:
    """The largest magnitude of each value on all samples."""
    wanted = list(values)
    copy, where = clone(graph)
    fetch = []
    for value in wanted:
        size = copy.add("Abs", [where[value]]).output
        size.dtype, size.shape = value.dtype, value.shape
        fetch.append(reduce(copy, size, "ReduceMax", None))
    runner, found = Runner(copy, fetch), np.zeros(len(wanted))
    for feeds in samples if wanted else ():
        found = np.maximum(found, [float(one) for one in runner.run(feeds)])
    return dict(zip(wanted, found.tolist(), strict=True))


def _magnitude(data: Array) -> float:
    return float(np.abs(data).max(initial=0.0))


def convert(graph: Graph, chosen: Collection[Node]) -> int:
    """Make `chosen` compute in half precision; how many casts that takes."""
    made = {value for node in chosen for value in node.outputs}
    halves: dict[Value, Value] = {}
    for node in chosen:
        for slot, value in enumerate(node.inputs):
            if value is None or value in made or value.dtype is not DType.FLOAT:
                continue
            if value not in halves and value.const is not None:
                halves[value] = graph.constant(value.numpy().astype(np.float16), value.name)
            elif value not in halves:
                halves[value] = _cast(graph, value, DType.FLOAT16, node)
            graph.set_input(node, slot, halves[value])
    casts = sum(value.const is None for value in halves.values())
    for value in made:
        if value.dtype is not DType.FLOAT:
            continue
        outside = [(reader, slot) for reader, slot in value.uses if reader not in chosen]
        if outside:
            assert value.producer is not None
            back = _cast(graph, value, DType.FLOAT, value.producer)
            for reader, slot in outside:
                graph.set_input(reader, slot, back)
            casts += 1
        value.dtype = DType.FLOAT16
    graph.sweep()
    return casts


def _cast(graph: Graph, value: Value, dtype: DType, like: Node) -> Value:
    result = graph.add("Cast", [value], {"to": int(dtype)}, like=like).output
    result.name, result.dtype, result.shape = (
        f"{value.name}_{dtype.name.lower()}",
        dtype,
        value.shape,
    )
    return result
