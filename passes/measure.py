"""Times every operator in every precision, and conversions, in the target's engine."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..ir import Graph, UsageError, shapes
from ..ir.clone import clone
from ..ir.engines import Event, installed, latencies, machine, profile, version
from ..ir.samples import random_samples
from ..ir.target import Target
from ..ir.timings import Timing, Timings, merged
from .base import Context, Pass
from .conversions import CONVERSIONS, time_conversions
from .costs import FREE, estimate, kind_of, shape_of, work_of
from .deployed import deployed_choice
from .plan import clear, known_spans
from .units import Unit, find_units, makers_and_readers

SECONDS = 2.0
"""How long whole runs are timed."""
PROFILED = 20.0
"""Seconds after which models run no more, once each ran a few times."""
LAYOUT = ("ReorderInput", "ReorderOutput", "Reorder", "Transpose", *CONVERSIONS, "FakeQuantize")
"""What engines put between operators; no part of their time unless they are that themselves."""
PRODUCTS = re.compile("Conv|Gemm|MatMul|FullyConnected")
MARK = re.compile(r"unit(\d+)x")


@dataclass(frozen=True)
class Measure(Pass):
    """Time operators and conversions on this machine; the graph stays as it is.

    The float graph and one that computes in integers wherever there is a kernel are profiled in the
    target's engine, and two in which products are in one precision and what is between them in the
    other. What the engine fuses counts as one operator, the one that does the work. A profile takes
    longer than what it tells of: times are scaled to those of whole runs without one.

    Attributes:
        runs: of each model, fewer where it takes long; the mean of the fastest quarter counts.
        threads: of each session; 0 for one per core.
    """

    name: ClassVar[str] = "measure"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded", "ranges")
    preserves_function: ClassVar[bool] = True

    runs: int = 20
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        if self.runs < 1:
            raise ValueError("runs must be at least 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Let the target know the measured times."""
        engine = need_engine(context.target)
        shapes.infer(graph)
        copy, _ = clone(graph)
        units = marked(copy, context)
        feeds = next(iter(context.samples or random_samples(graph.inputs, 1, context.seed)))
        with context.progress("timing operators", None):
            graphs = variants(copy, units, context)
            events = profile(
                engine, graphs, feeds, threads=self.threads, runs=self.runs, seconds=PROFILED
            )
            conversions = time_conversions(context.target, self.threads, self.runs)
            named = {str(k): graph for k, graph in enumerate(graphs)}
            whole = latencies(engine, named, feeds, threads=self.threads, seconds=SECONDS)
        shares = [
            Shares.of(units, as_whole(each, time))
            for each, time in zip(events, whole.values(), strict=True)
        ]
        rows = [_row(unit, k, shares) for k, unit in enumerate(units) if unit.node.op not in FREE]
        context.report.matched = len(rows)
        for precision, share in zip(("float", "integers"), shares, strict=False):
            context.report.note(f"in {precision}: {share}")
        pace = [_pace(units, share, context.target, k) for k, share in enumerate(shares[:2])]
        context.timings = Timings(
            machine(), version(engine), merged([*rows, *conversions]), pace[0], pace[1]
        )


def need_engine(target: Target) -> str:
    """The target's engine; `UsageError` when this machine does not have it."""
    if not installed(target.engine):
        what = f"{target.engine} is not installed" if target.engine else "no engine runs its files"
        raise UsageError(f"cannot time models for target '{target.name}' here: {what}")
    return target.engine


def marked(graph: Graph, context: Context) -> list[Unit]:
    """Units of `graph`, whose number is in the names of all they consist of."""
    clear(graph)
    units = find_units(graph, context.target)
    for k, unit in enumerate(units):
        unit.node.name = f"unit{k}x"
        for j, value in enumerate(unit.node.outputs):
            value.name = f"unit{k}x{j}"
        if unit.after is not None:
            unit.after.name, unit.after.output.name = f"unit{k}xafter", f"unit{k}xresult"
    return units


def variants(graph: Graph, units: list[Unit], context: Context) -> list[Graph]:
    """Copies of `graph`: in float, in integers, and two in which products and the rest differ.

    The third has the products in float; there are only two copies where there is nothing else.
    """
    spans = known_spans(units, context)
    possible = [not unit.reason for unit in units]
    products = [unit.kind == "compute" for unit in units]
    between = [can and not product for can, product in zip(possible, products, strict=True)]
    choices = [[False] * len(units), possible]
    if any(between[k] for k, unit in enumerate(units) if unit.node.op not in FREE):
        only = [can and product for can, product in zip(possible, products, strict=True)]
        choices += [between, only]
    return [deployed_choice(graph, units, choice, spans, context.target) for choice in choices]


def as_whole(events: Sequence[Event], time: float) -> list[Event]:
    """Events that sum up to `time`, the nanoseconds of a run that is not profiled.

    What the quickest takes is taken for the profile's own part in each, as far as there is room.
    """
    surplus = sum(event.time for event in events) - time
    own = min((event.time for event in events), default=0.0)
    own = min(own, max(surplus, 0.0) / max(len(events), 1))
    left = [replace(event, time=event.time - own) for event in events]
    factor = time / (sum(event.time for event in left) or 1.0)
    return [replace(event, time=factor * event.time) for event in left]


@dataclass
class Shares:
    """How the time of a run is shared out.

    Attributes:
        units: unit -> nanoseconds.
        between: of conversions and changes of layout.
        unknown: of operators that belong to no unit.
    """

    units: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    between: float = 0.0
    unknown: float = 0.0

    @staticmethod
    def of(units: Sequence[Unit], events: Sequence[Event]) -> Shares:
        """Give each event to the unit whose number is in its names."""
        shares = Shares()
        maker, _ = makers_and_readers(units)
        adopted: list[tuple[int, float]] = []
        for event in events:
            found = MARK.search(" ".join(event.names))
            number = int(found[1]) if found else None
            if event.op in LAYOUT and (number is None or units[number].node.op != event.op):
                shares.between += event.time
            elif number is None:
                shares.unknown += event.time
            elif PRODUCTS.search(event.op) and units[number].kind != "compute":
                adopted.append((number, event.time))
            else:
                shares.units[number] += event.time
        for number, time in adopted:  # a sum that was fused into the product before it
            operands = [maker.get(v) for v in units[number].node.inputs if v is not None]
            silent = [k for k in operands if k is not None and k not in shares.units]
            shares.units[silent[0] if silent else number] += time
        return shares

    def __str__(self) -> str:
        """For people."""
        total = sum(self.units.values()) + self.between + self.unknown or 1.0
        return (
            f"{total / 1e3:.0f} us in one run, {self.between / total:.0%} of it conversions and "
            f"changes of layout, {self.unknown / total:.0%} not attributed"
        )


def _row(unit: Unit, number: int, shares: Sequence[Shares]) -> Timing:
    node = unit.node
    row = Timing(kind_of(node), shape_of(node.outputs[0]), work_of(node))
    in_float, in_integers, *others = (share.units.get(number, 0.0) for share in shares)
    row = replace(row, in_float=in_float, in_integers=None if unit.reason else in_integers)
    if unit.reason or unit.kind == "compute" or not others:
        return row
    return replace(row, integers_apart=others[0], float_apart=others[1])


def _pace(units: Sequence[Unit], share: Shares, target: Target, precision: int) -> float:
    """How much longer than estimated the units took."""
    known = [k for k, unit in enumerate(units) if not (precision and unit.reason)]
    rough = sum(estimate(units[k], target)[precision] for k in known)
    real = sum(share.units.get(k, 0.0) for k in known)
    return real / rough if rough and real else 1.0
