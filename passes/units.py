"""Operators as an engine sees them: a producer with what melts into it, and what forbids integers.

A unit is one operator, together with the activation function that its integer kernel computes on
the way out. The grid of a unit's result belongs behind that function, never between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..ir import DType, Graph, Node, QuantInfo, Value
from ..ir.grid_rule import GridRule
from ..ir.target import Kind, Target
from .base import single_reader
from .pattern import scalar
from .quantized import ALREADY, quantized_already
from .select import rule_of, selects

if TYPE_CHECKING:
    from .place import Explanation

DATA_INPUTS = {"Concat": None, "Add": 2, "Mul": 2, "Sub": 2, "MatMul": 2}
"""Operators with several activations: how many leading inputs; None for all. Others have one."""
WEIGHT_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}
INPUT_AXIS = {"Conv": 1, "ConvTranspose": 0, "MatMul": -2}
CLAMPS = ("Relu", "Clip")
MOST_PRODUCTS = (2**31 - 1) // 255**2
"""Of two 8-bit activations; those of weights are bounded by the weights, see `sums`."""


@dataclass(eq=False)
class Unit:
    """An operator and the function fused behind it.

    Attributes:
        node: the operator.
        after: the function fused behind it, None when there is none.
        kind: class of the operator for the target, None when it stays float.
        reason: why it must stay float, empty when it may run in integers.
        integer: decided by the plan.
        explanation: why it is in float, when the plan left it there.
    """

    node: Node
    after: Node | None
    kind: Kind | None
    reason: str = ""
    integer: bool = False
    explanation: Explanation | None = None

    @property
    def result(self) -> Value:
        """What other units read."""
        return (self.after or self.node).output

    @property
    def results(self) -> list[Value]:
        """All results; several for Split."""
        return [self.result] if self.after else list(self.node.outputs)


def makers_and_readers(units: Sequence[Unit]) -> tuple[dict[Value, int], dict[Node, int]]:
    """Which unit makes a tensor, and to which unit an operator belongs, by their numbers."""
    makers = {value: k for k, unit in enumerate(units) for value in unit.results}
    readers = {n: k for k, u in enumerate(units) for n in (u.node, u.after) if n is not None}
    return makers, readers


def data_inputs(node: Node) -> list[tuple[int, Value]]:
    """(slot, value) of the operands that a quantized operator reads as activations."""
    count = DATA_INPUTS.get(node.op, 1)
    slots = range(len(node.inputs) if count is None else min(count, len(node.inputs)))
    return [(s, v) for s in slots if (v := node.inputs[s]) is not None and s != weight_slot(node)]


def weight_slot(node: Node) -> int | None:
    """Slot of the constant weights, None when the operator has none."""
    if node.is_op("Conv", "ConvTranspose", "Gemm"):
        return 1
    if node.is_op("MatMul") and node.inputs[1] is not None and node.inputs[1].is_constant:
        return 1
    return None


def integer_layers(graph: Graph) -> Iterator[tuple[Node, Value, QuantInfo]]:
    """Operators planned to run in integers that have weights, with these and their grid."""
    for node in graph.order():
        slot = weight_slot(node)
        weights = node.inputs[slot] if slot is not None else None
        if node.precision == "int8" and weights is not None and weights.quant is not None:
            yield node, weights, weights.quant


def bias_slot(node: Node) -> int | None:
    """Slot of the bias, None when the operator has none by definition."""
    return 2 if node.is_op("Conv", "ConvTranspose", "Gemm") else None


def weight_axis(node: Node) -> int:
    """The output-channel axis of the weights."""
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return WEIGHT_AXIS[node.op]


def input_axis(node: Node) -> int:
    """The axis of the weights along which products are summed (for Conv within a group)."""
    if node.op == "Gemm":
        return 1 if node.attrs.get("transB", 0) else 0
    return INPUT_AXIS[node.op]


def clamp_limits(node: Node) -> tuple[float, float] | None:
    """Bounds of a Relu, or of a Clip with constant bounds; None for anything else."""
    if node.is_op("Relu"):
        return 0.0, np.inf
    if not node.is_op("Clip"):
        return None
    low, high = node.input(1), node.input(2)
    bounds = (-np.inf if low is None else scalar(low), np.inf if high is None else scalar(high))
    if bounds[0] is None or bounds[1] is None:
        return None
    return float(bounds[0]), float(bounds[1])


def find_units(graph: Graph, target: Target, exclude: Sequence[str] = ()) -> list[Unit]:
    """The units of `graph` in topological order, each with the reason why it must stay float."""
    left_out = excluded(graph, exclude) | dict.fromkeys(quantized_already(graph), ALREADY)
    units: list[Unit] = []
    melted: set[Node] = set()
    for node in graph.order():
        if node in melted:
            continue
        kind = target.kind(node.op) if not node.domain else None
        after = fused_function(node, target)
        if after is not None and (node in left_out or after in left_out):
            after = None
        reason = left_out.get(node) or obstacle(node, kind, target)
        if after is not None and reason:
            after = None
        if after is not None:
            melted.add(after)
        units.append(Unit(node, after, kind, reason))
    return units


def excluded(graph: Graph, exclude: Sequence[str]) -> dict[Node, str]:
    """The operators that patterns of the user keep in float, with the reason to report."""
    return {
        node: f"excluded by '{pattern}'"
        for node in graph.order()
        for pattern in exclude
        if selects(pattern, node)
    }


def fused_function(node: Node, target: Target) -> Node | None:
    """The function behind `node` that its integer kernel computes too, None when there is none."""
    after = single_reader(node.output) if len(node.outputs) == 1 and not node.domain else None
    if after is None or after.domain or after.op not in target.fused.get(node.op, ()):
        return None
    if after.input(0) is not node.output or after.captures:
        return None
    if after.op in CLAMPS:
        limits = clamp_limits(after)
        if limits is None or not limits[0] <= 0.0 <= limits[1]:
            return None
    return after


def obstacle(node: Node, kind: Kind | None, target: Target) -> str:
    """Why `node` cannot run in integers on `target`; empty when it can."""
    if kind is None:
        return f"{target.name} has no integer kernel for {node.op}"
    if node.captures:
        return "reads values inside a body"
    activations = data_inputs(node)
    if not activations or all(v.const is not None for _, v in activations):
        return "has no activation to quantize"
    for value in (*(v for _, v in activations), *node.outputs):
        if value.dtype is not DType.FLOAT:
            found = "an unknown type" if value.dtype is None else value.dtype.name.lower()
            return f"computes in {found}, not in float"
    return _special_case(node, kind) or miscomputed(node, rule_of(node, target))


def _special_case(node: Node, kind: Kind) -> str:
    """Conditions of single operators."""
    slot = weight_slot(node)
    if slot is not None and not (node.inputs[slot] is not None and _constant(node.inputs[slot])):
        return "its weights are not constant"
    other = read_otherwise(node)
    if other is not None:
        return f"its weights are those of {other.label}, too, which reads them another way"
    if node.op == "Gemm":
        scaled = any(abs(node.attrs.get(k, 1.0) - 1.0) > 0 for k in ("alpha", "beta"))
        if scaled or node.attrs.get("transA", 0):
            return "has alpha, beta or transA"
        if node.input(2) is not None and not (_constant(node.inputs[2]) and _is_row(node)):
            return "its bias is not one constant per column"
    if node.op in ("Conv", "ConvTranspose") and node.input(2) and not _constant(node.inputs[2]):
        return "its bias is not constant"
    length = _products(node)
    if length > MOST_PRODUCTS:
        return f"a sum of {length} products could exceed 32 bits"
    if node.op == "MaxPool" and len(node.outputs) > 1:
        return "returns indices"
    if node.op == "Resize" and node.attrs.get("mode", "nearest") not in (
        b"nearest",
        "nearest",
        "linear",
    ):
        return f"interpolates by {node.attrs['mode']}"
    if kind == "agnostic" and node.inputs[0] is not None and node.inputs[0].const is not None:
        return "moves constant data"
    return ""


def _products(node: Node) -> int:
    """How many products of two activations a MatMul sums up, 0 where that is unknown."""
    data = node.inputs[0] if node.is_op("MatMul") and weight_slot(node) is None else None
    last = data.shape[-1] if data is not None and data.shape else None
    return last if isinstance(last, int) else 0


def miscomputed(node: Node, rule: GridRule | None) -> str:
    """Why ONNX Runtime would compute wrongly with weights stored so; empty when it does not.

    Found with version 1.32: products of floats with 2-bit matrices, see tests/passes/test_low_bits.
    """
    weights = node.input(1) if node.is_op("MatMul", "Gemm") else None
    if rule is None or rule.dtype.bits > 2 or weights is None or not weights.shape:
        return ""
    columns = weights.shape[-1]
    if node.attrs.get("transB", 0) or (isinstance(columns, int) and columns % 4 == 0):
        return ""
    return "ONNX Runtime errs with 2-bit weights unless their columns are a multiple of 4"


def read_otherwise(node: Node) -> Node | None:
    """An operator that multiplies by the weights of `node` along other axes, None without."""
    slot = weight_slot(node)
    weights = node.inputs[slot] if slot is not None else None
    for other, at in weights.uses if weights is not None else ():
        if other is not node and at == weight_slot(other) and _axes(other) != _axes(node):
            return other
    return None


def _axes(node: Node) -> tuple[int, int]:
    """Output and input axis of the weights, counted from the front."""
    weights = node.inputs[1]
    rank = (weights.rank if weights is not None else None) or 2
    return weight_axis(node) % rank, input_axis(node) % rank


def _constant(value: Value | None) -> bool:
    return value is not None and value.is_constant


def _is_row(node: Node) -> bool:
    """True when a Gemm's bias has one entry per column."""
    bias, weights = node.inputs[2], node.inputs[1]
    assert bias is not None and weights is not None
    assert bias.const is not None and weights.const is not None
    return bool(bias.const.size == weights.const.shape[weight_axis(node)])
