"""A model for the C executor: tensors, operators and constants, and their serialized form."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
MAGIC = b"ptqmdl01"
ABSENT = -1


class Type(IntEnum):
    """Element types, as `ptq_dtype` numbers them."""

    U8 = 0
    S8 = 1
    S16 = 2
    S32 = 3
    S64 = 4
    F32 = 5
    S4 = 6
    U4 = 7


NUMPY: dict[Type, np.dtype[Any]] = {
    Type.U8: np.dtype(np.uint8),
    Type.S8: np.dtype(np.int8),
    Type.S16: np.dtype(np.int16),
    Type.S32: np.dtype(np.int32),
    Type.S64: np.dtype(np.int64),
    Type.F32: np.dtype(np.float32),
}
TYPES = {dtype: kind for kind, dtype in NUMPY.items()}


class Role(IntEnum):
    """What a tensor is, as `ptq_role` numbers it."""

    TEMPORARY = 0
    INPUT = 1
    OUTPUT = 2
    CONSTANT = 3
    VIEW = 4
    GRID = 5


class Kind(IntEnum):
    """Operators, as `ptq_kind` numbers them; kernels.h says what each takes."""

    CONV = 0
    CONV_TRANSPOSE = 1
    MATMUL = 2
    BLOCK_GEMM = 3
    MAX_POOL = 4
    AVERAGE_POOL = 5
    ADD = 6
    SUB = 7
    MUL = 8
    CONCAT = 9
    LUT = 10
    SOFTMAX = 11
    RESIZE = 12
    COPY = 13
    GATHER = 14
    REDUCE_MEAN = 15
    ARG_MAX = 16
    QUANTIZE = 17
    DEQUANTIZE = 18
    FUNCTION = 19
    ROI_ALIGN = 20


class Function(IntEnum):
    """Functions of reals, as `ptq_function_kind` numbers them; kernels.h has their formulas."""

    HARD_SIGMOID = 0
    HARD_SWISH = 1
    LEAKY_RELU = 2
    ELU = 3
    SIGMOID = 4
    SWISH = 5
    TANH = 6
    GELU = 7
    GELU_TANH = 8


@dataclass
class Tensor:
    """One tensor: its type, role, shape and grid."""

    dtype: Type
    role: Role
    shape: tuple[int, ...]
    scale: float = 1.0
    zero_point: int = 0
    offset: int = 0


@dataclass
class Op:
    """One operator over tensor numbers, `ABSENT` for an operand left out; identity counts.

    `label` is what messages call it, `nodes` names the ONNX nodes it computes.
    """

    kind: Kind
    inputs: list[int]
    outputs: list[int]
    attrs: list[int]
    label: str
    nodes: list[str] = field(default_factory=list)


@dataclass
class Model:
    """Tensors, operators in execution order, and the bytes of the constants.

    Inputs and outputs of a run are the tensors of those roles, in the order of their numbers.
    """

    tensors: list[Tensor] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)

    def tensor(
        self,
        dtype: Type,
        shape: Iterable[int],
        scale: float = 1.0,
        zero_point: int = 0,
        role: Role = Role.TEMPORARY,
        offset: int = 0,
    ) -> int:
        """Add a tensor; its number."""
        dims = tuple(int(d) for d in shape)
        self.tensors.append(Tensor(dtype, role, dims, float(scale), int(zero_point), offset))
        return len(self.tensors) - 1

    def constant(
        self,
        array: Array,
        scale: float = 1.0,
        zero_point: int = 0,
        dtype: Type | None = None,
        shape: Iterable[int] | None = None,
    ) -> int:
        """Add a constant; `dtype` and `shape` name those of packed 4-bit data."""
        self.data += bytes(-len(self.data) % 8)
        offset = len(self.data)
        self.data += np.ascontiguousarray(array).tobytes()
        kind = TYPES[array.dtype] if dtype is None else dtype
        dims = array.shape if shape is None else shape
        return self.tensor(kind, dims, scale, zero_point, Role.CONSTANT, offset)

    def grid(self, like: int) -> int:
        """Add a grid without storage, that of tensor `like`."""
        t = self.tensors[like]
        return self.tensor(t.dtype, (), t.scale, t.zero_point, Role.GRID)

    def view(self, of: int, shape: Iterable[int]) -> int:
        """Add another shape for the bytes of tensor `of`."""
        t = self.tensors[of]
        base = t.offset if t.role == Role.VIEW else of
        return self.tensor(t.dtype, shape, t.scale, t.zero_point, Role.VIEW, base)

    def op(
        self,
        kind: Kind,
        inputs: Sequence[int],
        outputs: Sequence[int],
        attrs: Sequence[int] = (),
        label: str = "",
        nodes: Sequence[str] = (),
    ) -> Op:
        """Append an operator."""
        numbers = [int(a) for a in attrs]
        self.ops.append(Op(kind, list(inputs), list(outputs), numbers, label, list(nodes)))
        return self.ops[-1]

    def numbers(self, role: Role) -> list[int]:
        """The tensors of one role, in order."""
        return [i for i, t in enumerate(self.tensors) if t.role == role]

    def serialize(self) -> bytes:
        """The bytes that `ptq_model_parse` reads."""
        ints: list[int] = []
        ops = bytearray()
        for op in self.ops:
            ops += struct.pack(
                "<5i", op.kind, len(op.inputs), len(op.outputs), len(op.attrs), len(ints)
            )
            ints += [*op.inputs, *op.outputs, *op.attrs]
        tensors = bytearray()
        for t in self.tensors:
            dims = [*t.shape, *[0] * (8 - len(t.shape))]
            tensors += struct.pack(
                "<4i8ifiq",
                t.dtype,
                t.role,
                len(t.shape),
                t.zero_point,
                *dims,
                t.scale,
                0,
                t.offset,
            )
        header = struct.pack(
            "<8s4iq", MAGIC, len(self.tensors), len(self.ops), len(ints), 0, len(self.data)
        )
        sections = [bytes(tensors), bytes(ops), np.array(ints, "<i4").tobytes(), bytes(self.data)]
        return header + b"".join(s + bytes(-len(s) % 8) for s in sections)
