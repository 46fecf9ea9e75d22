"""Which pass, then which layer, takes a score beyond what is allowed: `--bisect`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..ir import Graph, Node
from ..ir.clone import clone
from ..passes import Context, Pass
from ..passes.hold import Drop
from ..passes.plan import Plan
from ..passes.quant import write_qdq
from ..passes.ranges import planned


@dataclass(frozen=True)
class Culprit:
    """What `bisect` found.

    Attributes:
        limit: the score that is just allowed.
        scores: pass -> score of the model after it, deployed; of those that were asked about.
        step: the first pass after which the score is beyond the limit, "" when none is.
        layer: where that pass decides what runs in integers, the first operator that takes the
            score beyond the limit when it and all before it do; else "".
    """

    limit: float
    scores: dict[str, float]
    step: str = ""
    layer: str = ""

    def __str__(self) -> str:
        """For people."""
        lines = [f"after {name}: {score:.4g}" for name, score in self.scores.items()]
        if self.step:
            lines.append(f"{self.step} takes the score beyond {self.limit:.4g}")
        else:
            lines.append(f"no pass takes the score beyond {self.limit:.4g}")
        if self.layer:
            lines.append(f"it does so with {self.layer} and what runs before it in integers")
        return "\n".join(lines)


@dataclass
class Stages:
    """Copies of a graph and what a pass went by, after each of a run; `add` is an instrument."""

    passes: list[str] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)

    def add(self, done: Pass, graph: Graph) -> None:
        """Keep what a pass left."""
        self.passes.append(done.spec)
        self.graphs.append(clone(graph)[0])


def bisect(stages: Stages, unplanned: tuple[Graph, Context] | None, goal: Drop) -> Culprit:
    """Find where the score falls beyond the limit, with about log2(passes) + log2(layers) scores.

    What is bad after one pass is taken to be bad after all later ones, and more operators in
    integers to be worse. Where that is not so, the score crosses the limit more than once, and this
    is one of the places.

    Args:
        stages: of a whole run.
        unplanned: graph and context of that run before its plan.
        goal: scores a model.
    """
    limit = goal.metric.dropped(goal.baseline, goal.most + goal.spread)
    scores: dict[int, float] = {}

    def bad(k: int) -> bool:
        missed = goal(deployed(stages.graphs[k], unplanned)) > 0
        scores[k] = goal.scores[-1]
        return missed

    last = len(stages.graphs) - 1
    step = first(last, bad) if bad(last) else None
    told = {stages.passes[k]: scores[k] for k in sorted(scores)}
    if step is None:
        return Culprit(limit, told)
    layer = ""
    if unplanned is not None and stages.passes[step].partition("{")[0] == Plan.name:
        layer = _layer(*unplanned, goal)
    return Culprit(limit, told, stages.passes[step], layer)


def first(last: int, bad: Callable[[int], bool]) -> int:
    """The first of 0 ... `last` that is bad; `last` is known to be."""
    return bisect_left(range(last), True, key=bad)


def deployed(graph: Graph, unplanned: tuple[Graph, Context] | None) -> Graph:
    """A copy in which what is planned is carried out."""
    copy = clone(graph)[0]
    if unplanned is not None:
        write_qdq(copy, unplanned[1].target)
    return copy


def _layer(graph: Graph, context: Context, goal: Drop) -> str:
    """The first operator that is too much, by plans that keep all behind it in float."""
    integers = [node for node in _planned(graph, context, ()).order() if node.precision == "int8"]

    def bad(k: int) -> bool:
        return goal(deployed(_planned(graph, context, integers[k + 1 :]), (graph, context))) > 0

    return integers[first(len(integers) - 1, bad)].label if integers else ""


def _planned(graph: Graph, context: Context, floats: Sequence[Node]) -> Graph:
    """A planned copy in which operators named like `floats` stay in float."""
    names = (node.name or node.output.name for node in floats)
    exclude = (*context.exclude, *(f"^{re.escape(name)}$" for name in names))
    assert context.calibration is not None
    return planned(graph, context.calibration, replace(context, exclude=exclude))[0]
