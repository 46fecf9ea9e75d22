"""``python -m ptq_opt.tools.bench.growth``: how the time of a pipeline grows with the graph.

Networks of residual blocks (Conv, BatchNormalization, Relu, Add) are loaded, quantized without
data, and saved; every step is timed, in processor time, so that other jobs hardly disturb. Weights
are tiny: what is measured is the work on graphs.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...ir import load, save
from ...ir.target import DEFAULT, find_target
from ...ir.verify import verify
from ...passes import Context, Instruments, Pipeline
from ...passes.registry import DATA_FREE

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000)
CHANNELS = 4
SIDE = 480, 300
"""Pixels of the plot."""
LINE = 12
"""Pixels between labels."""
COLORS = ("#0b6e99", "#c2571a", "#2f7d32", "#7b3fa0")


@dataclass(frozen=True)
class Step:
    """A step of a run: what it is called, processor time in seconds, how many rewrites it did."""

    name: str
    seconds: float
    rewrites: int = 0


def residual_network(operators: int) -> onnx.ModelProto:
    """Blocks of Conv, BatchNormalization, Relu and Add, each with constants of its own."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []

    def constant(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
        weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    last = "x"
    for k in range(operators // 4):
        w = constant(f"w{k}", rng.normal(0, 0.3, (CHANNELS, CHANNELS, 1, 1)))
        nodes.append(helper.make_node("Conv", [last, w], [f"conv{k}"], f"Conv_{k}"))
        gamma, beta, mean = (constant(f"{n}{k}", rng.normal(0, 0.3, CHANNELS)) for n in "gbm")
        variance = constant(f"v{k}", rng.uniform(0.5, 2, CHANNELS))
        given = [f"conv{k}", gamma, beta, mean, variance]
        nodes.append(helper.make_node("BatchNormalization", given, [f"bn{k}"], f"Norm_{k}"))
        nodes.append(helper.make_node("Relu", [f"bn{k}"], [f"relu{k}"], f"Relu_{k}"))
        if k:  # what is known without data begins at the first normalization
            nodes.append(helper.make_node("Add", [f"relu{k}", last], [f"out{k}"], f"Add_{k}"))
        last = f"out{k}" if k else "relu0"
    shape: list[str | int | None] = ["N", CHANNELS, 8, 8]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last))
    graph = helper.make_graph(nodes, "residual", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def measure(operators: int) -> list[Step]:
    """Load, verify, quantize without data and save a network of so many operators.

    A pass counts with the check of the graph's structure behind it.
    """
    steps: list[Step] = []
    clock = time.process_time()

    def done(name: str, rewrites: int = 0) -> None:
        nonlocal clock
        steps.append(Step(name, time.process_time() - clock, rewrites))
        clock = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(residual_network(operators), path)
        context, pipeline = Context(find_target(DEFAULT)), Pipeline(DATA_FREE)
        clock = time.process_time()
        graph = load(path)
        done("load")
        verify(graph)
        done("verify")
        after = [lambda step, _: done(step.spec, context.report.rewritten)]
        pipeline.run(graph, context, Instruments(after=after))
        save(graph, path)
        done("save")
    return steps


def table(runs: dict[int, list[Step]]) -> str:
    """Seconds per step and size, as Markdown; at the end how they grow and what a rewrite takes."""
    sizes = list(runs)
    head = ["step", *(f"{size:,}" for size in sizes), "exponent", "us per rewrite"]
    rows = [head, ["---"] * len(head)]
    for k, step in enumerate(runs[sizes[-1]]):
        seconds = [runs[size][k].seconds for size in sizes]
        each = f"{1e6 * step.seconds / step.rewrites:.0f}" if step.rewrites else "-"
        rows.append([f"`{step.name}`", *map(_told, seconds), exponent(sizes, seconds), each])
    totals = [sum(step.seconds for step in runs[size]) for size in sizes]
    rows.append(["all", *map(_told, totals), exponent(sizes, totals), ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def exponent(sizes: list[int], seconds: list[float]) -> str:
    """The p of the power size^p by which the time grows over the last factor of ten in size."""
    first = max((k for k, size in enumerate(sizes) if size * 10 <= sizes[-1]), default=0)
    if first == len(sizes) - 1 or seconds[first] <= 0 or seconds[-1] <= 0:
        return "-"
    return f"{math.log(seconds[-1] / seconds[first]) / math.log(sizes[-1] / sizes[first]):.2f}"


def _told(seconds: float) -> str:
    return f"{seconds:.3f}" if seconds < 1 else f"{seconds:.1f}"


def plot(runs: dict[int, list[Step]]) -> str:
    """The whole and the slowest steps over the size, both logarithmic, as SVG."""
    sizes = list(runs)
    largest = runs[sizes[-1]]
    slowest = sorted(range(len(largest)), key=lambda k: -largest[k].seconds)[: len(COLORS) - 1]
    lines = {"all": [sum(step.seconds for step in runs[size]) for size in sizes]}
    lines |= {largest[k].name: [runs[size][k].seconds for size in sizes] for k in slowest}
    low = math.floor(math.log10(min(min(line) for line in lines.values())))
    high = math.ceil(math.log10(max(max(line) for line in lines.values())))
    width, height = SIDE

    def x(size: float) -> float:
        span = math.log10(sizes[-1] / sizes[0]) or 1.0
        return 60 + (width - 180) * math.log10(size / sizes[0]) / span

    def y(seconds: float) -> float:
        return 20 + (height - 60) * (high - math.log10(seconds)) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{(width - 60) / 2:.0f}" y="{height - 8}">operators</text>',
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<path d="M60 {at:.1f}H{width - 120}" stroke="#ddd"/>')
        parts.append(f'<text x="54" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g} s</text>')
    for size in sizes:
        parts.append(
            f'<text x="{x(size):.1f}" y="{height - 24}" text-anchor="middle">{size:,}</text>'
        )
    label = 0.0
    ranked = sorted(zip(COLORS, lines.items(), strict=False), key=lambda each: -each[1][1][-1])
    for color, (name, line) in ranked:
        points = _points((x(size), y(s)) for size, s in zip(sizes, line, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        label = max(label + LINE, y(line[-1]) + 4)  # below the one before
        parts.append(f'<text x="{width - 114}" y="{label:.1f}" fill="{color}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


@click.command()
@click.argument("sizes", nargs=-1, type=int)
@click.option("--svg", type=click.Path(path_type=Path), help="File for the plot.")
def main(sizes: tuple[int, ...], svg: Path | None) -> None:
    """Time networks of SIZES operators; print a table and write a plot."""
    runs = {size: measure(size) for size in sorted(sizes or SIZES)}
    click.echo(table(runs))
    if svg is not None:
        svg.write_text(plot(runs))


if __name__ == "__main__":
    main()
