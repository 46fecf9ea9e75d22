"""What operators and conversions cost on a target: measured where they were, else estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..ir import Node, Value
from ..ir.target import Target
from ..ir.timings import Source
from .units import Unit, weight_slot

FREE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that engines carry out by giving memory another shape."""
SOURCES: tuple[Source, ...] = ("measured", "scaled", "estimated")


@dataclass(frozen=True)
class Times:
    """Nanoseconds of an operator.

    Attributes:
        in_float: with what is fused into it.
        in_integers: the same, infinite where there is no kernel.
        source: that of the less certain of the two.
        apart: how much longer each takes where the operand comes in the other precision, in float
            and in integers: engines keep images in a layout that suits the products around.
    """

    in_float: float
    in_integers: float
    source: Source
    apart: tuple[float, float] = (0.0, 0.0)


def elements(value: Value) -> int:
    """Elements of a tensor; a batch of 1 and 16 for every other unknown dimension."""
    if value.shape is None:
        return 4096
    known = [d if isinstance(d, int) else (1 if k == 0 else 16) for k, d in enumerate(value.shape)]
    return math.prod(known)


def operations(node: Node) -> int:
    """Multiplications and additions of a Conv, ConvTranspose, Gemm or MatMul; 0 for others."""
    slot = 1 if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") else None
    if slot is None or node.inputs[slot] is None:
        return 0
    weights = node.inputs[slot]
    assert weights is not None
    if node.op == "MatMul" or node.op == "Gemm":
        shape = weights.shape or (16, 16)
        inner = shape[-1] if node.attrs.get("transB", 0) else shape[-2:][0]  # a vector has one axis
        return 2 * elements(node.output) * (inner if isinstance(inner, int) else 16)
    per_output = elements(weights) // _channels(weights)
    base = node.output if node.op == "Conv" else node.inputs[0]
    assert base is not None
    return 2 * elements(base) * per_output


def kind_of(node: Node) -> str:
    """The class by which times are kept: type, kernel, strides, dilations, groups."""
    words = [node.op if not node.domain else f"{node.domain}:{node.op}"]
    weights = node.input(1) if node.is_op("Conv", "ConvTranspose") else None
    kernel = (weights.shape or ())[2:] if weights is not None else node.attrs.get("kernel_shape")
    if kernel:
        words.append("x".join(map(str, kernel)))
    for key, letter in (("strides", "s"), ("dilations", "d")):
        steps = node.attrs.get(key) or ()
        if any(step != 1 for step in steps):
            words.append(letter + "x".join(map(str, dict.fromkeys(steps))))
    groups = node.attrs.get("group", 1)
    if groups > 1 and weights is not None:
        words.append("depthwise" if weights.shape and weights.shape[1] == 1 else "grouped")
    first = node.input(0)
    if len(words) == 1 and first is not None and first.rank == 5:
        words.append("3D")
    return " ".join(words)


def work_of(node: Node) -> float:
    """Operations of a product, else the elements of the largest tensor in or out."""
    return operations(node) or largest(node)


def largest(node: Node) -> int:
    """Elements of the largest operand or result."""
    found = (*node.outputs, *(v for v in node.inputs if v is not None))
    return max((elements(value) for value in found), default=0)


def shape_of(value: Value | None) -> str:
    """A shape as text, "?" where a dimension is unknown."""
    if value is None or value.shape is None:
        return "?"
    return "x".join(str(d) if isinstance(d, int) else "?" for d in value.shape)


def unit_times(unit: Unit, target: Target) -> Times:
    """Nanoseconds of an operator with what is fused into it."""
    node, timings = unit.node, target.timings
    key = kind_of(node), shape_of(node.outputs[0]), work_of(node)
    found: list[tuple[float, Source]] = []
    apart: list[float] = []
    for integer, rough in zip((False, True), estimate(unit, target), strict=True):
        known = None if node.op in FREE else timings.find(*key, integer=integer)
        found.append(known or (rough * timings.pace(integer=integer), "estimated"))
        other = timings.find(*key, integer=integer, apart=True) if known else None
        apart.append(max(other[0] - found[-1][0], 0.0) if other else 0.0)
    (slow, slow_source), (fast, fast_source) = found
    if unit.reason:
        return Times(slow, np.inf, slow_source)
    source = max(slow_source, fast_source, key=SOURCES.index)
    return Times(slow, fast, source, (apart[0], apart[1]))


def conversion_times(value: Value, target: Target) -> tuple[float, float]:
    """Nanoseconds to quantize and to dequantize a tensor."""
    size, timings = elements(value), target.timings
    rough = (
        ("QuantizeLinear", target.costs.quantize),
        ("DequantizeLinear", target.costs.dequantize),
    )
    quantize, dequantize = (
        found[0]
        if (found := timings.find(op, str(size), size, integer=True))
        else per_element * size * timings.pace(integer=True)
        for op, per_element in rough
    )
    return quantize, dequantize


def layout_times(value: Value, target: Target) -> tuple[float, float]:
    """Nanoseconds to bring an image from the layout of float convolutions to that of integer ones.

    And back: what converting it between two of them takes longer than converting it by itself.
    Nothing where that was not measured.
    """
    if value.rank != 4:
        return 0.0, 0.0
    size, key = elements(value), str(elements(value))
    there, back = (
        max(image[0] - by_itself, 0.0)
        if (image := target.timings.find(f"{op} image", key, size, integer=True))
        else 0.0
        for op, by_itself in zip(
            ("QuantizeLinear", "DequantizeLinear"), conversion_times(value, target), strict=True
        )
    )
    return there, back


def estimate(unit: Unit, target: Target) -> tuple[float, float]:
    """Float and integer nanoseconds by the target's rough costs."""
    costs, node = target.costs, unit.node
    if unit.kind == "compute":
        return _compute_times(node, target)
    if node.is_op(*FREE):
        return 0.0, 0.0
    dims = f"{(node.inputs[0].rank or 4) - 2}D" if node.inputs and node.inputs[0] else ""
    usual = costs.operators.get(node.op, (costs.light, costs.light))
    slow, fast = costs.operators.get(node.op + dims, usual)
    size = largest(node)
    return slow * size, fast * size


def _compute_times(node: Node, target: Target) -> tuple[float, float]:
    """Float and integer nanoseconds of a Conv, ConvTranspose, Gemm or MatMul."""
    costs, work = target.costs, operations(node)
    slot = weight_slot(node)
    weights = node.inputs[slot] if slot is not None else None
    count = elements(weights) if weights is not None else 0
    slow_read, fast_read = costs.weights[0] * count, costs.weights[1] * count
    if not node.is_op("Conv") or node.output.rank != 5 or node.inputs[1] is None:
        return slow_read + work / costs.gops[0], fast_read + work / costs.gops[1]
    patches = work / 2 / _channels(node.inputs[1])
    slow, fast = costs.volume_gops
    return slow_read + work / slow, fast_read + work / fast + costs.volume_gather * patches


def _channels(weights: Value) -> int:
    """First dimension of the weights."""
    first = weights.shape[0] if weights.shape else 1
    return first if isinstance(first, int) and first > 0 else 1
