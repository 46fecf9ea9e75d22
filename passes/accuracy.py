"""Holds an accuracy: leaves in float what it takes, chosen so that it costs least time.

Where weights have fewer than eight bits, those of the layers that lose most get eight first: that
costs bytes, but no time (`widen.py`).

Losses of single operators price the placement; which of the placements that some price makes
cheapest is good enough, a goal decides by running them (`fastest.py`). Every trial goes through the
rest of the pipeline, as the result does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..ir import Graph, UsageError
from ..ir.clone import clone
from ..ir.engines import installed, latencies
from .base import Context, Loss, Pass, Report
from .fastest import allowed, apart, fastest, first
from .islands import Islands
from .output_losses import Judge
from .pipeline import Pipeline
from .placement import Placement
from .plan import Plan
from .price import price
from .sensitivity import Sensitivity
from .widen import Narrow, narrow, widened

DISTORTED = 2.0
"""Losses are measured again where real over predicted loss changed by more than this factor."""

QUICK = 100e6
"""Nanoseconds of a run of the float model up to which the result is timed."""
SECONDS = 1.0
"""How long it is timed."""


class Goal(Protocol):
    """What is asked of a deployed graph."""

    def __call__(self, deployed: Graph) -> float:
        """By how much it misses that; zero or less when it holds."""

    def share(self, miss: float) -> float:
        """What share of its loss a graph with this miss may keep; 1 or more when it holds."""


@dataclass
class Trial:
    """A placement that went through the rest of the pipeline.

    Attributes:
        graph: as it is deployed.
        reports: of the passes.
        results: findings of the passes, by topic.
        miss: what the goal said of it.
    """

    graph: Graph
    reports: list[Report]
    results: dict[str, Any]
    miss: float


@dataclass(frozen=True)
class Reverted:
    """An operator that is in float because of the goal, and what that buys.

    Attributes:
        node: its label.
        loss: what it would add in integers, in the unit of `sensitivity`, all else as it is.
        microseconds: that it would save; less than nothing where conversions would cost more.
    """

    node: str
    loss: float
    microseconds: float


@dataclass
class Outcome:
    """What a search came to.

    Attributes:
        trial: the fastest that holds, None when none does.
        trials: how many were run.
        widened: layers whose weights got eight bits, most loss per byte first.
        reverted: most loss first.
        milliseconds: predicted, of the model in `float`, in `integers` and as `placed`.
        timed: the same in the target's engine, where that is installed and quick.
        repaired: losses were measured again around a first result.
    """

    trial: Trial | None
    trials: int
    widened: list[Narrow] = field(default_factory=list)
    reverted: list[Reverted] = field(default_factory=list)
    milliseconds: dict[str, float] = field(default_factory=dict)
    timed: dict[str, float] = field(default_factory=dict)
    repaired: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the graph."""
        return {k: v for k, v in asdict(replace(self, trial=None)).items() if k != "trial"}


class Search:
    """Looks for the fastest placement that reaches a goal."""

    def __init__(
        self,
        graph: Graph,
        context: Context,
        rest: Sequence[Pass],
        given: Sequence[str],
        goal: Goal,
        first: Trial,
    ) -> None:
        """Prepare.

        Args:
            graph: with ranges known and nothing planned; is changed no more.
            context: as it was then.
            rest: passes from the one that plans to the end.
            given: facts that hold for `graph`.
            goal: is asked about every trial.
            first: what `rest` gives without a goal.
        """
        self.graph, self.given, self.goal = graph, tuple(given), goal
        self.context = replace(context)
        self.rest = [item for item in rest if "losses" not in item.establishes]
        planner = next((item for item in rest if isinstance(item, Plan | Islands)), None)
        if planner is None or context.target.activations is None:
            raise UsageError(
                "operators can go back to float for accuracy where plan or islands place them, and "
                "activations have a type"
            )
        found, _ = planner.places(graph, context)
        self.units, self.problem = found.units, found.problem
        decisions = first.results.get("plan", ())
        self.start = self.problem.placement(
            [row["precision"] != "float" for row in decisions] + [False]
        )
        self.shares = {self.start.integer: goal.share(first.miss)}
        self.losses: Mapping[str, Loss] | None = None
        self.best: tuple[Placement, Trial] | None = None
        self.first, self.trials = first, 1

    def run(self, losses: Mapping[str, Loss] | None = None) -> Outcome:
        """Search, by `losses` if they are known already: first for bits, then for placements."""
        losses = self.price(losses)
        layers = narrow(self.units, self.start.integer, self.problem.loss, self.context.target)
        if not layers:
            return self.place(losses)
        layers = self._widen(layers)
        if self.first.miss <= 0:
            self.best = self.start, self.first
            return replace(self._outcome(), widened=layers)
        outcome = self.place()
        in_float = {each.node for each in outcome.reverted}
        return replace(outcome, widened=[each for each in layers if each.node not in in_float])

    def place(self, losses: Mapping[str, Loss] | None = None) -> Outcome:
        """Search for a placement, by `losses` if they are known already."""
        losses = self.price(losses)
        found = fastest(self.problem, self._ask)
        if found is None or self.best is None:
            return Outcome(None, self.trials)
        repaired = self._repair(losses)
        return replace(self._outcome(), repaired=repaired)

    def price(self, losses: Mapping[str, Loss] | None = None) -> Mapping[str, Loss]:
        """Put losses into the problem, measured if they are not known; returns them."""
        self.losses = losses if losses is not None else self.measure(self.start)[0]
        price(self.problem, self.units, self.graph, self.losses)
        return self.losses

    def _widen(self, layers: list[Narrow]) -> list[Narrow]:
        """Start from what holds with eight bits for the first of `layers`, or from all with them.

        As placements of nearly the same time are one, so are choices of nearly the same bytes.

        Returns:
            Those that got them.
        """
        stored = sum(layer.stored for layer in layers)
        sizes = stored + np.cumsum([layer.size for layer in layers])
        left = self.start.loss - np.cumsum([layer.loss for layer in layers])
        pairs = zip(sizes.tolist(), left.tolist(), strict=True)
        steps = apart([Placement(self.start.integer, size, loss) for size, loss in pairs], np.inf)
        target, trials = self.context.target, dict[float, Trial]()

        def first_to(size: float) -> list[Narrow]:
            return layers[: int(np.searchsorted(sizes, size)) + 1]

        def ask(step: Placement) -> float:
            self.context.target = widened(target, first_to(step.time))
            trials[step.time] = self.deploy(self.start)
            return self.goal.share(trials[step.time].miss)

        number = first(steps, ask, allowed(self.start, self.shares[self.start.integer]))
        step = steps[min(number, len(steps) - 1)]
        self.context.target = widened(target, first_to(step.time))
        self.first = trials.get(step.time) or self.deploy(self.start)
        self.shares = {self.start.integer: self.goal.share(self.first.miss)}
        return first_to(step.time)

    def _outcome(self) -> Outcome:
        """What the best came to."""
        assert self.best is not None
        placement, trial = self.best
        reverted = [
            self._reverted(k, placement)
            for k, unit in enumerate(self.units)
            if self.start.integer[k] and not placement.integer[k]
        ]
        times = {
            "float": self.problem.cost([False] * len(placement.integer)),
            "integers": self.start.time,
            "placed": placement.time,
        }
        return Outcome(
            trial,
            self.trials,
            reverted=sorted(reverted, key=lambda each: -each.loss),
            milliseconds={name: time / 1e6 for name, time in times.items()},
            timed=self._timed(trial) if times["float"] < QUICK else {},
        )

    def _timed(self, trial: Trial) -> dict[str, float]:
        engine = self.context.target.engine
        if not installed(engine):
            return {}
        graphs = {"float": self.graph, "integers": self.first.graph, "placed": trial.graph}
        feeds = next(iter(self.context.need_samples("accuracy")))
        found = latencies(engine, graphs, feeds, threads=1, seconds=SECONDS)
        return {name: time / 1e6 for name, time in found.items()}

    def _ask(self, placement: Placement) -> float:
        """What share of its loss it may keep; the fastest that holds is kept.

        What has in integers all that a placement which does not hold has there, and more, does not
        hold either: that costs no trial.
        """
        share = self.shares.get(placement.integer)
        if share is None:
            worse = (k for k, v in self.shares.items() if v < 1 and implies(k, placement))
            share = self.shares.get(next(worse, ()))
        if share is not None:
            return share
        trial = self.deploy(placement)
        share = self.shares[placement.integer] = self.goal.share(trial.miss)
        if share >= 1 and (self.best is None or placement.time < self.best[0].time):
            self.best = placement, trial
        return share

    def deploy(self, placement: Placement) -> Trial:
        """Run a placement through the rest of the pipeline, and ask the goal about it."""
        self.trials += 1
        graph, context, reports = self._through(self.rest, placement)
        return Trial(graph, reports, context.results, self.goal(graph))

    def _through(
        self, passes: Sequence[Pass], placement: Placement
    ) -> tuple[Graph, Context, list[Report]]:
        graph, _ = clone(self.graph)
        context = replace(self.context, placement=placement.integer, losses=self.losses, results={})
        reports = Pipeline(passes, given=self.given).run(graph, context)
        return graph, context, reports

    def measure(self, placement: Placement) -> tuple[Mapping[str, Loss], dict[str, Any]]:
        """Losses of the operators that a placement has in integers, and the whole finding."""
        grids = {"plan", "filters", "accumulators"}
        last = max(k for k, item in enumerate(self.rest) if grids & set(item.establishes))
        _, context, _ = self._through([*self.rest[: last + 1], Sensitivity()], placement)
        assert context.losses is not None
        return context.losses, context.results.get("sensitivity", {})

    # -- where losses do not add up --------------------------------------------------------------

    def _repair(self, losses: Mapping[str, Loss]) -> bool:
        """Measure losses around the result and search once more, when they are not as predicted.

        Only the order of losses matters. So what counts is whether the ratio of the real to the
        predicted loss is another one here than for the placement the losses were measured at.
        """
        assert self.best is not None
        placement, trial = self.best
        before = self._ratio(self.start, self.first.graph)
        here = self._ratio(placement, trial.graph)
        if not before or not here or 1 / DISTORTED < here / before < DISTORTED:
            return False
        _, finding = self.measure(placement)
        price(self.problem, self.units, self.graph, around(losses, finding, here))
        fastest(self.problem, self._ask, near=placement, below=placement.time)
        price(self.problem, self.units, self.graph, losses)
        return True

    def _ratio(self, placement: Placement, deployed: Graph) -> float:
        """Real loss over the predicted one; 0 where either is nothing."""
        predicted = self.problem.placement(placement.integer).loss
        samples = self.context.need_samples("sensitivity").spread(Sensitivity().samples)
        judge = Judge.of(self.graph, deployed, samples, "sqnr")
        real = float(judge.loss(judge.whole).sum())
        return real / predicted if predicted > 0 and np.isfinite(real) else 0.0

    def _reverted(self, number: int, placement: Placement) -> Reverted:
        other = list(placement.integer)
        other[number] = True
        return Reverted(
            self.units[number].node.label,
            self.problem.added_loss(number, placement.integer),
            (placement.time - self.problem.cost(other)) / 1e3,
        )


def implies(integer: Sequence[bool], placement: Placement) -> bool:
    """True when all that `integer` tells is in integers in a placement, too."""
    return all(b for a, b in zip(integer, placement.integer, strict=True) if a)


def around(losses: Mapping[str, Loss], finding: dict[str, Any], ratio: float) -> dict[str, Loss]:
    """Losses for the neighbourhood of a placement.

    Of what is in integers there, its part in the whole error: half of what it does alone and half
    of what is gained without it, which sum to the whole where errors are small. Of the others, what
    was measured, scaled by how much losses are off there.
    """
    found = {name: Loss(a.rounding * ratio, a.weights * ratio) for name, a in losses.items()}
    for row in finding.get("operators", ()):
        part = max((sum(row["alone"]) + sum(row["gained"])) / 2, 0.0)
        found[row["tensor"]] = Loss(part * row["rounding"], part * (1 - row["rounding"]))
    return found
