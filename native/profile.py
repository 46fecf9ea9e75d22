"""What a profile tells of each operator."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .model import ABSENT, Kind, Model, Op, Role, Type

BITS = {Type.S4: 4, Type.U4: 4, Type.U8: 8, Type.S8: 8, Type.S16: 16, Type.S64: 64}
"""Of an element; 32 for the others."""


@dataclass(frozen=True)
class Operand:
    """Type ("u8", "s8", "f32"...) and dimensions as stored, channels last; None if unknown."""

    type: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class OperatorTime:
    """One operator of a profile.

    Attributes:
        label: the ONNX nodes that messages name.
        nodes: all ONNX nodes it computes, Q/DQ included; by name, or first output where unnamed.
        op: the kind that ran: "conv", "lut"...; "onnxruntime" for a part that it ran.
        precision: "integer", or "float" for such a part.
        kernel: the kernel chosen.
        inputs, outputs: what it reads, constants included, and writes.
        operations: multiplications and additions of convolutions and matrix products, padding
            counted; 0 for others.
        bytes: of inputs and outputs, each once.
        nanoseconds: time of this run.
    """

    label: str
    nodes: tuple[str, ...]
    op: str
    precision: str
    kernel: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    operations: int
    bytes: int
    nanoseconds: int


def operator_time(model: Model, op: Op, kernel: str, nanoseconds: int) -> OperatorTime:
    """The time of one operator of a model."""
    read = [n for n in op.inputs if n != ABSENT and model.tensors[n].role != Role.GRID]
    return OperatorTime(
        op.label,
        tuple(op.nodes),
        op.kind.name.lower(),
        "integer",
        kernel,
        _operands(model, read),
        _operands(model, op.outputs),
        2 * _products(model, op),
        sum(_bytes(model, n) for n in [*read, *op.outputs]),
        nanoseconds,
    )


def _operands(model: Model, numbers: Iterable[int]) -> tuple[Operand, ...]:
    tensors = (model.tensors[n] for n in numbers)
    return tuple(Operand(t.dtype.name.lower(), t.shape) for t in tensors)


def _bytes(model: Model, number: int) -> int:
    tensor = model.tensors[number]
    return (math.prod(tensor.shape) * BITS.get(tensor.dtype, 32) + 7) // 8


def _products(model: Model, op: Op) -> int:
    """Multiply-accumulates."""
    if op.kind not in (Kind.CONV, Kind.CONV_TRANSPOSE, Kind.MATMUL, Kind.BLOCK_GEMM):
        return 0
    x, w = (model.tensors[n].shape for n in op.inputs[:2])
    results = math.prod(model.tensors[op.outputs[0]].shape)
    if op.kind == Kind.CONV:
        return results * math.prod(w[1:])
    if op.kind == Kind.CONV_TRANSPOSE:
        return math.prod(x[:-1]) * math.prod(w)
    return results * x[-1]
