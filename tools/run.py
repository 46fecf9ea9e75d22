"""`ptq-run`: run a quantized model, compare it with another, time it, profile it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from ..ir import Graph, UsageError, load
from ..ir.evaluate import Runner, decibel
from ..ir.samples import Samples, open_samples, random_samples
from ..ir.tensor import Array
from ..native.kernels import ACCUMULATE, REQUANTIZE
from ..native.program import compile
from . import completion
from .files import Existing, check_writable, write_text
from .profile import document, profile_native, profile_onnxruntime, profile_table
from .rounding import difference_table, differences
from .terminal import leaving, screen

HELP = """Run MODEL, a quantized ONNX file, with the C kernels of this package.

\b
  ptq-run model.int8.onnx --data calib/
  ptq-run model.int8.onnx --data calib/ --compare model.onnx
  ptq-run model.int8.onnx --data calib/ --layers
  ptq-run model.int8.onnx --bench 50 --threads 2
  ptq-run model.int8.onnx --profile --json costs.json

Without --data one made-up sample is used. --compare runs OTHER in ONNX Runtime; OTHER may be MODEL
itself. Where the two engines differ, --layers says by which rounding.

Exit codes: 0 fine, 1 the model or the data is at fault, 2 the command is.
"""

Engine = Callable[[Mapping[str, Array]], dict[str, Array]]
ISAS = ("scalar", "avx2", "avxvnni", "avx512vnni", "amx")


@dataclass(frozen=True)
class Options:
    """The command line, by the names of its options; see `--help`."""

    model: Path
    backend: str
    data: str | None
    samples: int
    compare: Path | None
    bench: int
    threads: int
    isa: str | None
    target: str | None
    requantize: str | None
    accumulate: str | None
    layers: bool
    profile: bool
    json: Path | None
    debug: bool


EXISTING = Existing()


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=EXISTING)
@click.option(
    "--backend", type=click.Choice(["native", "ort"]), default="native", show_default=True
)
@click.option(
    "--data",
    metavar="DATA",
    shell_complete=completion.files,
    help="Samples, in any form that ptq-opt reads.",
)
@click.option("--samples", default=10, show_default=True, help="Use at most N samples.")
@click.option("--compare", type=EXISTING, metavar="OTHER", help="Compare outputs with OTHER's.")
@click.option("--bench", type=click.IntRange(0), default=0, metavar="N", help="Time N runs.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--isa", type=click.Choice(ISAS), help="Use no instruction set beyond this one.")
@click.option(
    "--target",
    metavar="NAME|FILE",
    shell_complete=completion.targets,
    help="Round and add up as this target does.",
)
@click.option(
    "--requantize", type=click.Choice(list(REQUANTIZE)),
    help="Rounding to the output grid; the target's by default, float without one.",
)  # fmt: skip
@click.option(
    "--accumulate", type=click.Choice(list(ACCUMULATE)),
    help="s16-pairs saturates as processors without VNNI do; the target's by default, or s32.",
)  # fmt: skip
@click.option(
    "--layers", is_flag=True, help="Compare every stored tensor with ONNX Runtime's of this model."
)
@click.option("--profile", is_flag=True, help="Time every operator.")
@click.option("--json", type=click.Path(path_type=Path), help="Write what was measured here.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(**values: Any) -> None:
    """Parse, run, and turn errors into one message and an exit code."""
    options = Options(**values)
    with leaving("ptq-run", debug=options.debug):
        run(options)


def run(options: Options) -> None:
    """Do what the command line says."""
    if options.json is not None:
        check_writable(options.json)
    if options.backend != "native":
        _refuse_native_options(options)
    graph = load(options.model)
    console = screen()
    samples = _samples(graph, options)
    program = compile(graph, **_settings(options)) if options.backend == "native" else None
    engine = program.run if program is not None else _onnxruntime(graph, options.threads)
    found: dict[str, Any] = {"model": str(options.model), "backend": options.backend}
    first = next(iter(samples))
    outputs = engine(first)
    if options.compare is not None:
        found["compare"] = _compare(engine, load(options.compare), graph, samples, options)
        console.print(_comparison_table(found["compare"], str(options.compare)))
    else:
        console.print(_output_table(outputs))
    if options.layers:
        found["layers"] = _layers(console, graph, samples, options)
    if options.bench:
        found["bench"] = _bench(engine, first, options)
        console.print(_bench_line(found["bench"]))
    if options.profile:
        runs = max(options.bench, 5)
        if program is not None:
            times = profile_native(program, first, runs)
        else:
            times = profile_onnxruntime(graph, first, runs, options.threads)
        isa = next((k.info.isa for k in program.kernels), None) if program is not None else None
        found["profile"] = document(times, runs, options.threads, isa)
        console.print(profile_table(times))
    if program is not None:
        found["onnxruntime"] = program.reasons
        _report_reasons(console, program.reasons)
    if options.json is not None:
        write_text(options.json, json.dumps(found, indent=1) + "\n")


def _refuse_native_options(options: Options) -> None:
    if options.layers:
        raise UsageError("--layers is for the native backend")
    for name in ("isa", "target", "requantize", "accumulate"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} is for the native backend")


def _samples(graph: Graph, options: Options) -> Samples:
    if options.data is None:
        return random_samples(graph.inputs, 1)
    return open_samples(options.data, graph.inputs, options.samples)


def _settings(options: Options) -> dict[str, Any]:
    """The options of `native.compile`."""
    names = ("threads", "isa", "requantize", "accumulate", "target")
    return {name: getattr(options, name) for name in names}


def _layers(
    console: Console, graph: Graph, samples: Samples, options: Options
) -> list[dict[str, Any]]:
    """Print the stored tensors on which the engines differ; all of them."""
    rows = differences(graph, samples, _settings(options))
    if any(row.along for row in rows):
        console.print(difference_table(rows))
    console.print(
        f"{len(rows)} stored tensors: {sum(not row.along for row in rows)} equal along the model, "
        f"{sum(not row.own for row in rows)} from equal inputs"
    )
    return [{**asdict(row), "cause": row.cause} for row in rows]


def _onnxruntime(graph: Graph, threads: int) -> Engine:
    runner = Runner(graph, threads=threads)

    def run_(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(graph.output_names, runner.run(feeds), strict=True))

    return run_


def step_of(graph: Graph, name: str) -> float | None:
    """The step of the grid that output `name` was rounded to, None when it is not on one."""
    value = graph.outputs[graph.output_names.index(name)]
    while value.producer is not None and value.producer.is_op("Reshape", "Transpose", "Squeeze"):
        source = value.producer.inputs[0]
        assert source is not None
        value = source
    node = value.producer
    if node is None or not node.is_op("DequantizeLinear"):
        return None
    scale = node.input(1)
    if scale is None or not scale.is_constant or scale.numpy().size != 1:
        return None
    return float(scale.numpy().reshape(-1)[0])


def _compare(
    engine: Engine, other: Graph, graph: Graph, samples: Samples, options: Options
) -> list[dict[str, Any]]:
    """Per output: largest difference (in steps of its grid), SQNR in dB, agreement of argmax."""
    reference = _onnxruntime(other, options.threads)
    names = [name for name in graph.output_names if name in other.output_names]
    if not names:
        raise UsageError(f"'{options.compare}' has no output that the model has")
    totals = {
        name: {"signal": 0.0, "noise": 0.0, "worst": 0.0, "same": 0, "n": 0} for name in names
    }
    for feeds in samples:
        ours, theirs = engine(feeds), reference(feeds)
        for name in names:
            a, b = ours[name].astype(np.float64), theirs[name].astype(np.float64)
            if a.shape != b.shape:
                raise UsageError(f"output '{name}' is {list(a.shape)} and {list(b.shape)}")
            total, difference = totals[name], np.abs(a - b)
            total["signal"] += float(np.sum(b * b))
            total["noise"] += float(np.sum(difference * difference))
            total["worst"] = max(total["worst"], float(difference.max(initial=0.0)))
            if a.ndim and a.shape[-1] > 1:
                same = a.argmax(-1) == b.argmax(-1)
                total["same"] += int(same.sum())
                total["n"] += same.size
    rows = []
    for name, total in totals.items():
        step = step_of(graph, name)
        rows.append(
            {
                "output": name,
                "difference": total["worst"],
                "steps": round(total["worst"] / step, 3) if step else None,
                "sqnr_db": decibel(total["signal"], total["noise"]),
                "agreement": total["same"] / total["n"] if total["n"] else None,
            }
        )
    return rows


def _bench(engine: Engine, feeds: Mapping[str, Array], options: Options) -> dict[str, Any]:
    engine(feeds)
    times = []
    for _ in range(options.bench):
        start = time.perf_counter()
        engine(feeds)
        times.append(1e3 * (time.perf_counter() - start))
    return {
        "runs": options.bench,
        "threads": options.threads,
        "median_ms": statistics.median(times),
        "best_ms": min(times),
    }


def _output_table(outputs: Mapping[str, Array]) -> Table:
    table = Table("output", "type", "shape", "min", "max", "mean", box=None, header_style="bold")
    for name, array in outputs.items():
        numbers = ["", "", ""]
        if array.size and array.dtype.kind in "iuf":
            numbers = [f"{v:.6g}" for v in (array.min(), array.max(), array.mean())]
        table.add_row(name, str(array.dtype), str(list(array.shape)), *numbers)
    return table


def _comparison_table(rows: list[dict[str, Any]], other: str) -> Table:
    table = Table(
        "output", "max difference", "in steps", "SQNR dB", "same argmax",
        box=None, header_style="bold", title=f"compared with {other}", title_justify="left",
    )  # fmt: skip
    for row in rows:
        steps = "" if row["steps"] is None else f"{row['steps']:g}"
        agreement = "" if row["agreement"] is None else f"{row['agreement']:.2%}"
        table.add_row(
            row["output"], f"{row['difference']:.6g}", steps, f"{row['sqnr_db']:.1f}", agreement
        )
    return table


def _bench_line(found: Mapping[str, Any]) -> str:
    return (
        f"{found['median_ms']:.3f} ms median, {found['best_ms']:.3f} ms best "
        f"of {found['runs']} runs, {found['threads']} thread(s)"
    )


def _report_reasons(console: Console, reasons: Mapping[str, str]) -> None:
    if not reasons:
        return
    console.print(f"{len(reasons)} node(s) run in ONNX Runtime:")
    for label, reason in list(reasons.items())[:20]:
        console.print(f"  {label}: {reason}")
    if len(reasons) > 20:
        console.print(f"  and {len(reasons) - 20} more (all of them with --json)")
