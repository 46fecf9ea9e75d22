"""What each quantized operator alone does to the outputs, and how far these errors add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..ir import Graph
from ..ir.execution import Item, Result, Work, start
from ..ir.samples import Samples
from ..ir.target import Target
from ..ir.tensor import Array
from .deployed import deployed
from .error_sources import Source, sources_within_reach, without
from .one_by_one import BLOCK, OneByOne
from .output_losses import Judge

CHECKED = 4
"""Operators for which what is predicted to be gained is also measured."""


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
    blocks = [sources[k : k + BLOCK] for k in range(0, len(sources), BLOCK)]
    found = start(OneByOne(graph, target, judge))(range(len(blocks)))
    for block, rows in zip(blocks, found, strict=True):
        for source, alone, rest, rounding in zip(block, *rows, strict=True):
            source.alone, source.gained, source.rounding = alone, together - rest, float(rounding)
            advance(len(samples))
    most = np.argsort([-source.gained.sum() for source in sources])[:CHECKED].tolist()
    runs = start(AllBut(graph, target, judge))(most)
    exact = {k: together - loss for k, (loss,) in zip(most, runs, strict=True)}
    return Errors([graph.output_names[k] for k in judge.shown], sources, together, exact)


@dataclass(frozen=True)
class AllBut:
    """The job of runs in which all but one source is quantized; an item is the source's number.

    The result is the loss of each output, float64 [outputs].
    """

    graph: Graph
    target: Target
    judge: Judge

    def open(self) -> Work:
        """Find the sources."""
        sources = sources_within_reach(self.graph, self.target)

        def work(item: Item) -> Result:
            rest = without(self.graph, sources[item], self.target)
            return [self.judge.loss(self.judge.run(rest))]

        return work
