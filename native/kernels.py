"""The C executor from Python: create a program from a model, run it, time it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import ModelError, UsageError
from ._kernels import ffi, lib
from .model import NUMPY, Array, Model, Role

REQUANTIZE = {"float": 0, "fixed": 1, "gemmlowp": 2}
ACCUMULATE = {"s32": 0, "s16-pairs": 1}


def isa_names() -> list[str]:
    """Names of the instruction sets the library knows, in order of preference."""
    names = (ffi.string(lib.ptq_isa_name(i)) for i in range(lib.PTQ_ISA_COUNT))
    return [str(name, "ascii") for name in names]


def best_isa() -> str:
    """The best instruction set of this machine."""
    return isa_names()[int(lib.ptq_best_isa())]


def _number(name: str, table: dict[str, int], what: str) -> int:
    if name not in table:
        raise UsageError(f"unknown {what} '{name}'; it is one of {', '.join(table)}")
    return table[name]


@dataclass(frozen=True)
class Info:
    """Memory and choices of a program: bytes, instruction set in use, threads."""

    arena_bytes: int
    live_bytes: int
    constant_bytes: int
    isa: str
    threads: int


class Kernel:
    """One compiled model: arrays in, arrays out, the interpreter lock released in between.

    Args:
        model: what to run.
        threads: threads to share each operator among, 1 to 64.
        isa: upper limit of the instruction set, None for the best one.
        requantize: "float", "fixed" or "gemmlowp".
        accumulate: "s32" or "s16-pairs".

    Raises:
        ModelError: the model is invalid or not supported; the message names the operator.
        UsageError: an unknown option.
    """

    def __init__(
        self,
        model: Model,
        threads: int = 1,
        isa: str | None = None,
        requantize: str = "float",
        accumulate: str = "s32",
    ) -> None:
        if not 1 <= threads <= 64:
            raise UsageError(f"threads must be 1 to 64, not {threads}")
        names = {name: i for i, name in enumerate(isa_names())}
        options = ffi.new("ptq_options *")
        options.isa = _number(isa or best_isa(), names, "instruction set")
        options.threads = threads
        options.requantize = _number(requantize, REQUANTIZE, "requantization")
        options.accumulate = _number(accumulate, ACCUMULATE, "accumulation")
        self.labels = [op.label or op.kind.name.lower() for op in model.ops]
        self.inputs = [model.tensors[i] for i in model.numbers(Role.INPUT)]
        self.outputs = [model.tensors[i] for i in model.numbers(Role.OUTPUT)]
        self._program = self._create(model.serialize(), options)

    def _create(self, blob: bytes, options: Any) -> Any:
        error, parsed, result = ffi.new("ptq_error *"), ffi.new("ptq_model *"), ffi.new("void **")
        program = ffi.cast("ptq_program **", result)
        aligned = ffi.new("int64_t[]", (len(blob) + 7) // 8)
        ffi.memmove(aligned, blob, len(blob))
        status = lib.ptq_model_parse(aligned, len(blob), parsed, error)
        if status == lib.PTQ_OK:
            status = lib.ptq_program_create(parsed, options, program, error)
        self._check(status, error)
        return ffi.gc(program[0], lib.ptq_program_free)

    def _check(self, status: int, error: Any) -> None:
        if status == lib.PTQ_OK:
            return
        message = ffi.string(error.message).decode()
        if 0 <= error.op < len(self.labels):
            message = f"{self.labels[error.op]}: {message}"
        if status == lib.PTQ_NO_MEMORY:
            raise MemoryError(message)
        raise ModelError(message)

    def run(self, arrays: Sequence[Array], results: list[Array] | None = None) -> list[Array]:
        """Run once on `arrays`, which have the inputs' types and shapes.

        `results`, if given, are what `empty` made; they are written and returned.
        """
        return self._run(arrays, self.empty() if results is None else results, None)

    def profile(
        self, arrays: Sequence[Array], results: list[Array] | None = None
    ) -> tuple[list[Array], list[int]]:
        """Run once; the outputs, and the nanoseconds of each operator."""
        times = ffi.new("int64_t[]", max(1, len(self.labels)))
        outputs = self._run(arrays, self.empty() if results is None else results, times)
        return outputs, [int(times[i]) for i in range(len(self.labels))]

    def empty(self) -> list[Array]:
        """Arrays for the outputs of a run."""
        return [np.empty(t.shape, NUMPY[t.dtype]) for t in self.outputs]

    def _run(self, arrays: Sequence[Array], results: list[Array], times: Any) -> list[Array]:
        if len(arrays) != len(self.inputs):
            raise UsageError(f"{len(self.inputs)} inputs expected, {len(arrays)} given")
        given = []
        for tensor, array in zip(self.inputs, arrays, strict=True):
            if array.dtype != NUMPY[tensor.dtype] or array.shape != tensor.shape:
                raise UsageError(
                    f"an input is {array.dtype}{list(array.shape)}, "
                    f"not {NUMPY[tensor.dtype]}{list(tensor.shape)}"
                )
            given.append(np.ascontiguousarray(array))
        sources = ffi.new("void *[]", [ffi.cast("void *", a.ctypes.data) for a in given] or 1)
        targets = ffi.new("void *[]", [ffi.cast("void *", a.ctypes.data) for a in results] or 1)
        error = ffi.new("ptq_error *")
        inputs = ffi.cast("void const *const *", sources)
        status = lib.ptq_program_run(self._program, inputs, targets, times or ffi.NULL, error)
        self._check(status, error)
        return results

    @property
    def info(self) -> Info:
        """Memory and choices."""
        raw = ffi.new("ptq_info *")
        lib.ptq_program_info(self._program, raw)
        return Info(
            raw.arena_bytes, raw.live_bytes, raw.constant_bytes, isa_names()[raw.isa], raw.threads
        )

    def kernels(self) -> list[str]:
        """Name of the kernel chosen for each operator."""
        names = (lib.ptq_program_kernel(self._program, i) for i in range(len(self.labels)))
        return [ffi.string(name).decode() for name in names]
