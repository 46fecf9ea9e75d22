"""From a quantized ONNX graph to programs of the C executor, ONNX Runtime in between."""

from __future__ import annotations

from collections.abc import Iterator

from ..ir import DType, Graph, Node, Value
from . import lower_conv, lower_move, lower_pointwise, lower_quant, lower_roi, lower_window
from .fuse import fuse
from .handlers import HANDLERS
from .lowering import TYPE_OF, Lowering, known_shape, title
from .model import Type
from .orders import plain
from .values import OUTSIDE, Abstract, Const, ConstGrid, Declined, Grid, Raw, Stored

MODULES = (lower_conv, lower_move, lower_pointwise, lower_quant, lower_roi, lower_window)
"""Importing these fills the table of handlers."""


def lower(graph: Graph) -> tuple[Lowering, list[Stored | Const]]:
    """Lower a graph whose shapes are known; the result, and what its outputs are.

    A node that has no integer form runs in ONNX Runtime, for the reason kept in `reasons`.
    """
    low = Lowering(graph)
    for value in graph.inputs:
        _input(low, value)
    for node in graph.order():
        for _, value in node.operands():
            if value.is_constant and value not in low.values:
                low.values[value] = Const(value.numpy())
        low.node, before = node, len(low.emitted)
        try:
            handler = HANDLERS.get(f"{node.domain}:{node.op}" if node.domain else node.op)
            if handler is None:
                raise Declined("no kernel for this operator")
            if any(0 in (v.shape or ()) for v in _tensors(node)):
                raise Declined("a tensor without elements")
            results = handler(low, node)
            for output, found in zip(node.outputs, results, strict=False):
                low.values[output] = found
                _learn(output, found)
            waiting = (name for _, v in node.operands() for name in low.waiting.get(v, ()))
            low.account(before, [*dict.fromkeys(waiting), title(node)], node.outputs)
        except Declined as reason:
            low.island(node, str(reason))
        except (LookupError, TypeError, ValueError) as error:  # ONNX Runtime says what is wrong
            low.island(node, f"it contradicts itself: {error}")
        except MemoryError as error:
            raise MemoryError(f"{node.label}: {error}") from None
    low.node = None
    outputs = [_output(low, value) for value in graph.outputs]
    for model in low.models.values():
        fuse(model)
    return low, outputs


def _tensors(node: Node) -> Iterator[Value]:
    """What a node computes, and of what."""
    yield from (value for _, value in node.operands() if not value.is_constant)
    yield from node.outputs


def _learn(value: Value, found: Abstract) -> None:
    """Type and shape of what inference does not know, such as results of other domains."""
    if isinstance(found, Raw) and value.dtype is None:
        value.dtype = next(d for d, t in TYPE_OF.items() if t == found.stored.dtype)
        value.shape = found.stored.shape
    elif isinstance(found, Grid) and value.dtype is None:
        value.dtype, value.shape = DType.FLOAT, found.stored.shape


def _input(low: Lowering, value: Value) -> None:
    shape = known_shape(value)
    dtype = TYPE_OF.get(value.dtype) if value.dtype is not None else None
    known = shape if dtype is not None else None
    stored = Stored(Type.F32 if dtype is None else dtype, known, plain(len(shape or ())), OUTSIDE)
    low.values[value] = Raw(stored)
    low.onnx[value] = stored


def _output(low: Lowering, value: Value) -> Stored | Const:
    found = low.values.get(value)
    if found is None and value.is_constant:
        return Const(value.numpy())
    if isinstance(found, ConstGrid):
        return Const(found.reals())
    if isinstance(found, Const):
        return found
    stored = low.as_onnx(value)
    low.export(stored)
    return stored
