"""What each quantized operator alone does to the user's metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir import Graph
from ..ir.execution import Item, Work, start
from ..ir.target import Target
from .deployed import deployed
from .error_sources import find_sources, only, without
from .metric import Metric
from .single_errors import Errors


def scored_errors(graph: Graph, target: Target, metric: Metric) -> Errors:
    """Errors by the user's metric, which runs 2 n + 2 times: losses are what it drops by."""
    sources, each = find_sources(graph, target), start(Scores(graph, target, metric))
    kinds = [[kind, k] for k in range(len(sources)) for kind in ("only", "without")]
    scores = [float(score) for (score,) in each(["float", "whole", *kinds])]
    baseline, whole, *others = scores
    together, *drops = (np.array([metric.drop(baseline, score)]) for score in (whole, *others))
    for source, alone, rest in zip(sources, drops[::2], drops[1::2], strict=True):
        source.alone, source.gained = alone, together - rest
    return Errors(["metric"], sources, together, {})


@dataclass(frozen=True)
class Scores:
    """The job of `scored_errors`.

    The score of the graph in "float", of the "whole" of it in integers, of it with "only" source k
    quantized, and of all "without" it.
    """

    graph: Graph
    target: Target
    metric: Metric

    def open(self) -> Work:
        """Find the sources."""
        graph, target, sources = self.graph, self.target, find_sources(self.graph, self.target)

        def variant(item: Item) -> Graph:
            if item == "float":
                return graph
            if item == "whole":
                return deployed(graph, target)
            kind, k = item
            if kind == "only":
                return only(graph, sources[k])
            return without(graph, sources[k], target)

        return lambda item: [np.array(self.metric.score(variant(item)))]
