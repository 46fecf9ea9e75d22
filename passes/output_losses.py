"""Losses of a model's outputs against those of the float model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress

import numpy as np

from ..ir import Graph
from ..ir.evaluate import Runner
from ..ir.execution import Item, Result, Work, start
from ..ir.reach import out_of_reach
from ..ir.samples import Samples
from ..ir.tensor import Array
from .base import PassError
from .judge import comparable
from .measures import MEASURES, Tally

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
