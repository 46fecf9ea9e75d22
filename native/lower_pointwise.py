"""Elementwise operators: tables where one stored tensor is behind all operands, else arithmetic."""

from __future__ import annotations

import numpy as np

from ..ir import DType, Graph, Node, Value
from ..ir.evaluate import Runner
from .handlers import constant_of, grid_of, handles
from .lower_function import FUNCTIONS, function_of_sum, gated
from .lowering import Lowering
from .model import Array, Kind, Type
from .orders import plain
from .values import (
    Abstract,
    Const,
    ConstGrid,
    Declined,
    Grid,
    Pending,
    Stored,
    Target,
    static,
)

UNARY = (
    "Abs", "Acos", "Asin", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh",
    "ThresholdedRelu",
)  # fmt: skip


def _channel_axis(shape: tuple[int, ...], rank: int) -> int | None:
    """The one dimension of a tensor of `rank` along which a constant of `shape` varies."""
    varying = [d + rank - len(shape) for d, n in enumerate(shape) if n != 1]
    if len(varying) > 1 or len(shape) > rank:
        raise Declined("a constant that varies along several dimensions")
    return varying[0] if varying else None


def _evaluate(node: Node, info: Graph, operands: list[Array]) -> Array:
    """What the node gives for floats, from ONNX Runtime itself."""
    graph = Graph("table", info.info)
    values: list[Value | None] = []
    feeds: dict[str, Array] = {}
    for i, array in enumerate(operands):
        values.append(graph.input(f"x{i}", DType.FLOAT, array.shape))
        feeds[f"x{i}"] = np.ascontiguousarray(array, np.float32)
    graph.set_outputs(
        [graph.add(node.op, values, dict(node.attrs), domain=node.domain).output], ["y"]
    )
    result: Array = Runner(graph, threads=1).run(feeds)[0]
    return result


def _rooted(grid: Grid) -> Grid:
    """The same reals as a function of the tensor that tables were first applied to."""
    while grid.stored.source is not None and (grid.table is None or grid.table.ndim == 1):
        base, table = grid.stored.source
        grid = Grid(base, base.scale, base.zero_point, grid.reals()[table])
    return grid


def table_of(low: Lowering, node: Node) -> Grid:
    """The node as a function of one stored 8-bit tensor; `Declined` when it is none."""
    grids: dict[int, Grid] = {}
    arrays: dict[int, Array] = {}
    for slot, value in enumerate(node.inputs):
        found = low.values.get(value) if value is not None else None
        if isinstance(found, Grid):
            grids[slot] = found
        elif isinstance(found, Const):
            arrays[slot] = found.array
        elif isinstance(found, ConstGrid):
            arrays[slot] = found.reals()
        else:
            raise Declined("an operand is neither quantized nor constant")
    if len({id(g.stored) for g in grids.values()}) != 1:
        grids = {slot: _rooted(grid) for slot, grid in grids.items()}
    if len({id(g.stored) for g in grids.values()}) != 1:
        raise Declined("operands are not functions of one tensor")
    base = next(iter(grids.values()))
    rank = len(static(base.stored))
    own = static(base.stored)
    if np.broadcast_shapes(own, *(a.shape for a in arrays.values())) != own:
        raise Declined("the result is shaped unlike its quantized operand")
    axes = {axis for a in arrays.values() if (axis := _channel_axis(a.shape, rank)) is not None}
    axes |= {g.axis for g in grids.values() if g.table is not None and g.table.ndim == 2}
    if len(axes) > 1:
        raise Declined("channels along different dimensions")
    operands = []
    for slot in range(len(node.inputs)):
        if slot in grids:
            operands.append(grids[slot].reals())
        else:
            constant = arrays[slot].astype(np.float32)
            operands.append(constant.reshape(-1, 1) if constant.size > 1 else constant.reshape(1))
    table = _evaluate(node, low.graph, operands).astype(np.float32)
    axis = next(iter(axes), 0)
    return Grid(base.stored, base.scale, base.zero_point, table, axis)


@handles(*UNARY, "Div", "Pow", "Min", "Max", "PRelu", "BatchNormalization", "com.microsoft:Gelu",
         "com.microsoft:QuickGelu")  # fmt: skip
def function(low: Lowering, node: Node) -> list[Abstract]:
    """Whatever is computed from one quantized tensor, element by element."""
    x = low.values.get(node.inputs[0]) if node.inputs[0] is not None else None
    if isinstance(x, Pending) and node.op in FUNCTIONS:
        return [function_of_sum(low, x, *FUNCTIONS[node.op](node))]
    if node.op != "BatchNormalization":
        return [table_of(low, node)]
    if not isinstance(x, Grid) or len(node.outputs) > 1:
        raise Declined("an operand is not quantized")
    found = [constant_of(low, node, slot) for slot in range(1, 5)]
    arrays = [a.astype(np.float32)[:, None] for a in found if a is not None]
    scale, bias, mean, variance = arrays
    factor = scale / np.sqrt(variance + np.float32(node.attrs.get("epsilon", 1e-5)))
    if x.table is not None and x.table.ndim == 2 and x.axis != 1:
        raise Declined("channels along different dimensions")
    return [Grid(x.stored, x.scale, x.zero_point, (x.reals() - mean) * factor + bias, 1)]


@handles("Relu", "Clip")
def clip(low: Lowering, node: Node) -> list[Abstract]:
    """Bounds on a pending result, a table otherwise."""
    assert node.inputs[0] is not None
    found = low.values.get(node.inputs[0])
    if not isinstance(found, Pending):
        return [_clip_table(low, node)]
    bottom, top = _bounds(low, node)
    return [found.clipped(bottom, top)]


def _bounds(low: Lowering, node: Node) -> tuple[float, float]:
    if node.op == "Relu":
        return 0.0, np.inf
    ends = [float(node.attrs.get("min", -np.inf)), float(node.attrs.get("max", np.inf))]
    for slot in (1, 2):
        value = node.input(slot)
        found = low.values.get(value) if value is not None else None
        if isinstance(found, Const | ConstGrid):
            array = found.array if isinstance(found, Const) else found.reals()
            ends[slot - 1] = float(array.reshape(-1)[0])
        elif value is not None:
            raise Declined("a computed bound")
    return ends[0], ends[1]


def _clip_table(low: Lowering, node: Node) -> Grid:
    assert node.inputs[0] is not None
    x = low.values.get(node.inputs[0])
    if not isinstance(x, Grid):
        raise Declined("an operand is not quantized")
    bottom, top = _bounds(low, node)
    table = np.minimum(np.maximum(x.reals(), np.float32(bottom)), np.float32(top))
    return Grid(x.stored, x.scale, x.zero_point, table.astype(np.float32), x.axis)


@handles("Identity", "Dropout")
def identity(low: Lowering, node: Node) -> list[Abstract]:
    """The operand itself."""
    assert node.inputs[0] is not None
    if len(node.outputs) > 1 and node.outputs[1].uses:
        raise Declined("the mask of a Dropout")
    return [low.values[node.inputs[0]]]


KINDS = {"Add": Kind.ADD, "Sub": Kind.SUB, "Mul": Kind.MUL}


@handles("Add", "Sub", "Mul")
def arithmetic(low: Lowering, node: Node) -> list[Abstract]:
    """A table if it can be one, otherwise integer arithmetic with broadcasting."""
    if node.op == "Mul" and (found := gated(low, node)) is not None:
        return [found]
    try:
        return [table_of(low, node)]
    except Declined:
        pass
    operands = [_operand(low, value) for value in node.inputs]
    shapes = [_shape(o) for o in operands]
    shape = tuple(np.broadcast_shapes(*shapes))
    if len(shape) > 8 or all(isinstance(o, ConstGrid) for o in operands):
        raise Declined("operands are constant or of more than 8 dimensions")

    def emit(target: Target | None) -> Stored:
        if target is None:
            raise Declined("arithmetic that is not rounded to a grid")
        stage = low.stage(o.stored for o in operands if isinstance(o, Grid))
        order = _common_order(operands, shape)
        ids = [_aligned(low, o, len(shape), order, stage, target.dtype) for o in operands]
        y = low.make(stage, target.dtype, shape, order, target.scale, target.zero_point)
        return low.emit(stage, KINDS[node.op], ids, y, target.limits)

    return [low.pending(emit)]


def _operand(low: Lowering, value: Value | None) -> Grid | ConstGrid:
    found = low.values.get(value) if value is not None else None
    if isinstance(found, ConstGrid):
        if found.scale.size != 1 or found.integers.dtype not in (np.uint8, np.int8, np.int16):
            raise Declined("a constant operand with more than one scale")
        return found
    return grid_of(low, value)


def _shape(operand: Grid | ConstGrid) -> tuple[int, ...]:
    return operand.integers.shape if isinstance(operand, ConstGrid) else static(operand.stored)


def _common_order(operands: list[Grid | ConstGrid], shape: tuple[int, ...]) -> tuple[int, ...]:
    """That of the first operand that fills the result."""
    for operand in operands:
        if isinstance(operand, Grid) and static(operand.stored) == shape:
            return operand.stored.order
    return plain(len(shape))


def _aligned(
    low: Lowering,
    operand: Grid | ConstGrid,
    rank: int,
    order: tuple[int, ...],
    stage: int,
    dtype: Type,
) -> int:
    """The operand with `rank` dimensions in the common order."""
    if isinstance(operand, ConstGrid):
        array, zero = operand.integers, int(operand.zero_point.reshape(-1)[0])
        array = array.reshape((1,) * (rank - array.ndim) + array.shape).transpose(order)
        if array.dtype == np.int8:  # constants of 8 bits are unsigned for the kernels
            array, zero = (array.astype(np.int16) + 128).astype(np.uint8), zero + 128
        scale = float(np.float32(operand.scale.reshape(-1)[0]))
        return low.models[stage].constant(array, scale, zero)
    stored = operand.stored
    if (stored.dtype == Type.S16) != (dtype == Type.S16):
        raise Declined("operands of 8 and of 16 bits")
    shape = static(stored)
    if len(shape) < rank:
        stored = low.reshape(stored, (1,) * (rank - len(shape)) + shape, stage)
    stored = low.arrange(stored, order, stage)
    return low.grid_id(Grid(stored, operand.scale, operand.zero_point), stage)
