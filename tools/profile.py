"""Times of single operators: the tables that `ptq-run --profile` shows and writes."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from ..ir import Graph
from ..ir.evaluate import Runner
from ..ir.tensor import Array
from ..native.profile import Operand, OperatorTime
from ..native.program import Program

FORMAT = 1
"""Of the profile in JSON; a reader that knows a format may rely on all its keys."""
TYPES = {
    "float": "f32", "double": "f64", "float16": "f16", "uint8": "u8", "int8": "s8",
    "uint16": "u16", "int16": "s16", "int32": "s32", "int64": "s64",
}  # fmt: skip
"""ONNX Runtime's names of element types -> ours."""


def profile_native(program: Program, feeds: Mapping[str, Array], runs: int) -> list[OperatorTime]:
    """Each operator with the median time of several runs."""
    program.run(feeds)
    rounds = [program.profile(feeds) for _ in range(runs)]
    return [
        replace(same[0], nanoseconds=int(statistics.median(t.nanoseconds for t in same)))
        for same in zip(*rounds, strict=True)
    ]


def profile_onnxruntime(
    graph: Graph, feeds: Mapping[str, Array], runs: int, threads: int
) -> list[OperatorTime]:
    """The same of ONNX Runtime, by its own clock, which counts whole microseconds."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(graph, threads=threads, profile=str(Path(folder, "profile")))
        for _ in range(1 + runs):
            runner.run(feeds)
        events = json.loads(Path(runner.end_profile()).read_text())
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["name"], event["args"]["node_index"]].append(event)
    return [_onnxruntime_time(same, runs) for same in found.values()]


def _onnxruntime_time(events: list[Any], runs: int) -> OperatorTime:
    """Of one operator, whose events of the first run do not count."""
    told, name = events[-1]["args"], events[-1]["name"].removesuffix("_kernel_time")
    inputs, outputs = _operands(told["input_type_shape"]), _operands(told["output_type_shape"])
    each = len(events) // (1 + runs)  # more than one inside a loop
    microseconds = statistics.median(event["dur"] for event in events[each:]) * each
    sizes = ("activation_size", "parameter_size", "output_size")
    integer = any(o.type in ("u8", "s8", "u16", "s16") for o in inputs)
    return OperatorTime(
        f"{told['op_name']} '{name}'",
        (name,),
        told["op_name"],
        "integer" if integer else "float",
        "",
        inputs,
        outputs,
        2 * _products(told["op_name"], inputs, outputs),
        sum(int(told[size]) for size in sizes),
        int(1000 * microseconds),
    )


def _operands(told: list[dict[str, list[int]]]) -> tuple[Operand, ...]:
    pairs = (pair for operand in told for pair in operand.items())
    return tuple(Operand(TYPES.get(kind, kind), tuple(shape)) for kind, shape in pairs)


def _products(op: str, inputs: tuple[Operand, ...], outputs: tuple[Operand, ...]) -> int:
    """Multiply-accumulates of a convolution or matrix product; weights are [O, C/groups, k...]."""
    tensors = [o.shape for o in inputs if o.shape is not None and len(o.shape) > 1]
    if len(tensors) < 2 or not outputs or outputs[0].shape is None:
        return 0
    x, w = tensors[:2]
    if op.endswith("ConvTranspose"):
        return math.prod(x) * math.prod(w[1:])
    if "Conv" in op:
        return math.prod(outputs[0].shape) * math.prod(w[1:])
    return math.prod(outputs[0].shape) * x[-1] if "MatMul" in op or "Gemm" in op else 0


def document(times: list[OperatorTime], runs: int, threads: int, isa: str | None) -> dict[str, Any]:
    """The profile as JSON, see docs/kernels.md."""
    operators = [{k: v for k, v in asdict(t).items() if k != "label"} for t in times]
    return {
        "format": FORMAT,
        "machine": machine(),
        "cores": os.cpu_count(),
        "isa": isa,
        "threads": threads,
        "runs": runs,
        "operators": operators,
    }


def machine() -> str:
    """The processor by name."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def profile_table(times: list[OperatorTime], most: int | None = None) -> Table:
    """Slowest first, all or so many, with the rates of arithmetic and memory."""
    table = Table(
        "operator", "kernel", "result", "us", "%", "GOP/s", "GB/s", "node",
        box=None, header_style="bold",
    )  # fmt: skip
    total = sum(t.nanoseconds for t in times) or 1
    for t in sorted(times, key=lambda t: -t.nanoseconds)[:most]:
        spent = t.nanoseconds or 1
        shape = t.outputs[0].shape if t.outputs else None
        table.add_row(
            t.op, t.kernel, "x".join(map(str, shape or ())), f"{t.nanoseconds / 1e3:.1f}",
            f"{100 * t.nanoseconds / total:.1f}",
            f"{t.operations / spent:.1f}" if t.operations else "",
            f"{t.bytes / spent:.1f}", t.label[:60],
        )  # fmt: skip
    table.add_row("total", "", "", f"{total / 1e3:.1f}", "100.0", "", "", "")
    return table
