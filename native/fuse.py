"""Join operators of a model into the store of the convolution before them."""

from __future__ import annotations

from collections import Counter

from .model import ABSENT, Kind, Model, Op, Role, Type

CONVOLUTIONS = (Kind.CONV, Kind.CONV_TRANSPOSE)
CONV_GRID, ADD_GRID, RESIDUAL, TABLE, FUNCTION = 4, 5, 6, 7, 8


def fuse(model: Model) -> None:
    """Residual additions, tables, functions where nothing else reads the convolution's result."""
    _sweep(model)
    _Fuser(model).run()


def _sweep(model: Model) -> None:
    """Drop operators that nothing needs any more."""

    def storage(number: int) -> int:
        tensor = model.tensors[number]
        return tensor.offset if tensor.role == Role.VIEW else number

    needed = {i for i, t in enumerate(model.tensors) if t.role == Role.OUTPUT}
    kept = []
    for op in reversed(model.ops):
        if any(storage(n) in needed for n in op.outputs):
            kept.append(op)
            needed.update(storage(n) for n in op.inputs if n != ABSENT)
    model.ops = kept[::-1]


class _Fuser:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.uses: Counter[int] = Counter()
        self.writer: dict[int, Op] = {}
        viewed = (t.offset for t in model.tensors if t.role == Role.VIEW)
        self.uses.update(viewed)
        for op in model.ops:
            self.uses.update(op.inputs)
        self.gone: set[int] = set()

    def run(self) -> None:
        ops: list[Op] = []
        for op in self.model.ops:
            if op.kind == Kind.ADD:
                op = self._add(op)
            elif op.kind == Kind.LUT:
                op = self._table(op)
            elif op.kind == Kind.FUNCTION:
                op = self._function(op)
            for output in op.outputs:
                self.writer[output] = op
            ops.append(op)
        self.model.ops = [op for op in ops if id(op) not in self.gone]

    def _convolution(self, number: int) -> Op | None:
        """The convolution that alone computes tensor `number`, which nothing else needs."""
        op = self.writer.get(number)
        tensor = self.model.tensors[number]
        if op is None or op.kind not in CONVOLUTIONS or tensor.role != Role.TEMPORARY:
            return None
        last = op.inputs[TABLE] == ABSENT and op.inputs[FUNCTION] == ABSENT
        return op if self.uses[number] == 1 and last else None

    def _add(self, op: Op) -> Op:
        """The later of the two convolutions takes the other operand as its residual."""
        out = op.outputs[0]
        order = {id(o): i for i, o in enumerate(self.model.ops)}
        candidates = []
        for own, other in ((0, 1), (1, 0)):
            conv = self._convolution(op.inputs[own])
            if conv is None or conv.inputs[RESIDUAL] != ABSENT:
                continue
            shapes = {self.model.tensors[n].shape for n in (*op.inputs, out)}
            residual = self.model.tensors[op.inputs[other]]
            if len(shapes) == 1 and residual.role != Role.CONSTANT:
                candidates.append((order.get(id(conv), 0), own, other, conv))
        if not candidates:
            return op
        _, own, other, conv = max(candidates, key=lambda c: c[0])
        model = self.model
        inputs = list(conv.inputs)
        inputs[CONV_GRID] = self._grid(op.inputs[own])
        inputs[ADD_GRID] = self._grid(out)
        inputs[RESIDUAL] = op.inputs[other]
        attrs = [*conv.attrs[:-4], *op.attrs, *conv.attrs[-2:]]
        self.gone.add(id(conv))
        assert model.tensors[out].role in (Role.TEMPORARY, Role.OUTPUT)
        return self._joined(conv, op, inputs, attrs)

    def _table(self, op: Op) -> Op:
        conv = self._convolution(op.inputs[0])
        tensors = self.model.tensors
        same = tensors[op.inputs[0]].dtype == tensors[op.outputs[0]].dtype
        if conv is None or len(tensors[op.inputs[1]].shape) != 1 or not same:
            return op
        if tensors[op.inputs[0]].shape != tensors[op.outputs[0]].shape:
            return op
        inputs = list(conv.inputs)
        inputs[TABLE] = op.inputs[1]
        self.gone.add(id(conv))
        return self._joined(conv, op, inputs, conv.attrs)

    def _function(self, op: Op) -> Op:
        conv, out = self._convolution(op.inputs[0]), op.outputs[0]
        reals = self.model.tensors[out].dtype == Type.F32
        if conv is None or conv.inputs[RESIDUAL] != ABSENT or reals:
            return op
        inputs = list(conv.inputs)
        inputs[CONV_GRID], inputs[FUNCTION] = self._grid(out), op.inputs[1]
        self.gone.add(id(conv))
        return self._joined(conv, op, inputs, [*conv.attrs[:-4], *op.attrs, *op.attrs])

    def _joined(self, conv: Op, op: Op, inputs: list[int], attrs: list[int]) -> Op:
        label = f"{conv.label} + {op.label}"
        return Op(conv.kind, inputs, list(op.outputs), attrs, label, conv.nodes + op.nodes)

    def _grid(self, number: int) -> int:
        return self.model.grid(number)
