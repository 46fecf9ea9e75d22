"""What is known before the model runs becomes a constant."""

from __future__ import annotations

import math

import numpy as np
import onnx

from ...ir import Node, Tensor, Value
from ...ir.tensor import Array
from ...ir.tensor_io import tensor_to_proto
from ..base import Skip
from ..driver import Rewriter, Rule

SMALL = 1 << 16
"""Bytes up to which a result may be larger than what it is computed from."""

ARITHMETIC = (
    *("Abs", "Add", "And", "Cast", "Ceil", "Clip", "Cos", "Div", "Equal", "Exp", "Floor"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul"),
    *("Neg", "Not", "Or", "Pow", "Reciprocal", "Round", "Sign", "Sin", "Sqrt", "Sub", "Sum"),
    *("Where", "Xor", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"),
)
MOVES = (
    *("Concat", "Flatten", "Gather", "Reshape", "Shape", "Size", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
)
GROWS = ("ConstantOfShape", "Expand", "Range", "Tile")
FOLDABLE = (*ARITHMETIC, *MOVES, *GROWS)


def constant_node(node: Node, rw: Rewriter) -> bool:
    """A Constant node becomes an initializer."""
    if len(node.attrs) != 1:
        return False
    ((kind, value),) = node.attrs.items()
    if kind in ("value_float", "value_floats"):
        value = np.asarray(value, np.float32)
    elif kind in ("value_int", "value_ints"):
        value = np.asarray(value, np.int64)
    elif kind in ("value_string", "value_strings"):
        value = np.asarray(value, object)
    elif not isinstance(value, Tensor):
        return False  # sparse
    rw.replace(node.output, rw.graph.constant(value, node.output.name))
    return True


def cast_like(node: Node, rw: Rewriter) -> bool:
    """CastLike of a known type is Cast."""
    like = node.inputs[1]
    if like is None or like.dtype is None or like.dtype.bits < 8 or "FLOAT8" in like.dtype.name:
        return False
    cast = rw.add("Cast", node.inputs[0], name=node.name, like=node.output, to=int(like.dtype))
    rw.replace(node.output, cast)
    return True


def fold(node: Node, rw: Rewriter) -> bool:
    """An operator of constants becomes its result, unless only that is large."""
    operands = [v for v in node.inputs if v is not None]
    if not operands or not all(v.is_constant and v.const for v in operands):
        return False
    size = sum(v.const.nbytes for v in operands if v.const)
    limit = max(SMALL, size * (4 if node.op == "Cast" else 1))
    try:
        large = not _result_bytes(node, operands) <= limit
        arrays = [] if large else _evaluate(node, rw)
    except Exception as error:  # a node that is malformed, or that onnx does not implement
        raise Skip(f"cannot be computed ahead: {type(error).__name__}") from None
    if large:
        raise Skip("its result is large")
    for value, array in zip(node.outputs, arrays, strict=True):
        new = rw.constant(array, value.name)
        new.origin = value.origin
        rw.graph.replace(value, new)
    rw.erase_unused(node)
    return True


def _result_bytes(node: Node, operands: list[Value]) -> float:
    """Bytes of all results, estimated where the shape is not known."""
    widths = [v.dtype.bits / 8 for v in node.outputs if v.dtype]
    itemsize = max(widths) if len(widths) == len(node.outputs) else 8.0
    known = [_size(v) for v in node.outputs]
    if None not in known:
        return float(sum(size * itemsize for size in known if size is not None))
    sizes = [v.const.size for v in operands if v.const]
    if node.op == "ConstantOfShape":
        return float(np.prod(operands[0].numpy(), dtype=np.float64)) * itemsize
    if node.op in ("Expand", "Tile"):
        return sizes[0] * float(np.prod(operands[1].numpy(), dtype=np.float64)) * itemsize
    if node.op == "Range":
        start, stop, step = (float(v.numpy().item()) for v in operands)
        return max(0.0, (stop - start) / step) * itemsize
    if node.op == "Gather":
        return sizes[0] * float(sizes[1]) * itemsize
    if node.op in ARITHMETIC and not node.op.startswith("Reduce"):
        whole = np.broadcast_shapes(*(v.const.shape for v in operands if v.const))
        return math.prod(whole) * float(itemsize)
    return sum(sizes) * float(itemsize)


def _size(value: Value) -> int | None:
    """Number of elements, None when not known."""
    dims = [d for d in value.shape or () if isinstance(d, int)]
    return math.prod(dims) if value.shape is not None and len(dims) == len(value.shape) else None


def _evaluate(node: Node, rw: Rewriter) -> list[Array]:
    """The results by ONNX's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    names = [f"i{k}" if v is not None else "" for k, v in enumerate(node.inputs)]
    proto = onnx.NodeProto(op_type=node.op, input=names)
    proto.output.extend(f"o{k}" for k in range(len(node.outputs)))
    for name, value in node.attrs.items():
        if isinstance(value, onnx.AttributeProto):
            proto.attribute.append(value)
        else:
            held = tensor_to_proto(value) if isinstance(value, Tensor) else value
            proto.attribute.append(onnx.helper.make_attribute(name, held))
    opset = onnx.helper.make_opsetid("", rw.graph.info.opset)
    function = onnx.helper.make_function(
        "", "f", [n for n in names if n], proto.output, [proto], [opset]
    )
    feeds = {n: v.numpy() for n, v in zip(names, node.inputs, strict=True) if v is not None}
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(function).run(None, feeds, attributes={})
    return [
        np.asarray(array, value.dtype.numpy if value.dtype is not None else None)
        for array, value in zip(found, node.outputs, strict=True)
    ]


def shape(node: Node, rw: Rewriter) -> bool:
    """The shape of a value whose dimensions are all known."""
    data = node.inputs[0]
    dims = data.shape if data is not None else None
    if dims is None:
        return False
    if node.op == "Size":
        start, stop = 0, len(dims)
    else:
        start, stop, _ = slice(node.attrs.get("start"), node.attrs.get("end")).indices(len(dims))
    known = [d for d in dims[start:stop] if isinstance(d, int)]
    if len(known) != max(stop - start, 0):
        return False
    array = np.asarray(math.prod(known) if node.op == "Size" else known, np.int64)
    rw.replace(node.output, rw.constant(array, node.output.name))
    return True


def part_of_shape(node: Node, rw: Rewriter) -> bool:
    """Single dimensions of a shape that is only partly known."""
    data = node.inputs[0]
    source = data.producer if data is not None else None
    if source is None or not source.is_op("Shape") or {"start", "end"} & source.attrs.keys():
        return False
    of = source.inputs[0]
    if of is None or of.shape is None:
        return False
    rest = [v.numpy() for v in node.inputs[1:] if v is not None and v.is_constant]
    if len(rest) != len(node.inputs) - 1:
        return False
    places = np.arange(len(of.shape))
    if node.op == "Slice":
        places = places[int(rest[0][0]) : int(rest[1][0]) : int(rest[3][0]) if rest[3:] else 1]
    elif np.all((rest[0] >= -len(places)) & (rest[0] < len(places))):
        places = places[rest[0]]
    else:
        return False
    dims = [of.shape[k] for k in np.ravel(places)]
    if not all(isinstance(d, int) for d in dims):
        return False
    array = np.asarray(dims, np.int64).reshape(np.shape(places))
    rw.replace(node.output, rw.constant(array, node.output.name))
    return True


RULES = (
    Rule("constant-node", ("Constant",), constant_node),
    Rule("shape", ("Shape", "Size"), shape),
    Rule("part-of-shape", ("Gather", "Slice"), part_of_shape),
    Rule("cast-like", ("CastLike",), cast_like),
    Rule("fold", FOLDABLE, fold),
)
