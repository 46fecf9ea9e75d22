"""QuantizeLinear, DequantizeLinear and the operators that contain them (QLinearConv, ...)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import DType, Graph, Node, Value
from .handlers import HANDLERS, constant_of, handles
from .lowering import Lowering, known_shape
from .model import Array, Type
from .values import (
    ACCUMULATOR,
    LIMITS,
    Abstract,
    Const,
    ConstGrid,
    Declined,
    Grid,
    Pending,
    Raw,
    Target,
    spread,
)

TYPES = {np.dtype(np.uint8): Type.U8, np.dtype(np.int8): Type.S8, np.dtype(np.int16): Type.S16}
WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize")


def _parameters(low: Lowering, node: Node, scale_slot: int, zero_slot: int) -> tuple[Array, Array]:
    scale = constant_of(low, node, scale_slot)
    if scale is None:
        raise Declined("no scale")
    zero = constant_of(low, node, zero_slot)
    if zero is None:
        zero = np.zeros(scale.shape, np.uint8)
    return scale.astype(np.float32), zero


def _feeds_window(value: Value) -> bool:
    """Whether a convolution or pool reads the value, possibly dequantized."""
    for node in value.consumers:
        if node.is_op(*WINDOWED) or node.op in ("QLinearConv", "ConvInteger"):
            return True
        if node.is_op("DequantizeLinear") and any(
            n.is_op(*WINDOWED) for n in node.output.consumers
        ):
            return True
    return False


def quantize_to(low: Lowering, value: Value, scale: Array, zero: Array, result: Value) -> Abstract:
    """`value` rounded to a grid."""
    if scale.size != 1 or zero.size != 1:
        raise Declined("an activation with more than one scale")
    if zero.dtype not in TYPES:
        raise Declined(f"an activation of type {zero.dtype}")
    dtype = TYPES[zero.dtype]
    target = Target(dtype, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), *LIMITS[dtype])
    return Raw(low.quantize(value, target, _feeds_window(result)))


def _rounded(array: Array, scale: Array, zero: Array, axis: int, block: int) -> Array:
    """A constant as integers of the zero point's type."""
    dtype = DType.of(zero)
    if not dtype.is_integer:
        raise Declined(f"a constant of type {zero.dtype}")
    steps = np.rint(array.astype(np.float32) / spread(scale, array.shape, axis, block))
    steps += spread(zero, array.shape, axis, block).astype(np.float32)
    integers: Array = np.clip(steps, *dtype.integer_range).astype(zero.dtype)
    return integers


def dequantize_from(
    found: Abstract | None, scale: Array, zero: Array, axis: int, block: int
) -> Abstract:
    """The reals of integers."""
    if isinstance(found, Const):
        if not DType.of(found.array).is_integer:
            raise Declined(f"a constant of type {found.array.dtype}")
        return ConstGrid(found.array, scale, zero, axis % max(1, found.array.ndim), block)
    if not isinstance(found, Raw) or found.stored.dtype not in LIMITS:
        raise Declined("no 8- or 16-bit integers")
    if scale.size != 1:
        raise Declined("an activation with more than one scale")
    return Grid(found.stored, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))


def _layout(node: Node) -> tuple[int, int]:
    """The axis of the scales, and the elements that share one along it if they are blocks."""
    return int(node.attrs.get("axis", 1)), int(node.attrs.get("block_size", 0))


@handles("QuantizeLinear", "com.microsoft:QuantizeLinear")
def quantize_linear(low: Lowering, node: Node) -> list[Abstract]:
    """One scale and zero point, where it is no constant."""
    scale, zero = _parameters(low, node, 1, 2)
    value = node.inputs[0]
    assert value is not None
    if node.input(2) is None and node.attrs.get("output_dtype", 0):
        zero = zero.astype(DType(node.attrs["output_dtype"]).numpy)
    found = low.values[value]
    if isinstance(found, Const):
        axis, block = _layout(node)
        axis %= max(1, found.array.ndim)
        return [Const(_rounded(found.array, scale, zero, axis, block))]
    return [quantize_to(low, value, scale, zero, node.output)]


@handles("DequantizeLinear", "com.microsoft:DequantizeLinear")
def dequantize_linear(low: Lowering, node: Node) -> list[Abstract]:
    """Constants keep their scales per channel or block."""
    scale, zero = _parameters(low, node, 1, 2)
    assert node.inputs[0] is not None and node.inputs[1] is not None
    if node.inputs[1].dtype not in (None, DType.FLOAT) or node.attrs.get("output_dtype", 1) != 1:
        raise Declined("reals that are not float32")
    return [dequantize_from(low.values.get(node.inputs[0]), scale, zero, *_layout(node))]


Reals = Sequence[Value | None]


def _composed(
    low: Lowering,
    node: Node,
    op: str,
    operands: Sequence[Abstract | None],
    result: tuple[Array, Array] | None,
    attrs: dict[str, object] | None = None,
) -> list[Abstract]:
    """Lower `node` as dequantized operands, the float operator `op`, and quantization."""
    graph = Graph("composed", low.graph.info)
    inputs: list[Value | None] = []
    for found in operands:
        stand_in = None if found is None else Value("operand")
        if stand_in is not None and found is not None:
            low.values[stand_in] = found
        inputs.append(stand_in)
    inner = graph.add(
        op, inputs, dict(node.attrs) if attrs is None else dict(attrs), name=node.name
    )
    shape = known_shape(node.output)
    inner.output.shape, inner.output.dtype = shape, DType.FLOAT
    low.values[inner.output] = HANDLERS[op](low, inner)[0]
    if result is None:
        return [low.values[inner.output]]
    return [quantize_to(low, inner.output, *result, node.output)]


def _operand(low: Lowering, node: Node, slot: int, axis: int = 0) -> Abstract:
    """Operands slot, slot + 1, slot + 2 as a dequantized tensor."""
    scale, zero = _parameters(low, node, slot + 1, slot + 2)
    value = node.input(slot)
    return dequantize_from(low.values.get(value) if value else None, scale, zero, axis, 0)


def _bias(low: Lowering, node: Node, slot: int, scales: Array) -> Abstract | None:
    array = constant_of(low, node, slot)
    if array is None:
        return None
    if array.dtype != np.int32:
        raise Declined("a bias that is not int32")
    return ConstGrid(array, scales, np.zeros(scales.shape, np.int32), 0)


@handles("QLinearConv")
def qlinear_conv(low: Lowering, node: Node) -> list[Abstract]:
    """x, w and y with their scales and zero points, then the bias."""
    x_scale, _ = _parameters(low, node, 1, 2)
    w_scale, _ = _parameters(low, node, 4, 5)
    bias = _bias(low, node, 8, x_scale * w_scale)
    operands = [_operand(low, node, 0), _operand(low, node, 3), bias]
    return _composed(low, node, "Conv", operands, _parameters(low, node, 6, 7))


@handles("QLinearMatMul")
def qlinear_matmul(low: Lowering, node: Node) -> list[Abstract]:
    """a, b and y with their scales and zero points."""
    operands = [_operand(low, node, 0), _operand(low, node, 3, axis=-1)]
    return _composed(low, node, "MatMul", operands, _parameters(low, node, 6, 7))


def _integers(low: Lowering, node: Node, slot: int, zero_slot: int, axis: int = 0) -> Abstract:
    """An operand on the grid of step 1, whose reals are its integers."""
    zero = constant_of(low, node, zero_slot)
    if zero is None:
        zero = np.zeros(1, np.uint8)
    value = node.input(slot)
    found = low.values.get(value) if value else None
    return dequantize_from(found, np.ones(zero.shape, np.float32), zero, axis, 0)


@handles("MatMulInteger", "ConvInteger")
def integer_product(low: Lowering, node: Node) -> list[Abstract]:
    """The accumulator itself, in 32 bits."""
    op = node.op.removesuffix("Integer")
    last = -1 if op == "MatMul" else 0
    operands = [_integers(low, node, 0, 2), _integers(low, node, 1, 3, last)]
    product = _composed(low, node, op, operands, None)[0]
    if not isinstance(product, Pending):
        raise Declined("a product of constants")
    return [Raw(low.finish(product, ACCUMULATOR))]


@handles("com.microsoft:QGemm")
def qgemm(low: Lowering, node: Node) -> list[Abstract]:
    """a, b, the bias, and the grid of y."""
    a_scale, _ = _parameters(low, node, 1, 2)
    b_scale, _ = _parameters(low, node, 4, 5)
    axis = 0 if node.attrs.get("transB", 0) else 1
    operands = [
        _operand(low, node, 0),
        _operand(low, node, 3, axis),
        _bias(low, node, 6, a_scale * b_scale),
    ]
    result = _parameters(low, node, 7, 8) if node.input(7) is not None else None
    return _composed(low, node, "Gemm", operands, result)


@handles("com.microsoft:QLinearAdd", "com.microsoft:QLinearMul")
def qlinear_binary(low: Lowering, node: Node) -> list[Abstract]:
    """a, b and y with their scales and zero points."""
    operands = [_operand(low, node, 0), _operand(low, node, 3)]
    op = node.op.removeprefix("QLinear")
    return _composed(low, node, op, operands, _parameters(low, node, 6, 7), {})


@handles(
    "com.microsoft:QLinearSigmoid",
    "com.microsoft:QLinearLeakyRelu",
    "com.microsoft:QLinearGlobalAveragePool",
    "com.microsoft:QLinearAveragePool",
    "com.microsoft:QLinearSoftmax",
)
def qlinear_unary(low: Lowering, node: Node) -> list[Abstract]:
    """Operand and result with their scales and zero points, channels first."""
    if node.attrs.get("channels_last", 0):
        raise Declined("channels-last operands")
    attrs = {k: v for k, v in node.attrs.items() if k not in ("channels_last", "opset")}
    op = node.op.removeprefix("QLinear")
    return _composed(low, node, op, [_operand(low, node, 0)], _parameters(low, node, 3, 4), attrs)


@handles("com.microsoft:QLinearConcat")
def qlinear_concat(low: Lowering, node: Node) -> list[Abstract]:
    """The grid of y, then each input with its own."""
    operands = [_operand(low, node, slot) for slot in range(2, len(node.inputs), 3)]
    return _composed(low, node, "Concat", operands, _parameters(low, node, 0, 1))
