"""The job of quantizing one operator at a time, without a full run for each.

The float model is walked once, from one block of operators to the next: the values that the rest
of it needs are at hand there. For each operator of a block only what comes after the start of the
block is run, with this operator's result made from rounded weights and rounded itself. On average
that is half a run per operator and sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Value
from ..ir.evaluate import Runner, reduce
from ..ir.execution import Item, Result, Work
from ..ir.samples import Samples
from ..ir.sources import TemporaryFolder
from ..ir.target import Target
from .error_sources import Source, quantize_one, sources_within_reach
from .output_losses import Judge, Outputs
from .walk import BUDGET, Store, cut, opened

BLOCK = 4
"""Sources that are measured from one place. Every worker walks from block to block."""


@dataclass(frozen=True)
class OneByOne:
    """The job of single errors; an item is the number of a block of `BLOCK` sources.

    The result is, per source, the losses when it alone is quantized, the losses of all when its
    error is taken off the outputs, both float64 [sources, outputs], and `Source.rounding`.

    A worker walks the float model once, for all the blocks it is asked for in rising order.
    """

    graph: Graph
    target: Target
    judge: Judge

    def open(self) -> Work:
        """Find the sources."""
        sources, judge = sources_within_reach(self.graph, self.target), self.judge
        blocks = [sources[k : k + BLOCK] for k in range(0, len(sources), BLOCK)]
        ends = [self.graph.outputs[k] for k in judge.shown]
        walks: list[_Walk] = []

        def work(item: Item) -> Result:
            if not walks or walks[0].block > item:
                stops = [block[-1].value for block in blocks]
                walks[:] = [_Walk(self.graph, stops, ends, judge.samples)]
            walks[0].reach(item)
            rows = []
            for source in blocks[item]:
                found, rounding = walks[0].quantized(source)
                rows.append([judge.loss(found), judge.loss(judge.whole_without(found)), rounding])
            return [np.stack(column) for column in zip(*rows, strict=True)]

        return work


class _Walk:
    """The float model on its way from block to block, with what the rest of it reads.

    Attributes:
        block: where it is: nothing of this block is run yet.
    """

    def __init__(
        self, graph: Graph, stops: Sequence[Value], ends: Sequence[Value], samples: Samples
    ) -> None:
        """Begin at the inputs; `stops` are the last values of the blocks."""
        self.block, self._graph, self._ends = 0, graph, ends
        self._folder = TemporaryFolder()
        self._store = Store(BUDGET, self._folder.path)
        self._segments, inputs = cut(graph, [*stops, *ends])
        self._count = self._store.fill(inputs, samples)

    def reach(self, block: int) -> None:
        """Run the float model up to a block that is not passed yet."""
        while self.block < block:
            segment, store = self._segments[self.block], self._store
            part, where = opened(self._graph, segment.reads, segment.keeps, store)
            runner = Runner(part)
            for k in range(self._count):
                feeds = {where[v].name: store.get(v, k) for v in segment.reads}
                for value, array in zip(segment.keeps, runner.run(feeds), strict=True):
                    store.put(value, k, array)
            for value in segment.frees:
                store.drop(value, self._count)
            self.block += 1

    def quantized(self, source: Source) -> tuple[Outputs, float]:
        """What comes out when a source of this block is all that is quantized; its `rounding`."""
        live = self._store.values()
        part, where = opened(self._graph, live, [source.value, *self._ends], self._store)
        real, exact, changed = quantize_one(part, where, source)
        noises = [_squared_distance(part, exact, real), _squared_distance(part, changed, exact)]
        part.set_outputs([*noises, *part.outputs[1:]])
        runner, found, noise = Runner(part), [], np.zeros(2)
        read = [value for value in live if where[value].uses]
        for k in range(self._count):
            feeds = {where[value].name: self._store.get(value, k) for value in read}
            weights, rounding, *outputs = runner.run(feeds)
            noise += float(weights), float(rounding)
            found.append(outputs)
        return found, float(noise[1] / noise.sum()) if noise.sum() > 0 else 1.0


def _squared_distance(part: Graph, a: Value, b: Value) -> Value:
    return reduce(part, part.add("Sub", [a, b]).output, "ReduceSumSquare")
