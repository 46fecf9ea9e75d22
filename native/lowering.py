"""The state of one lowering: stages, tensors, layouts, conversions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..ir import DType, Graph, Node, Value
from .model import Array, Kind, Model, Op, Role, Type
from .orders import channels_last, plain, reshaped_order
from .values import (
    LIMITS,
    OUTSIDE,
    Abstract,
    Const,
    ConstGrid,
    Declined,
    Grid,
    Pending,
    Raw,
    Rows,
    Stored,
    Target,
    static,
    whole,
)

TYPE_OF = {
    DType.FLOAT: Type.F32,
    DType.UINT8: Type.U8,
    DType.INT8: Type.S8,
    DType.INT16: Type.S16,
    DType.INT32: Type.S32,
    DType.INT64: Type.S64,
}


def known_shape(value: Value) -> tuple[int, ...] | None:
    """The shape if every dimension is a number."""
    dims = value.shape
    if dims is None or not all(isinstance(d, int) for d in dims):
        return None
    return tuple(int(d) for d in dims if isinstance(d, int))


def title(node: Node) -> str:
    """The name of a node, that of its first result where it has none."""
    return node.name or next((v.name for v in node.outputs if v.name), node.op)


@dataclass
class Lowering:
    """Everything that handlers of operators share.

    Attributes:
        graph: the graph being lowered, shapes inferred.
        values: what each value is, as far as lowered.
        models: the program of each even stage.
        islands: the nodes that ONNX Runtime runs, by odd stage.
        rows: operators whose number of rows is open, and their results.
        island_inputs: values that a stage's nodes read from outside of it.
        reasons: why a node runs in ONNX Runtime, by its label.
        onnx: the tensor that holds a value just as ONNX defines it.
        imports: which tensor an input of a stage's model is, by its number.
        exports: which tensors an output of a stage's model is; several if they differ in shape.
        node: the node being lowered.
        emitted: the operators so far, those dropped later included.
        waiting: names of the nodes that a value depends on and no operator computes yet.
    """

    graph: Graph
    values: dict[Value, Abstract] = field(default_factory=dict)
    models: dict[int, Model] = field(default_factory=lambda: defaultdict(Model))
    islands: dict[int, list[Node]] = field(default_factory=lambda: defaultdict(list))
    rows: list[tuple[Rows, Stored]] = field(default_factory=list)
    island_inputs: dict[int, dict[Value, Stored]] = field(default_factory=lambda: defaultdict(dict))
    reasons: dict[str, str] = field(default_factory=dict)
    onnx: dict[Value, Stored] = field(default_factory=dict)
    imports: dict[tuple[int, int], Stored] = field(default_factory=dict)
    exports: dict[tuple[int, int], dict[Stored, None]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    node: Node | None = None
    emitted: list[Op] = field(default_factory=list)
    waiting: dict[Value, list[str]] = field(default_factory=dict)

    # -- stages and tensors ----------------------------------------------------------------------

    def stage(self, inputs: Iterable[Stored]) -> int:
        """The first program that can read all of `inputs`."""
        return max((s.stage + s.stage % 2 for s in inputs), default=0)

    def make(
        self,
        stage: int,
        dtype: Type,
        shape: Sequence[int],
        order: tuple[int, ...] | None = None,
        scale: float = 1.0,
        zero_point: int = 0,
    ) -> Stored:
        """A new tensor that the program of `stage` computes."""
        shape = tuple(int(d) for d in shape)
        stored = Stored(dtype, shape, order or plain(len(shape)), stage, {}, scale, zero_point)
        stored.ids[stage] = self.models[stage].tensor(dtype, stored.dims, scale, zero_point)
        return stored

    def id(self, stored: Stored, stage: int) -> int:
        """The number of `stored` in the model of `stage`, where it becomes an input if foreign."""
        if stage not in stored.ids:
            self.export(stored)
            stored.ids[stage] = self.models[stage].tensor(
                stored.dtype, stored.dims, stored.scale, stored.zero_point, Role.INPUT
            )
            self.imports[stage, stored.ids[stage]] = stored
        return stored.ids[stage]

    def export(self, stored: Stored) -> None:
        """Let other stages see a tensor that a program computes."""
        if stored.stage not in stored.ids:  # of no program
            return
        model = self.models[stored.stage]
        tensor = model.tensors[stored.ids[stored.stage]]
        if tensor.role == Role.TEMPORARY:
            tensor.role = Role.OUTPUT
        elif tensor.role != Role.OUTPUT:  # a view: its bytes need a tensor of their own
            copy = model.tensor(
                tensor.dtype, tensor.shape, tensor.scale, tensor.zero_point, Role.OUTPUT
            )
            self.copy(model, stored.ids[stored.stage], copy, np.empty(tensor.shape, np.int8))
            stored.ids[stored.stage] = copy
        self.exports[stored.stage, stored.ids[stored.stage]][stored] = None

    def grid_id(self, grid: Grid, stage: int) -> int:
        """The number of a dequantized tensor, with its grid."""
        if grid.table is not None:
            raise Declined("a function of integers is no integer tensor itself")
        number = self.id(grid.stored, stage)
        tensor = self.models[stage].tensors[number]
        if tensor.scale == grid.scale and tensor.zero_point == grid.zero_point:
            return number
        view = self.models[stage].view(number, tensor.shape)
        self.models[stage].tensors[view].scale = grid.scale
        self.models[stage].tensors[view].zero_point = grid.zero_point
        return view

    def emit(
        self, stage: int, kind: Kind, inputs: Sequence[int], output: Stored, attrs: Sequence[int]
    ) -> Stored:
        """Append an operator that computes `output`."""
        self._append(self.models[stage], kind, inputs, output.ids[stage], attrs)
        return output

    def _append(
        self, model: Model, kind: Kind, inputs: Sequence[int], output: int, attrs: Sequence[int]
    ) -> None:
        label, nodes = kind.name.lower(), []
        if self.node is not None:
            label, nodes = self.node.label, [title(self.node)]
        self.emitted.append(model.op(kind, inputs, [output], attrs, label, nodes))

    def account(self, before: int, nodes: list[str], results: Iterable[Value]) -> None:
        """Note which operator computes `nodes`: the last since `before`; none yet: they wait."""
        if len(self.emitted) > before:
            self.emitted[-1].nodes = nodes
            nodes = []
        for value in results:
            self.waiting[value] = nodes

    def open_rows(self, rows: Rows, value: Value, dtype: Type) -> Stored:
        """Let a program of its own compute `value`, whose rows no program can count."""
        for source in rows.inputs:
            self.export(source)
        result = Stored(dtype, None, plain(value.rank or 0), rows.stage)
        self.rows.append((rows, result))
        self.onnx[value] = result
        return result

    # -- layouts ---------------------------------------------------------------------------------

    def copy(
        self, model: Model, source: int, to: int, view: Array, offset: int = 0, fill: int = 0,
        into: Array | None = None, into_offset: int = 0,
    ) -> None:  # fmt: skip
        """Append a strided copy: `view` (of one-byte elements) walks the source, `into` the result.

        Only the arrays' shapes and strides count; offsets are in elements.
        """
        shape = view.shape or (1,)
        if len(shape) > 8:
            raise Declined("a copy over more than 8 dimensions")
        target = np.empty(shape, np.int8) if into is None else into
        strides, target_strides = view.strides or (0,), target.strides or (0,)
        attrs = [len(shape), offset, into_offset, fill, *shape, *strides, *target_strides]
        self._append(model, Kind.COPY, [source], to, attrs)

    def window(self, stored: Stored) -> Array:
        """An array of one-byte elements whose strides are those of `stored`, in ONNX's order."""
        back = np.argsort(stored.order)
        result: Array = np.empty(stored.dims, np.int8).transpose(back)
        return result

    def arrange(self, stored: Stored, order: tuple[int, ...], stage: int) -> Stored:
        """`stored` in another order of dimensions; a view where only dimensions of 1 move."""
        if stored.order == order:
            return stored
        shape = static(stored)
        number = self.id(stored, stage)
        moved = [d for d in stored.order if shape[d] != 1] != [d for d in order if shape[d] != 1]
        result = Stored(stored.dtype, shape, order, stage, {}, stored.scale, stored.zero_point)
        model = self.models[stage]
        if moved:
            result.ids[stage] = model.tensor(
                stored.dtype, result.dims, stored.scale, stored.zero_point
            )
            view = self.window(stored).transpose(order)
            self.copy(model, number, result.ids[stage], view)
        else:
            result.ids[stage] = self._view(number, result.dims, stage)
        return result

    def _view(self, number: int, dims: tuple[int, ...], stage: int) -> int:
        model = self.models[stage]
        if model.tensors[number].role != Role.CONSTANT:
            return model.view(number, dims)
        raise Declined("a constant where a tensor belongs")

    def reshape(self, stored: Stored, shape: Sequence[int], stage: int) -> Stored:
        """The same elements under another shape; a view where the stored order allows it."""
        shape = tuple(int(d) for d in shape)
        order = reshaped_order(static(stored), stored.order, shape)
        if order is None:
            stored = self.arrange(stored, plain(len(static(stored))), stage)
            order = plain(len(shape))
        result = Stored(stored.dtype, shape, order, stage, {}, stored.scale, stored.zero_point)
        result.ids[stage] = self._view(self.id(stored, stage), result.dims, stage)
        return result

    # -- conversions -----------------------------------------------------------------------------

    def finish(self, pending: Pending, target: Target | None) -> Stored:
        """Compute a pending result on `target`'s grid, bounds included."""
        if target is None:
            if not pending.free:
                raise Declined("a bounded result in float")
            return pending.emit(None)
        ends = []
        for bound, limit in ((pending.low, target.low), (pending.high, target.high)):
            steps = limit
            if np.isfinite(bound):
                steps = int(np.rint(np.float32(bound) / np.float32(target.scale)))
                steps = min(max(steps + target.zero_point, target.low), target.high)
            ends.append(steps)
        low, high = ends[0], max(ends)
        if pending.bounded or (low, high) == LIMITS[target.dtype]:
            return pending.emit(Target(target.dtype, target.scale, target.zero_point, low, high))
        found = pending.emit(whole(target.dtype, target.scale, target.zero_point))
        grid = Grid(found, target.scale, target.zero_point)
        return self.requantize(grid, replace(target, low=low, high=high))

    def as_onnx(self, value: Value) -> Stored:
        """The tensor that holds `value` as ONNX defines it."""
        if value not in self.onnx:
            before = len(self.emitted)
            try:
                self.onnx[value] = self._materialize(self.values[value])
                self.account(before, self.waiting.get(value, []), [value])
            except Declined as reason:
                if value.producer is None:
                    raise
                self.island(value.producer, str(reason))
        return self.onnx[value]

    def _materialize(self, abstract: Abstract) -> Stored:
        if isinstance(abstract, Raw):
            if abstract.stored.stage % 2:
                return abstract.stored
            order = plain(len(static(abstract.stored)))
            return self.arrange(abstract.stored, order, abstract.stored.stage)
        if isinstance(abstract, Grid) and abstract.table is None:
            return self.dequantize(abstract)
        if isinstance(abstract, Pending):
            result = self.finish(abstract, None)
            return self.arrange(result, plain(len(static(result))), result.stage)
        raise Declined("a function of integers is wanted in float")

    def dequantize(self, grid: Grid) -> Stored:
        """Floats in ONNX's order; channels move to their place on the way."""
        stage = self.stage([grid.stored])
        shape = static(grid.stored)
        rank, stored = len(shape), grid.stored
        sizes = [1, 1, int(np.prod(shape, dtype=np.int64))]
        if stored.order == channels_last(rank) and rank > 2:
            sizes = [shape[0], shape[1], int(np.prod(shape[2:], dtype=np.int64))]
        elif stored.order != plain(rank):
            stored = self.arrange(stored, plain(rank), stage)
        source = Grid(stored, grid.scale, grid.zero_point)
        result = self.make(stage, Type.F32, shape)
        return self.emit(stage, Kind.DEQUANTIZE, [self.grid_id(source, stage)], result, sizes)

    def quantize(self, value: Value, target: Target, last: bool) -> Stored:
        """`value` on a grid; floats become channels-last on the way if `last`."""
        abstract = self.values[value]
        if isinstance(abstract, Grid):
            return self.requantize(abstract, target)
        if isinstance(abstract, Pending):
            try:
                return self.finish(abstract, target)
            except Declined:
                self.as_onnx(value)
        stored = self.as_onnx(value)
        if stored.dtype != Type.F32:
            raise Declined("only floats are quantized")
        shape, stage = static(stored), self.stage([stored])
        order = channels_last(len(shape)) if last else plain(len(shape))
        sizes = [1, 1, int(np.prod(shape, dtype=np.int64))]
        if last and len(shape) > 2:
            sizes = [shape[0], shape[1], int(np.prod(shape[2:], dtype=np.int64))]
        result = self.make(stage, target.dtype, shape, order, target.scale, target.zero_point)
        return self.emit(stage, Kind.QUANTIZE, [self.id(stored, stage)], result, sizes)

    def requantize(self, grid: Grid, target: Target) -> Stored:
        """Through a table, or not at all where it would change nothing."""
        same = grid.scale == target.scale and grid.zero_point == target.zero_point
        same = same and grid.stored.dtype == target.dtype
        if grid.table is None and same and target.limits == LIMITS[target.dtype]:
            return grid.stored
        if target.dtype not in (Type.U8, Type.S8):
            raise Declined("a table gives 8 bits")
        steps = np.rint(grid.reals() / np.float32(target.scale)) + np.float32(target.zero_point)
        integers = np.clip(np.nan_to_num(steps), target.low, target.high).astype(np.int32)
        table = integers.astype(np.uint8)
        if same and np.all(table == np.arange(256)):
            return grid.stored
        stored, stage = grid.stored, self.stage([grid.stored])
        if table.ndim == 2:
            order = (*(d for d in plain(len(static(stored))) if d != grid.axis), grid.axis)
            if stored.order[-1] != grid.axis:
                stored = self.arrange(stored, order, stage)
        result = self.make(
            stage, target.dtype, static(stored), stored.order, target.scale, target.zero_point
        )
        if table.ndim == 1:
            result.source = stored, table
        constant = self.models[stage].constant(table)
        return self.emit(stage, Kind.LUT, [self.id(stored, stage), constant], result, [])

    def pending(self, emit: Callable[[Target | None], Stored], bounded: bool = True) -> Pending:
        """A pending result whose operators carry the present node's label."""
        node = self.node

        def labelled(target: Target | None) -> Stored:
            before, self.node = self.node, node
            try:
                return emit(target)
            finally:
                self.node = before

        return Pending(labelled, bounded)

    # -- ONNX Runtime ----------------------------------------------------------------------------

    def island(self, node: Node, reason: str) -> None:
        """Let ONNX Runtime run `node`."""
        inputs: dict[Value, Stored] = {}
        for _, value in node.operands():
            if value not in self.values or not isinstance(self.values[value], Const | ConstGrid):
                inputs[value] = self.as_onnx(value)
        stages = (s.stage for s in inputs.values() if s.stage != OUTSIDE)
        stage = max((s if s % 2 else s + 1 for s in stages), default=1)
        for value, stored in inputs.items():
            if stored.stage != stage:
                self.export(stored)
                self.island_inputs[stage][value] = stored
        self.islands[stage].append(node)
        self.reasons[node.label] = reason
        for value in node.outputs:
            shape = known_shape(value)
            dtype = TYPE_OF.get(value.dtype) if value.dtype is not None else None
            rank = len(shape) if shape is not None else 0
            known = shape if dtype is not None else None
            stored = Stored(Type.F32 if dtype is None else dtype, known, plain(rank), stage)
            self.onnx[value] = stored
            self.values.setdefault(value, Raw(stored))
            if not isinstance(self.values[value], Grid | Pending):
                self.values[value] = Raw(stored)
