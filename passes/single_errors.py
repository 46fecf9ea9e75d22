"""What each quantized operator alone does to the outputs, without a full run for each.

The float model is walked once. At every operator that runs in integers its result is made a second
time, with rounded weights and rounded itself, and only what comes after it is run on that: the
values still needed from before are at hand. On average that is half a run per operator and sample.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np

from ..ir import Graph, Value
from ..ir.clone import Mapping, clone
from ..ir.evaluate import Runner, reduce
from ..ir.reach import out_of_reach
from ..ir.samples import Samples
from ..ir.target import Target
from ..ir.tensor import Array
from .base import PassError
from .deployed import deployed
from .judge import comparable
from .measures import Measure, Tally
from .metric import Metric
from .quant import parameters
from .units import Unit, data_inputs, find_units
from .walk import BUDGET, Segment, Store, cut, opened

CHECKED = 3
"""Operators for which what is predicted to be gained is also measured."""


@dataclass(eq=False)
class Source:
    """A tensor where quantization adds an error.

    Attributes:
        value: is stored as integers, or comes from rounded weights.
        unit: makes it in integers; None where a float operator or the caller does.
        carried: tensors that hold the same integers further on, behind data movers.
        alone: loss of each output when nothing else is quantized.
        gained: by how much the loss of each output falls when all but this is quantized; to first
            order: its error is taken off the outputs of the whole.
        rounding: part of `alone` that the tensor's own grid causes, the rest is the weights'.
    """

    value: Value
    unit: Unit | None
    carried: list[Value] = field(default_factory=list)
    alone: Array = field(default_factory=lambda: np.zeros(0))
    gained: Array = field(default_factory=lambda: np.zeros(0))
    rounding: float = 1.0

    @property
    def label(self) -> str:
        """The operator that makes the tensor, or the input."""
        node = self.value.producer if self.unit is None else self.unit.node
        return node.label if node is not None else f"input '{self.value.name}'"


@dataclass(frozen=True)
class Errors:
    """Errors one by one and together.

    Attributes:
        outputs: names of the outputs that could be compared.
        sources: in topological order.
        together: loss of each output when all is quantized.
        exact: for the sources that promise most, what `Source.gained` really is.
    """

    outputs: list[str]
    sources: list[Source]
    together: Array
    exact: dict[int, Array]


def find_sources(graph: Graph, target: Target) -> list[Source]:
    """The places of a planned graph where errors come in, in topological order.

    What hands on the integers it reads adds none: data movers, and a Concat of one grid.
    """
    units = [u for u in find_units(graph, target) if u.node.precision == "int8"]
    makers = {value: unit for unit in units for value in unit.results}
    held: dict[Value, list[Source]] = {}
    sources: list[Source] = []
    for value in (*graph.inputs, *(value for node in graph.order() for value in node.outputs)):
        unit = makers.get(value)
        if unit is not None and hands_on(unit):
            read = (s for _, v in data_inputs(unit.node) for s in held.get(v, ()))
            held[value] = list(dict.fromkeys(read))
            for source in held[value]:
                source.carried.append(value)
        elif unit is not None or value.quant is not None:
            sources.append(Source(value, unit))
            held[value] = [sources[-1]]
    return sources


def hands_on(unit: Unit) -> bool:
    """True for an operator in integers whose result is made of the integers it reads."""
    if unit.kind == "agnostic":
        return True
    grids = {id(v.quant) for v in (*unit.results, *(v for _, v in data_inputs(unit.node)))}
    return unit.node.op == "Concat" and len(grids) == 1


def single_errors(
    graph: Graph,
    target: Target,
    samples: Samples,
    measure: Measure,
    advance: Callable[[int], None] = lambda _: None,
) -> Errors:
    """Measure the errors of a planned graph.

    Args:
        graph: annotated; stays as it is.
        target: what it is planned for.
        samples: to run, a few.
        measure: what counts as loss.
        advance: told how many samples went through an operator.

    Raises:
        PassError: no output can be compared.
    """
    hidden = out_of_reach(graph)
    sources = [source for source in find_sources(graph, target) if source.value not in hidden]
    judge = Judge(graph, deployed(graph, target), samples, measure)
    together = judge.loss(judge.whole)
    with tempfile.TemporaryDirectory(prefix="ptq_opt_errors_") as folder:
        store = Store(BUDGET, Path(folder))
        segments, inputs = cut(graph, [*(source.value for source in sources), *judge.ends])
        count = store.fill(inputs, samples)
        for source, segment in zip(sources, segments, strict=False):
            changed = _step(graph, source, segment, store, count)
            for value in segment.frees:
                store.drop(value, count)
            rest = _suffix(graph, source.value, judge.ends, store)
            found = [rest(k, store.get(changed, k)) for k in range(count)]
            store.drop(changed, count)
            source.alone = judge.loss(found)
            source.gained = together - judge.loss(judge.whole_without(found))
            advance(count)
    most = np.argsort([-source.gained.sum() for source in sources])[:CHECKED]
    exact = {
        k: together - judge.loss(judge.run(without(graph, sources[k], target)))
        for k in most.tolist()
    }
    return Errors(judge.names, sources, together, exact)


def scored_errors(graph: Graph, target: Target, metric: Metric) -> Errors:
    """The same by the user's metric, which runs 2 n + 2 times: losses are what it drops by."""
    sources = find_sources(graph, target)
    baseline = metric.score(graph)

    def drop(changed: Graph) -> Array:
        return np.array([metric.drop(baseline, metric.score(changed))])

    together = drop(deployed(graph, target))
    for source in sources:
        source.alone = drop(only(graph, source))
        source.gained = together - drop(without(graph, source, target))
    return Errors(["metric"], sources, together, {})


Outputs = list[list[Array]]
"""Of every sample the outputs that can be compared."""


class Judge:
    """Compares outputs with the float model's: those that are reals and keep their shape.

    Attributes:
        names, ends: of these outputs, the values in the float graph.
        real, whole: what they are in float, and when all is quantized.
    """

    def __init__(self, graph: Graph, deployed: Graph, samples: Samples, measure: Measure) -> None:
        """Run both graphs; `PassError` when no output can be compared."""
        hidden = out_of_reach(graph)
        self._measure, self._samples = measure, samples
        self._shown = [k for k, value in enumerate(graph.outputs) if value not in hidden]
        real, whole = self.run(graph), self.run(deployed)
        fit = [
            all(map(comparable, *columns))
            for columns in zip(zip(*real, strict=True), zip(*whole, strict=True), strict=True)
        ]
        if not any(fit):
            raise PassError("no output of the model can be compared with the float model's")
        self._shown = list(compress(self._shown, fit))
        self.names = [graph.output_names[k] for k in self._shown]
        self.ends = [graph.outputs[k] for k in self._shown]
        self.real, self.whole = ([list(compress(r, fit)) for r in rows] for rows in (real, whole))

    def run(self, graph: Graph) -> Outputs:
        """The outputs of a graph with the same interface."""
        runner = Runner(graph, [graph.outputs[k] for k in self._shown])
        return [runner.run(feeds) for feeds in self._samples]

    def loss(self, found: Outputs) -> Array:
        """One per output."""
        tally = Tally(self._measure, len(self.ends))
        for a, b in zip(self.real, found, strict=True):
            tally.add(a, b)
        return tally.losses

    def whole_without(self, found: Outputs) -> Outputs:
        """`whole`, less the error that `found` has."""
        return [
            [w - (f - r) for w, f, r in zip(*outputs, strict=True)]
            for outputs in zip(self.whole, found, self.real, strict=True)
        ]


def _step(graph: Graph, source: Source, segment: Segment, store: Store, count: int) -> Value:
    """Run a segment for all samples; the value under which the changed results are stored."""
    value = source.value
    part, where = opened(graph, segment.reads, [value, *segment.keeps], store)
    exact, changed = where[value], where[value]
    if source.unit is not None:
        exact = changed = _with_rounded_constants(part, source.unit, where)
    if value.quant is not None:
        changed = _rounded(part, exact, value)
    noises = [_squared_distance(part, exact, where[value]), _squared_distance(part, changed, exact)]
    runner = Runner(part, [*noises, changed, *(where[v] for v in segment.keeps)])
    key = Value(f"{value.name}_changed")
    noise = np.zeros(2)
    for k in range(count):
        feeds = {where[v].name: store.get(v, k) for v in segment.reads}
        weights, rounding, both, *kept = runner.run(feeds)
        noise += float(weights), float(rounding)
        store.put(key, k, both)
        for v, array in zip(segment.keeps, kept, strict=True):
            store.put(v, k, array)
    source.rounding = float(noise[1] / noise.sum()) if noise.sum() > 0 else 1.0
    return key


def _squared_distance(part: Graph, a: Value, b: Value) -> Value:
    return reduce(part, part.add("Sub", [a, b]).output, "ReduceSumSquare")


def only(graph: Graph, source: Source) -> Graph:
    """A copy of a planned graph in which nothing but `source` is quantized."""
    copy, where = clone(graph)
    changed = where[source.value]
    uses = list(changed.uses)
    if source.unit is not None:
        changed = _with_rounded_constants(copy, source.unit, where)
    if source.value.quant is not None:
        changed = _rounded(copy, changed, source.value)
    for reader, slot in uses:
        copy.set_input(reader, slot, changed)
    copy.sweep()
    return copy


def without(graph: Graph, source: Source, target: Target) -> Graph:
    """A copy of a planned graph, written out, in which `source` alone is not quantized."""
    copy, where = clone(graph)
    result = where[source.value]
    for value in (source.value, *source.carried):
        where[value].quant = None
    if source.unit is not None:
        node = where[source.unit.node.output].producer
        assert node is not None and result.producer is not None
        node.precision = result.producer.precision = "float"
        for operand in node.inputs:
            if operand is not None and operand.const is not None:
                others = (reader.precision for reader in operand.consumers)
                operand.quant = operand.quant if "int8" in others else None
    return deployed(copy, target)


def _with_rounded_constants(part: Graph, unit: Unit, where: Mapping) -> Value:
    """The unit's result when its constants are rounded and nothing else is."""
    operands = [
        v
        if v is None
        else part.constant(v.quant.kept(v.numpy()))
        if v.const is not None and v.quant is not None
        else where[v]
        for v in unit.node.inputs
    ]
    node, after = unit.node, unit.after
    result = part.add(node.op, operands, dict(node.attrs), domain=node.domain).output
    if after is None:
        return result
    others = [v and where[v] for v in after.inputs[1:]]
    return part.add(after.op, [result, *others], dict(after.attrs), domain=after.domain).output


def _rounded(part: Graph, exact: Value, value: Value) -> Value:
    """`exact` on the grid of `value`."""
    assert value.quant is not None
    scale, zero = parameters(part, value.quant, value.name)
    stored = part.add("QuantizeLinear", [exact, scale, zero]).output
    return part.add("DequantizeLinear", [stored, scale, zero]).output


def _suffix(
    graph: Graph, value: Value, ends: Sequence[Value], store: Store
) -> Callable[[int, Array], list[Array]]:
    """Runs what comes after `value` for a sample, given another array in its place."""
    live = [v for v in store.values() if v is not value]
    part, where = opened(graph, [value, *live], ends, store)
    runner = Runner(part)

    def run(sample: int, changed: Array) -> list[Array]:
        feeds = {where[v].name: store.get(v, sample) for v in live if where[v].uses}
        return runner.run({**feeds, where[value].name: changed})

    return run
