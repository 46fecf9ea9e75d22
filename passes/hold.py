"""Brings a quantized model to what is asked of it: a metric's drop, or the fidelity of its outputs.

Both start from what the pipeline gave. If that misses the goal, steps follow that cost the deployed
model nothing (for fidelity), then operators go back to float (`accuracy.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..ir import DataError, Graph
from ..ir.clone import clone
from .accuracy import Goal, Search, Trial
from .base import Context, Pass, Report
from .bias import Bias
from .calibrate import Calibrate
from .equalize import Equalize
from .judge import TOLERATED
from .metric import Metric
from .pipeline import Instruments, Pipeline
from .round import Round

STEEP = 3.0
"""Power of the loss with which scores of models drop: 3 to 4 for PoseNet with weights of 4 bits."""
WORTHWHILE = 1.0
"""dB that exact weights must gain before slow steps are taken to come near them."""


@dataclass
class Attempt:
    """A pipeline that ran, and the graph as it was before its plan.

    Attributes:
        pipeline: what ran.
        graph, context, reports: what came of it.
        unplanned: the graph and the context before the plan; None when the pipeline has none.
    """

    pipeline: Pipeline
    graph: Graph
    context: Context
    reports: list[Report]
    unplanned: tuple[Graph, Context] | None

    @staticmethod
    def run(pipeline: Pipeline, graph: Graph, context: Context, tools: Instruments) -> Attempt:
        """Run `pipeline` on `graph` in place."""
        kept: list[tuple[Graph, Context]] = []

        def keep(item: Pass, graph: Graph) -> None:
            if "plan" in item.establishes and not kept:
                kept.append((clone(graph)[0], replace(context)))

        reports = pipeline.run(graph, context, replace(tools, before=(*tools.before, keep)))
        return Attempt(pipeline, graph, context, reports, kept[0] if kept else None)

    def search(self, goal: Goal, miss: float) -> Search:
        """A search for operators to leave in float so that the goal holds, which this misses."""
        assert self.unplanned is not None
        graph, context = self.unplanned
        rest, given = self.pipeline.tail("plan")
        first = Trial(self.graph, self.reports, self.context.results, miss)
        return Search(graph, context, rest, given, goal, first)

    def with_exact_weights(self) -> Graph:
        """What the pipeline gives where only activations are rounded."""
        assert self.unplanned is not None
        graph, _ = clone(self.unplanned[0])
        context = self.unplanned[1]
        rest, given = self.pipeline.tail("plan")
        context = replace(context, target=context.target.storing(weights="none"), results={})
        Pipeline(rest, given=given).run(graph, context)
        return graph

    def take(self, trial: Trial) -> None:
        """Become what a search found."""
        before = len(self.pipeline.resolve()) - len(self.pipeline.tail("plan")[0])
        self.graph, self.reports = trial.graph, [*self.reports[:before], *trial.reports]
        self.context.results |= trial.results


# -- a metric -------------------------------------------------------------------------------------


class Drop:
    """The goal that a metric drops by at most so much.

    Attributes:
        baseline: of the float model, which is scored twice.
        spread: by how much the two scores differ: noise that a drop may have more.
        scores: of all that was asked about, in order.
    """

    def __init__(self, metric: Metric, graph: Graph, most: float) -> None:
        """Score the float model."""
        first, second = metric.score(graph), metric.score(graph)
        self.metric, self.most = metric, most
        self.baseline, self.spread = (first + second) / 2, abs(first - second)
        self.scores: list[float] = []

    def __call__(self, deployed: Graph) -> float:
        """By how much more than allowed the metric drops."""
        self.scores.append(self.metric.score(deployed))
        return self.drop(self.scores[-1]) - self.most - self.spread

    def share(self, miss: float) -> float:
        """Scores hold for long and then fall fast: drops grow with a power of the loss."""
        allowed = self.most + self.spread
        drop = miss + allowed
        return (allowed / drop) ** (1 / STEEP) if drop > 0 else math.inf

    def drop(self, score: float) -> float:
        """How much worse than the baseline."""
        return self.metric.drop(self.baseline, score)


def to_metric(attempt: Attempt, goal: Drop) -> dict[str, Any]:
    """Bring `attempt` to a metric's goal; what was done, for the report.

    Raises:
        DataError: not even the float model reaches it.
    """
    miss = goal(attempt.graph)
    done: dict[str, Any] = {
        "goal": f"the metric drops by at most {goal.most:g}",
        "baseline": goal.baseline,
        "spread": goal.spread,
        "drop_at_first": goal.drop(goal.scores[-1]),
    }
    if miss > 0:
        outcome = attempt.search(goal, miss).run(attempt.context.losses)
        if outcome.trial is None:
            raise DataError(
                f"the metric drops by {goal.drop(goal.scores[-1]):.4g} even when no operator runs "
                f"in integers: allow more than {goal.most:g} (--max-drop)"
            )
        attempt.take(outcome.trial)
        miss = outcome.trial.miss
        done |= outcome.as_dict()
    done["drop"] = miss + goal.most + goal.spread
    done["score"] = goal.metric.dropped(goal.baseline, done["drop"])
    done["evaluations"] = 2 + len(goal.scores)
    return done


# -- fidelity of the outputs ----------------------------------------------------------------------


@dataclass(frozen=True)
class Short:
    """The goal that the worst output is not short of what it must have; a miss is in dB."""

    short_of: Callable[[Graph], float]

    def __call__(self, deployed: Graph) -> float:
        """By how many dB the worst output is short."""
        return self.short_of(deployed)

    def share(self, miss: float) -> float:
        """Noise energy is what losses are."""
        return float(10 ** (-miss / 10))


@dataclass(frozen=True)
class Step:
    """A way to more fidelity that costs the deployed model nothing.

    Attributes:
        title: for people.
        change: of the passes of a pipeline; None where it does not apply.
        weights: it is slow and gains no more than exact weights would.
    """

    title: str
    change: Callable[[Sequence[Pass]], list[Pass] | None]
    weights: bool = False


def _other_ranges(passes: Sequence[Pass]) -> list[Pass] | None:
    if not any(isinstance(p, Calibrate) and p.method != "mse" for p in passes):
        return None
    return [replace(p, method="mse") if isinstance(p, Calibrate) else p for p in passes]


def _equalized(passes: Sequence[Pass]) -> list[Pass] | None:
    if any(isinstance(p, Equalize) for p in passes):
        return None
    place = next((k for k, p in enumerate(passes) if p.name in ("align", "calibrate")), None)
    return None if place is None else [*passes[:place], Equalize(), *passes[place:]]


def _corrected(passes: Sequence[Pass]) -> list[Pass] | None:
    if any(isinstance(p, Bias) for p in passes):
        return None
    place = next((k for k, p in enumerate(passes) if "quantized" in p.establishes), None)
    return None if place is None else [*passes[:place], Bias(), *passes[place:]]


def _rounded(passes: Sequence[Pass]) -> list[Pass] | None:
    if any(isinstance(p, Round) for p in passes):
        return None
    place = next(
        (k for k, p in enumerate(passes) if isinstance(p, Bias) or "quantized" in p.establishes),
        None,
    )
    return None if place is None else [*passes[:place], Round(), *passes[place:]]


STEPS = (
    Step("ranges of least squared error", _other_ranges),
    Step("equalized channels", _equalized),
    Step("corrected biases", _corrected),
    Step("weights rounded by what layers hand on", _rounded, weights=True),
)
"""In the order they are tried, quickest first."""


def to_fidelity(
    attempt: Attempt, again: Callable[[Pipeline], Attempt], goal: Short, least: float
) -> tuple[Attempt, dict[str, Any]]:
    """Climb until every output has a signal to noise ratio of `least` dB.

    Args:
        attempt: misses that.
        again: runs another pipeline on the source model.
        goal: that the worst output is not short of `least`.
        least: dB, for the report.

    Returns:
        The first attempt that holds, or the best; what was done, for the report.
    """
    best, miss = attempt, goal(attempt.graph)
    steps: list[dict[str, Any]] = []
    done: dict[str, Any] = {
        "goal": f"every output has at least {least:g} dB",
        "worst_at_first": least - miss,
        "steps": steps,
    }
    for step in STEPS:
        passes = step.change([s.run for s in best.pipeline.resolve()])
        if miss <= 0 or passes is None:
            continue
        if step.weights and goal(best.with_exact_weights()) > miss - WORTHWHILE:
            continue
        start = time.perf_counter()
        other = again(Pipeline(passes))
        now = goal(other.graph)
        kept = now < miss - TOLERATED
        seconds = time.perf_counter() - start
        steps.append({"step": step.title, "worst": least - now, "kept": kept, "seconds": seconds})
        if kept:
            best, miss = other, now
    if miss > 0 and best.unplanned is not None:
        outcome = best.search(goal, miss).run(best.context.losses)
        done |= outcome.as_dict()
        if outcome.trial is not None:
            best.take(outcome.trial)
            miss = outcome.trial.miss
    done["worst"] = least - miss
    return best, done
