"""These kernels as an engine that whole models and single operators are timed in."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from ..ir import Graph
from ..ir.engines import Event, Feeds, Session, settled
from ..ir.engines import onnxruntime as float_engine
from .lowering import title
from .profile import OperatorTime
from .program import Program, compile

CONVERSIONS = {"quantize": "QuantizeLinear", "dequantize": "DequantizeLinear"}
PRODUCTS = re.compile("Conv|Gemm|MatMul")


def version() -> str:
    """That of the package, and the best instruction set here."""
    from importlib.metadata import version as installed

    from .kernels import best_isa

    return f"{installed('ptq-opt')} {best_isa()}"


def opened(path: Path, threads: int) -> Session:
    """A program; inputs that the graph does not have may be fed."""
    program = _compiled(path, threads)
    return lambda feeds: program.run({name: feeds[name] for name in program.inputs})


def _compiled(model: Graph | Path, threads: int) -> Program:
    return compile(model, threads=threads or os.cpu_count() or 1)


class Profile:
    """Times of the operators of a program.

    A part that ONNX Runtime runs is one of them: its time counts for its nodes in equal parts. A
    graph that is such a part as a whole is profiled there.
    """

    def __init__(self, graph: Graph, path: Path, threads: int) -> None:
        """Compile `graph`, where anything in it is in integers."""
        self._ops = {title(node): node.op for node in graph}
        integer = any(node.op in CONVERSIONS.values() for node in graph)
        self._float = None if integer else float_engine.Profile(graph, path, threads)
        if integer:
            self._program = _compiled(graph, threads)
        self._taken: dict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(list)

    def run(self, feeds: Feeds) -> None:
        """Run once."""
        if self._float is not None:
            self._float.run(feeds)
            return
        once: dict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        for each in self._program.profile({name: feeds[name] for name in self._program.inputs}):
            for key, time in self._events(each):
                once[key] += time
        for key, time in once.items():
            self._taken[key].append(time)

    def events(self) -> list[Event]:
        """What ran, as ONNX calls it; copies around a product are `Reorder`."""
        if self._float is not None:
            return self._float.events()
        return [Event(op, names, settled(times)) for (op, names), times in self._taken.items()]

    def _events(self, each: OperatorTime) -> list[tuple[tuple[str, tuple[str, ...]], float]]:
        """Type, names (who does the work first) and nanoseconds."""
        names = tuple(sorted(each.nodes, key=self._rank))
        if each.op == "onnxruntime":
            share = each.nanoseconds / max(len(names), 1)
            return [((self._ops.get(name, each.op), (name,)), share) for name in names]
        first = self._ops.get(names[0], each.op) if names else each.op
        if each.op in CONVERSIONS:
            first = CONVERSIONS[each.op]
        elif each.op == "copy" and PRODUCTS.match(first):
            first = "Reorder"
        return [((first, names), float(each.nanoseconds))]

    def _rank(self, name: str) -> int:
        op = self._ops.get(name, "")
        return 0 if PRODUCTS.match(op) else 2 if op in CONVERSIONS.values() else 1
