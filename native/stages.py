"""The stages of a compiled model: programs of the C executor, and parts of ONNX Runtime."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir import DType, ModelError, Value
from ..ir.clone import extract
from ..ir.evaluate import Runner
from .kernels import Kernel
from .lowering import TYPE_OF, Lowering, title
from .model import Array, Model
from .profile import Operand, OperatorTime, operator_time
from .values import Rows

Buffers = list[Array]
"""Arrays that a stage writes in every run of a plan, empty before the first: memory that is
allocated again for each run is mapped and cleared again too."""


class Native:
    """A stage that the C executor runs."""

    def __init__(
        self, model: Model, options: Mapping[str, Any], given_away: Sequence[bool]
    ) -> None:
        """Compile `model`; `given_away` says which of its outputs the caller keeps."""
        self.model = model
        self.kernel = Kernel(self.model, **options)
        self.model.data.clear()  # packed by now; weights are held once
        self.given_away = given_away

    def run(
        self, given: Sequence[Array], buffers: Buffers, times: list[OperatorTime] | None
    ) -> list[Array]:
        """The outputs; the time of each operator is added to `times`, if that is wanted."""
        if not buffers:
            buffers += self.kernel.empty()
        kept = zip(buffers, self.given_away, strict=True)
        results = [np.empty_like(array) if away else array for array, away in kept]
        if times is None:
            return self.kernel.run(given, results)
        found, spent = self.kernel.profile(given, results)
        for op, kernel, ns in zip(self.model.ops, self.kernel.kernels(), spent, strict=True):
            times.append(operator_time(self.model, op, kernel, ns))
        return found


class NativeRows:
    """An operator of the C executor whose number of rows is known only while running.

    It is compiled for a power of two of them, anew once there are more.
    """

    def __init__(self, rows: Rows, options: Mapping[str, Any], given_away: bool) -> None:
        self.rows = rows
        self.options = options
        self.given_away = given_away
        self.capacity = 0
        self.lock = threading.Lock()
        self.program: Native | None = None

    def _sized(self, count: int) -> tuple[int, Native]:
        with self.lock:
            if self.program is None or count > self.capacity:
                self.capacity = 1 << max(count - 1, 0).bit_length()
                model = self.rows.model(self.capacity)
                self.program = Native(model, self.options, [self.given_away])
            return self.capacity, self.program

    def run(
        self, given: Sequence[Array], buffers: Buffers, times: list[OperatorTime] | None
    ) -> list[Array]:
        """The rows there are: all arrays but the first have one entry for each."""
        count = len(given[1])
        if any(len(array) != count for array in given[1:]):
            sizes = ", ".join(str(len(array)) for array in given[1:])
            raise ModelError(f"{self.rows.label}: operands of {sizes} rows")
        capacity, program = self._sized(count)
        padded = [given[0]]
        for array in given[1:]:
            padded.append(np.zeros((capacity, *array.shape[1:]), array.dtype))
            padded[-1][:count] = array
        if buffers and len(buffers[0]) != capacity:
            buffers.clear()
        (found,) = program.run([*padded, np.array([count])], buffers, times)
        return [found[:count]]


class Island:
    """A stage that ONNX Runtime runs."""

    def __init__(
        self, low: Lowering, stage: int, wanted: list[Value], threads: int,
        given_away: Sequence[bool],
    ) -> None:  # fmt: skip
        """Of `wanted`, the values of that stage, those `given_away` are kept by the caller."""
        sources = low.island_inputs[stage]
        self.part, where = extract(low.graph, list(sources), wanted)
        self.given = [where[value] for value in sources]
        self.wanted = [where[value] for value in wanted]
        for i, (copy, stored) in enumerate(zip(self.given, sources.values(), strict=True)):
            copy.name = f"input_{i}"
            if copy.dtype is None and stored.shape is not None:
                copy.dtype = next(d for d, t in TYPE_OF.items() if t == stored.dtype)
                copy.shape = stored.shape
        self.threads = threads
        self.given_away = given_away
        self.label = ", ".join(node.label for node in low.islands[stage])
        self.nodes = tuple(title(node) for node in low.islands[stage])
        self.lock = threading.Lock()
        self.runner: Runner | None = None
        self.names = [copy.name for copy in self.given]
        if all(copy.dtype is not None for copy in self.given):
            self._open([])

    def _open(self, given: Sequence[Array]) -> Runner:
        """The session; types that nothing told before are those of the arrays that came."""
        with self.lock:
            if self.runner is None:
                for copy, array in zip(self.given, given, strict=False):
                    copy.dtype = copy.dtype or DType.of(array)
                try:
                    # Programs and other parts want the cores as soon as this one is done.
                    self.runner = Runner(self.part, self.wanted, threads=self.threads, spin=False)
                except ModelError as error:
                    raise ModelError(f"{self.label[:200]}: {error}") from None
                del self.part, self.given, self.wanted  # the session has its own
            return self.runner

    def run(
        self, given: Sequence[Array], buffers: Buffers, times: list[OperatorTime] | None
    ) -> list[Array]:
        """The outputs; the time of all is added to `times`, if that is wanted."""
        start = time.perf_counter_ns()
        runner = self.runner or self._open(given)
        found = runner.run(dict(zip(self.names, given, strict=True)), borrow=True)
        for i, array in enumerate(found):
            if self.given_away[i] and isinstance(array, np.ndarray):
                found[i] = array.copy()
        if times is not None:
            spent = time.perf_counter_ns() - start
            times.append(self._time(given, found, spent))
        return found

    def _time(self, given: Sequence[Array], found: list[Array], spent: int) -> OperatorTime:
        inputs, outputs = (tuple(Operand(str(a.dtype), a.shape) for a in s) for s in (given, found))
        moved = sum(a.nbytes for a in (*given, *found))
        kind = "onnxruntime", "float", ""
        return OperatorTime(self.label, self.nodes, *kind, inputs, outputs, 0, moved, spent)


Stage = Native | NativeRows | Island
