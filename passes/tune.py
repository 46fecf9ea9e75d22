"""Searches grids, rounding of biases and bit-widths together, by what the deployed model does."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ..ir import Graph, UsageError
from ..ir.execution import EXECUTOR
from ..ir.ranges import distinguish, key
from ..ir.samples import Samples
from .base import Context, Loss, Pass
from .judge import contest
from .search import Budget, Choice, Method, Params, Real, Space, Trials, search
from .trial import (
    BIAS,
    BITS,
    GRANULARITY,
    RANGE,
    WEIGHTS,
    Objective,
    Tries,
    least_norms,
    realize,
    realized,
    scaled,
    single_losses,
)
from .units import find_units, integer_layers, weight_slot

Part = Literal["ranges", "weights", "granularity", "bias", "bits"]
FACTORS = {RANGE: Real(0.3, 1.3, 1.0), WEIGHTS: Real(0.4, 1.0, 1.0)}
"""Of an activation's calibrated range, of the exact range of weights."""
HOLD_OUT = 2
"""Of the samples every second is kept for the search, and of these every second for the verdict."""


@dataclass(frozen=True)
class Tune(Pass):
    """Search parameters of quantization together, by the metric or by the outputs' error.

    Passes choose one thing at a time by a rule; here trials decide, each planned and run as it
    will be deployed. What counts is the caller's metric if there is one, else the mean over the
    outputs of the signal to noise ratio in dB. Without a metric the result must also win on
    samples that no trial saw, else everything stays as it was planned. Ctrl-C ends the search, the
    best so far is kept.

    Attributes:
        method: `coordinate` changes one parameter after the other; `lapq` starts where a p-norm of
            the rounding errors is least, for the best p, and goes on by Powell's method; `tpe` and
            `genetic` are Optuna's samplers.
        over: what is searched: `ranges` of activations, clipping of `weights`, their `granularity`
            (per channel or per tensor), the mode of `bias` correction, `bits` of each layer's
            weights.
        trials: at most so many, those in the storage too.
        seconds: at most so long, 0 for no limit.
        tensors: so many ranges and weights are searched, those that harm the outputs most.
        samples: a trial runs at most so many.
        bits: for `over=bits`, the mean number per weight at most; layers keep the target's or get
            8 in an order that is searched.
        storage: file that keeps the trials, so that another run goes on.

    References: Nahshan et al. 2019, arXiv:1911.07190 (LAPQ); Bergstra et al. 2011 (TPE); Deb et al.
    2002 (NSGA-II); Bean 1994 (orders as random keys).
    """

    name: ClassVar[str] = "tune"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded", "ranges")
    establishes: ClassVar[tuple[str, ...]] = ("plan", "filters", "accumulators")

    method: Method = "coordinate"
    over: tuple[Part, ...] = ("ranges", "weights")
    trials: int = 100
    seconds: float = 0.0
    tensors: int = 24
    samples: int = 16
    bits: float = 0.0
    storage: str = ""

    def __post_init__(self) -> None:
        """Check the options."""
        if min(self.trials, self.tensors, self.samples) < 1:
            raise ValueError("trials, tensors and samples must be at least 1")
        if ("bits" in self.over) != (self.bits > 0):
            raise ValueError("over=bits and bits=N go together: N bits per weight on average")
        if importlib.util.find_spec("optuna") is None:
            raise UsageError("pass 'tune' needs Optuna: pip install 'ptq-opt[tune]'")

    def run(self, graph: Graph, context: Context) -> None:
        """Plan the graph with the best parameters found."""
        distinguish(graph)
        start = realized(graph, context, {}, self.bits)
        if not any(integer_layers(start)):
            context.report.note("no layer runs in integers: nothing to tune")
            realize(graph, context, {})
            return
        learn, held_back = context.need_samples(self.name).split(HOLD_OUT)
        judge, last = (part.spread(self.samples) for part in held_back.split(HOLD_OUT))
        trying = replace(context, samples=learn)
        space = self.space(start, single_losses(start, judge.spread(4), context), context)
        trials = self.search(graph, start, space, judge, trying)
        best, value = trials.best
        before = trials.value(trials.start)
        kept = value > before
        context.report.note(f"{trials.count} trials: from {before:.4g} to {value:.4g}")
        if kept and context.metric is None:
            winner = realized(graph, trying, best, self.bits)
            (verdict,) = contest((start, ()), [(winner, ())], last, context.target)
            kept = verdict.accepted
            done = f"result {'kept' if kept else 'dropped'}"
            context.report.note(f"{done}: {verdict} on {len(last)} samples that no trial saw")
        chosen = best if kept else trials.start
        self._report(context, trials, chosen)
        realize(graph, trying, chosen, self.bits)
        if context.calibration is not None:
            context.calibration = scaled(context.calibration, chosen)

    def search(
        self, graph: Graph, start: Graph, space: Space, judge: Samples, context: Context
    ) -> Trials:
        """Spend the budget."""
        objective = Objective(Tries(graph, judge, context, self.bits))
        with context.progress("tuning", self.trials) as advance:
            trials = Trials(
                space,
                objective,
                Budget(self.trials, self.seconds),
                method=self.method,
                seed=context.seed,
                storage=self.storage,
                label=_label(context, self.samples, self.bits),
                advance=advance,
                prepare=objective.prepare,
                ahead=EXECUTOR.get().workers,
            )
            try:
                norms = least_norms(graph, start, space, judge, context)
                search(trials, space, self.method, norms)
            except KeyboardInterrupt:
                context.report.note("interrupted: the best so far is taken")
        return trials

    def space(self, start: Graph, losses: Mapping[str, Loss], context: Context) -> Space:
        """The parameters; of ranges and weights those whose error harms the outputs most."""
        known, rule = context.calibration, context.target.weights
        harm: dict[str, float] = {}
        none = Loss(0.0, 0.0)
        for value in start.values() if "ranges" in self.over else ():
            if value.quant is not None and value.producer and known and value in known:
                harm[RANGE + key(value)] = losses.get(key(value), none).rounding
        layers = {}
        for unit in find_units(start, context.target, context.exclude):
            slot = weight_slot(unit.node)
            weights = unit.node.inputs[slot] if slot is not None else None
            if weights is not None and weights.quant is not None and weights.quant.dtype.is_integer:
                loss = losses.get(key(unit.result), none).weights
                layers[key(weights)] = loss / weights.numpy().size
                if "weights" in self.over:
                    harm[WEIGHTS + key(weights)] = loss
        worst = sorted(harm, key=lambda name: -harm[name])[: self.tensors]
        space: dict[str, Real | Choice] = {
            name: FACTORS[RANGE if name.startswith(RANGE) else WEIGHTS] for name in worst
        }
        if "granularity" in self.over and rule is not None and rule.per_channel:
            space[GRANULARITY] = Choice(("channel", "tensor"), "channel")
        if "bias" in self.over:
            space[BIAS] = Choice(("none", "fast", "sequential"), "none")
        if "bits" in self.over:
            order = sorted(layers, key=layers.__getitem__)
            space |= {BITS + n: Real(0.0, 1.0, (k + 0.5) / len(order)) for k, n in enumerate(order)}
        return space

    def _report(self, context: Context, trials: Trials, chosen: Params) -> None:
        changed = {name: value for name, value in chosen.items() if value != trials.start[name]}
        context.report.matched, context.report.rewritten = len(chosen), len(changed)
        context.results["tune"] = {
            "trials": trials.count,
            "start": trials.value(trials.start),
            "best": trials.best[1],
            "changed": changed,
        }


def _label(context: Context, samples: int, bits: float) -> str:
    """Tells studies of other models, data, targets and objectives apart."""
    known = context.calibration
    ranges = {} if known is None else {n: r.rows.tolist() for n, r in known.ranges.items()}
    metric, target = context.metric and context.metric.lower_is_better, context.target
    stored = (target.weights, target.layers) if target.layers else target.weights
    return repr((ranges, target.name, stored, samples, bits, metric))
