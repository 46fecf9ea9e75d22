"""Times conversions between float and integers in an engine, on models made for that."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ..ir import DType, Graph, grid
from ..ir.engines import Event, profile
from ..ir.target import Target
from ..ir.timings import Timing
from .deployed import deployed

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
SIZES = tuple(1 << k for k in range(10, 24, 3))
"""Elements of the tensors that are converted by themselves."""
CHANNELS = 32
EDGES = (4, 14, 56, 112)
"""Height and width of the images that are converted between convolutions."""


def time_conversions(target: Target, threads: int, runs: int) -> list[Timing]:
    """Conversions of tensors of some sizes: by themselves, and between two convolutions.

    Engines keep images in layouts of their own around convolutions, another one in integers than
    in float, so that there a change of layout comes with each conversion.
    """
    alone, feeds = _alone()
    images = [_between(edge, target) for edge in EDGES]
    feeds |= {f"image{edge}": np.zeros((1, CHANNELS, edge, edge), np.float32) for edge in EDGES}
    events = profile(target.engine, [alone, *images], feeds, threads=threads, runs=runs)
    rows = []
    for event in events[0]:
        for size in SIZES:
            if event.op in CONVERSIONS and event.names[0] == f"{event.op}{size}":
                rows.append(Timing(event.op, str(size), size, None, event.time))
    for edge, each in zip(EDGES, events[1:], strict=True):
        size = CHANNELS * edge * edge
        for op, time in zip(CONVERSIONS, _shared_out(each), strict=True):
            rows.append(Timing(f"{op} image", str(size), size, None, time))
    return rows


def _alone() -> tuple[Graph, dict[str, np.ndarray]]:
    """Each conversion of each size by itself, and what to feed."""
    graph, feeds = Graph("conversions"), {}
    scale, zero = graph.constant(np.float32(0.1)), graph.constant(np.array(3, np.uint8))
    results = []
    for size in SIZES:
        real = graph.input(f"real{size}", DType.FLOAT, (size,))
        stored = graph.input(f"stored{size}", DType.UINT8, (size,))
        feeds[real.name] = np.linspace(-1, 1, size, dtype=np.float32)
        feeds[stored.name] = np.arange(size).astype(np.uint8)
        for op, value, dtype in zip(
            CONVERSIONS, (real, stored), (DType.UINT8, DType.FLOAT), strict=True
        ):
            node = graph.add(op, [value, scale, zero], name=f"{op}{size}")
            node.output.dtype, node.output.shape = dtype, (size,)
            results.append(node.output)
    graph.set_outputs(results, [f"result{k}" for k in range(len(results))])
    return graph, feeds


def _between(edge: int, target: Target) -> Graph:
    """Three convolutions, the second in integers."""
    graph = Graph("image")
    value = graph.input(f"image{edge}", DType.FLOAT, (1, CHANNELS, edge, edge))
    weights = np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS, 1, 1))
    stored = grid(-1.0, 1.0, DType.UINT8)
    for k in range(3):
        constant = graph.constant(weights.astype(np.float32))
        node = graph.add("Conv", [value, constant], name=f"Conv{k}")
        node.precision = "int8" if k == 1 else "float"
        value = node.output
        value.dtype, value.shape = DType.FLOAT, (1, CHANNELS, edge, edge)
        if k < 2:
            value.quant = stored
        if k == 1:
            limit = float(np.abs(weights).max())
            constant.quant = grid(-limit, limit, DType.INT8, symmetric=True)
    graph.set_outputs([value], ["result"])
    return deployed(graph, target)


def _shared_out(events: list[Event]) -> tuple[float, float]:
    """Nanoseconds to quantize and to dequantize, each with its changes of layout.

    Changes of layout come in pairs of which one belongs to a graph's end: half of them count, in
    equal parts unless the engine says which way they go.
    """
    times: dict[str, float] = defaultdict(float)
    for event in events:
        times[event.op] += event.time
    entering = times.pop("QuantizeLinear", 0.0) + times.pop("ReorderOutput", 0.0) / 2
    leaving = times.pop("DequantizeLinear", 0.0) + times.pop("ReorderInput", 0.0) / 2
    both = sum(time for op, time in times.items() if "Conv" not in op) / 2
    return entering + both, leaving + both
