"""What each quantized operator alone does to the outputs, without a full run for each.

The float model is walked once. At every operator that runs in integers its result is made a second
time, with rounded weights and rounded itself, and only what comes after it is run on that: the
values still needed from before are at hand. On average that is half a run per operator and sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np

from ..ir import Graph, Value
from ..ir.clone import Mapping, clone
from ..ir.evaluate import Runner, reduce
from ..ir.execution import Item, Result, Work, start
from ..ir.reach import out_of_reach
from ..ir.samples import Samples
from ..ir.sources import TemporaryFolder
from ..ir.target import Target
from ..ir.tensor import Array
from .base import PassError
from .deployed import deployed
from .judge import comparable
from .measures import MEASURES, Tally
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
    measure: str,
    advance: Callable[[int], None] = lambda _: None,
) -> Errors:
    """Measure the errors of a planned graph.

    Args:
        graph: annotated; stays as it is.
        target: what it is planned for.
        samples: to run, a few.
        measure: what counts as loss, a name in `MEASURES`.
        advance: told how many samples went through an operator.

    Raises:
        PassError: no output can be compared.
    """
    judge = Judge.of(graph, deployed(graph, target), samples, measure)
    sources, together = sources_within_reach(graph, target), judge.loss(judge.whole)
    each = start(OneByOne(graph, target, judge))
    for source, found in zip(sources, each(range(len(sources))), strict=True):
        alone, without, rounding = found
        source.alone, source.gained, source.rounding = alone, together - without, float(rounding)
        advance(len(samples))
    most = np.argsort([-source.gained.sum() for source in sources])[:CHECKED].tolist()
    runs = each([["without", k] for k in most])
    exact = {k: together - loss for k, (loss,) in zip(most, runs, strict=True)}
    return Errors([graph.output_names[k] for k in judge.shown], sources, together, exact)


def sources_within_reach(graph: Graph, target: Target) -> list[Source]:
    """The sources that ONNX Runtime can compute."""
    hidden = out_of_reach(graph)
    return [source for source in find_sources(graph, target) if source.value not in hidden]


@dataclass(frozen=True)
class OneByOne:
    """The job of single errors.

    For item k, a source's number: losses alone, losses of all when its error is taken off the
    outputs, and `Source.rounding`. For ["without", k] the losses of all when it is not quantized.
    Losses are float64 [outputs].

    A worker walks the float model once, for all the sources it is asked for in rising order.
    """

    graph: Graph
    target: Target
    judge: Judge

    def open(self) -> Work:
        """Find the sources."""
        sources, judge = sources_within_reach(self.graph, self.target), self.judge
        ends = [self.graph.outputs[k] for k in judge.shown]
        walks: list[_Walk] = []

        def work(item: Item) -> Result:
            if not isinstance(item, int):
                return [judge.loss(judge.run(without(self.graph, sources[item[1]], self.target)))]
            if not walks or walks[0].number > item:
                walks[:] = [_Walk(self.graph, sources, ends, judge.samples)]
            found = walks[0].outputs(item)
            losses = judge.loss(found), judge.loss(judge.whole_without(found))
            return [*losses, np.array(sources[item].rounding)]

        return work


class _Walk:
    """The float model on its way from source to source, with what the rest of it reads.

    Attributes:
        number: of the source that is reached next.
    """

    def __init__(
        self, graph: Graph, sources: Sequence[Source], ends: Sequence[Value], samples: Samples
    ) -> None:
        self.number, self._graph, self._sources, self._ends = 0, graph, sources, ends
        self._folder = TemporaryFolder()
        self._store = Store(BUDGET, self._folder.path)
        self._segments, inputs = cut(graph, [*(source.value for source in sources), *ends])
        self._count = self._store.fill(inputs, samples)

    def outputs(self, number: int) -> Outputs:
        """What comes out when source `number`, not passed yet, is all that is quantized."""
        while self.number < number:
            self._drop(self._step())
        changed = self._step()
        rest = _suffix(self._graph, self._sources[number].value, self._ends, self._store)
        found = [rest(k, self._store.get(changed, k)) for k in range(self._count)]
        self._drop(changed)
        return found

    def _step(self) -> Value:
        source, segment = self._sources[self.number], self._segments[self.number]
        self.number += 1
        changed = _step(self._graph, source, segment, self._store, self._count)
        for value in segment.frees:
            self._drop(value)
        return changed

    def _drop(self, value: Value) -> None:
        self._store.drop(value, self._count)


Outputs = list[list[Array]]
"""Of every sample the outputs that can be compared."""


@dataclass(frozen=True)
class Judge:
    """Compares outputs with the float model's: those that are reals and keep their shape.

    Attributes:
        samples: what is run.
        measure: a name in `MEASURES`.
        shown: numbers of these outputs.
        real, whole: what they are in float, and when all is quantized.
    """

    samples: Samples
    measure: str
    shown: list[int]
    real: Outputs
    whole: Outputs

    @staticmethod
    def of(graph: Graph, deployed: Graph, samples: Samples, measure: str) -> Judge:
        """Run both graphs; `PassError` when no output can be compared."""
        hidden = out_of_reach(graph)
        shown = [k for k, value in enumerate(graph.outputs) if value not in hidden]
        results = start(Runs([graph, deployed], samples, shown))(range(len(samples)))
        real, whole = zip(*((r[: len(shown)], r[len(shown) :]) for r in results), strict=True)
        fit = [
            all(map(comparable, *columns))
            for columns in zip(zip(*real, strict=True), zip(*whole, strict=True), strict=True)
        ]
        if not any(fit):
            raise PassError("no output of the model can be compared with the float model's")
        kept = ([list(compress(outputs, fit)) for outputs in rows] for rows in (real, whole))
        return Judge(samples, measure, list(compress(shown, fit)), *kept)

    def run(self, graph: Graph) -> Outputs:
        """The outputs of a graph with the same interface."""
        runner = Runner(graph, [graph.outputs[k] for k in self.shown])
        return [runner.run(feeds) for feeds in self.samples]

    def loss(self, found: Outputs) -> Array:
        """One per output."""
        tally = Tally(MEASURES[self.measure], len(self.shown))
        for a, b in zip(self.real, found, strict=True):
            tally.add(a, b)
        return tally.losses

    def whole_without(self, found: Outputs) -> Outputs:
        """`whole`, less the error that `found` has."""
        return [
            [w - (f - r) for w, f, r in zip(*outputs, strict=True)]
            for outputs in zip(self.whole, found, self.real, strict=True)
        ]


@dataclass(frozen=True)
class Runs:
    """The job of running graphs with one interface: for a sample's number, the outputs of each.

    Outputs that are no tensors of reals are empty.

    Attributes:
        graphs: to run.
        samples: the data.
        shown: numbers of the outputs.
    """

    graphs: list[Graph]
    samples: Samples
    shown: list[int]

    def open(self) -> Work:
        """Open all in ONNX Runtime."""
        runners = [Runner(graph, [graph.outputs[k] for k in self.shown]) for graph in self.graphs]

        def work(item: Item) -> Result:
            feeds = self.samples[item]
            found = [array for runner in runners for array in runner.run(feeds)]
            return [array if comparable(array, array) else np.zeros(0, bool) for array in found]

        return work


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
