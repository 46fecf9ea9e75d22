"""Compile a quantized model and run it: the package's own interface."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from ..ir import DataError, Graph, load
from ..ir.target import Target, find_target
from .kernels import Kernel
from .lower import lower
from .lowering import Lowering, known_shape
from .model import Array, Role
from .prepare import specialize
from .profile import OperatorTime
from .stages import Buffers, Island, Native, NativeRows, Stage
from .values import Const, Stored


class _Plan:
    """A model for inputs of one set of shapes: its stages in order and what passes between them."""

    def __init__(self, graph: Graph, options: Mapping[str, Any]) -> None:
        low, self.results = lower(graph)
        self.reasons = low.reasons
        self.given = {low.onnx[value]: value.name for value in graph.inputs}
        self.stages: list[tuple[Stage, list[Stored], list[list[Stored]]]] = []
        self._idle: list[list[Buffers]] = []
        kept = {r for r in self.results if isinstance(r, Stored)}
        wanted = _wanted(low, kept)
        for stage in sorted({*low.models, *low.islands, *(rows.stage for rows, _ in low.rows)}):
            if stage % 2:
                values = [v for v, s in low.onnx.items() if s.stage == stage and s in wanted]
                results = [[low.onnx[v]] for v in values]
                ours = [low.onnx[v] in kept for v in values]
                island = Island(low, stage, values, int(options["threads"]), ours)
                sources = list(low.island_inputs[stage].values())
                self.stages.append((island, sources, results))
            elif stage in low.models and low.models[stage].ops:
                model = low.models[stage]
                sources = [low.imports[stage, i] for i in model.numbers(Role.INPUT)]
                results = [list(low.exports[stage, i]) for i in model.numbers(Role.OUTPUT)]
                ours = [not kept.isdisjoint(holders) for holders in results]
                self.stages.append((Native(model, options, ours), sources, results))
            for rows, result in low.rows:
                if rows.stage == stage:
                    native = NativeRows(rows, options, result in kept)
                    self.stages.append((native, rows.inputs, [[result]]))

    def _buffers(self) -> list[Buffers]:
        """Those of a run that is over, of each stage."""
        try:
            return self._idle.pop()
        except IndexError:
            return [[] for _ in self.stages]

    def run(
        self, feeds: Mapping[str, Array], times: list[OperatorTime] | None = None
    ) -> list[Array]:
        """The outputs in the graph's order."""
        known = {stored: feeds[name] for stored, name in self.given.items() if name in feeds}
        buffers = self._buffers()
        for (stage, sources, results), own in zip(self.stages, buffers, strict=True):
            found = stage.run([known[s] for s in sources], own, times)
            for holders, array in zip(results, found, strict=True):
                known.update(dict.fromkeys(holders, array))
        self._idle.append(buffers)
        return [r.array if isinstance(r, Const) else known[r] for r in self.results]


def _wanted(low: Lowering, results: set[Stored]) -> set[Stored]:
    """What is read outside of the stage that computes it."""
    wanted = set(results)
    for inputs in low.island_inputs.values():
        wanted.update(inputs.values())
    for rows, _ in low.rows:
        wanted.update(rows.inputs)
    return wanted.union(low.imports.values())


class Program:
    """A compiled model. May be run from several threads at a time.

    Attributes:
        inputs: names of the inputs.
        outputs: names of the outputs.
    """

    def __init__(self, graph: Graph, **options: Any) -> None:
        """Compile for the shapes the model declares; at the first run where it leaves some open."""
        self._graph: Graph | None = graph
        self._options = options
        self._lock = threading.Lock()
        self._plans: dict[tuple[tuple[int, ...], ...], _Plan] = {}
        self._inputs = [value for value in graph.inputs if value.const is None]
        self.inputs = [value.name for value in self._inputs]
        self.outputs = list(graph.output_names)
        shapes = [known_shape(value) for value in self._inputs]
        if all(shape is not None for shape in shapes):
            self._plan(tuple(shape for shape in shapes if shape is not None))
            self._graph = None  # no other shapes come: the packed weights are all that is needed

    def _plan(self, shapes: tuple[tuple[int, ...], ...]) -> _Plan:
        with self._lock:
            if shapes not in self._plans:
                assert self._graph is not None
                named = dict(zip(self.inputs, shapes, strict=True))
                self._plans[shapes] = _Plan(specialize(self._graph, named), self._options)
            return self._plans[shapes]

    def _checked(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        given: dict[str, Array] = {}
        for value in self._inputs:
            if value.name not in feeds:
                raise DataError(f"no data for the model's input '{value.name}'")
            array = np.asarray(feeds[value.name])
            if value.dtype is not None and array.dtype != value.dtype.numpy:
                raise DataError(
                    f"input '{value.name}' is {array.dtype}, the model wants {value.dtype.numpy}"
                )
            shape = value.shape or array.shape
            fits = len(shape) == array.ndim and all(
                not isinstance(n, int) or n == m for n, m in zip(shape, array.shape, strict=True)
            )
            if not fits:
                raise DataError(
                    f"input '{value.name}' is {list(array.shape)}, the model wants {list(shape)}"
                )
            given[value.name] = array
        return given

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: input name -> array of the input's type and shape.

        Returns:
            Output name -> array.

        Raises:
            DataError: an input is missing or does not fit; names it.
            ModelError: an operator cannot be compiled or run; names it.
        """
        given = self._checked(feeds)
        plan = self._plan(tuple(a.shape for a in given.values()))
        return dict(zip(self.outputs, plan.run(given), strict=True))

    def profile(self, feeds: Mapping[str, Array]) -> list[OperatorTime]:
        """Run once and time every operator."""
        given = self._checked(feeds)
        times: list[OperatorTime] = []
        self._plan(tuple(a.shape for a in given.values())).run(given, times)
        return times

    @property
    def reasons(self) -> dict[str, str]:
        """Nodes that ONNX Runtime runs and why, of what is compiled so far."""
        return {k: v for plan in self._plans.values() for k, v in plan.reasons.items()}

    @property
    def kernels(self) -> list[Kernel]:
        """The C programs of what is compiled so far."""
        stages = (stage for plan in self._plans.values() for stage, _, _ in plan.stages)
        return [stage.kernel for stage in stages if isinstance(stage, Native)]


def compile(
    model: str | os.PathLike[str] | onnx.ModelProto | Graph,
    threads: int = 1,
    isa: str | None = None,
    requantize: str | None = None,
    accumulate: str | None = None,
    target: str | os.PathLike[str] | Target | None = None,
) -> Program:
    """Compile a quantized model (QDQ or QOperator form) for the C kernels.

    Args:
        model: path, model or graph.
        threads: threads to share each operator among.
        isa: limit of the instruction set: scalar, avx2, avxvnni, avx512vnni, amx.
        requantize: rounding: float (default), fixed, gemmlowp.
        accumulate: s32 (default), or s16-pairs, which saturates as processors without VNNI do.
        target: name or file of a target whose arithmetic is the default of the two before.

    Raises:
        ModelError: the model cannot be read, compiled or run; names the node.
        UsageError: an unknown option or target.
    """
    graph = model if isinstance(model, Graph) else load(model)
    chip = Target("exact") if target is None else find_target(target)
    return Program(
        graph,
        threads=threads,
        isa=isa,
        requantize=requantize or chip.requantize,
        accumulate=accumulate or ("s16-pairs" if chip.saturating_pairs else "s32"),
    )
