"""The table of operators that can be lowered, and what its functions share."""

from __future__ import annotations

from collections.abc import Callable

from ..ir import Node, Value
from .lowering import Lowering
from .model import Array, Type
from .values import Abstract, Const, ConstGrid, Declined, Grid

Handler = Callable[[Lowering, Node], list[Abstract]]
HANDLERS: dict[str, Handler] = {}


def handles(*ops: str) -> Callable[[Handler], Handler]:
    """Register a handler of operators, named "domain:Op" outside the standard."""

    def register(handler: Handler) -> Handler:
        for op in ops:
            HANDLERS[op] = handler
        return handler

    return register


def grid_of(low: Lowering, value: Value | None) -> Grid:
    """The dequantized integers behind an operand; `Declined` when there are none."""
    found = low.values.get(value) if value is not None else None
    if not isinstance(found, Grid):
        raise Declined("an operand is not quantized")
    if found.table is not None:
        raise Declined("an operand is not rounded to a grid")
    return found


def bytes_of(low: Lowering, value: Value | None) -> Grid:
    """The same for kernels that have 8 bits only."""
    grid = grid_of(low, value)
    if grid.stored.dtype not in (Type.U8, Type.S8):
        raise Declined("an operand has more than 8 bits")
    return grid


def constant_of(low: Lowering, node: Node, slot: int) -> Array | None:
    """A constant operand, None when left out; `Declined` when it is computed."""
    value = node.input(slot)
    if value is None:
        return None
    found = low.values.get(value)
    if isinstance(found, Const):
        return found.array
    if isinstance(found, ConstGrid):
        return found.reals()
    raise Declined(f"operand {slot} is not a constant")


def axis_of(axis: int, rank: int) -> int:
    """A dimension counted from the front; `Declined` when there is none."""
    if not -rank <= axis < rank:
        raise Declined(f"axis {axis} of {rank} dimensions")
    return axis % rank
