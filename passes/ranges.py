"""Chooses, per tensor, between the usual and the extreme range, by what the outputs lose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..ir import DType, Graph
from ..ir.clone import Mapping, clone
from ..ir.grid_rule import GridRule
from ..ir.ranges import Calibration, Range
from ..ir.samples import Samples
from ..ir.target import Target
from ..ir.tensor import Array
from .base import Context, Report
from .judge import contest
from .plan import Plan

JUDGES = 8
"""Samples that a choice is made by, or all if fewer."""
LIMITS = (np.inf, 2.5, 1.5)
"""How far the extremes of all samples may exceed the mean of the samples' extremes, to be used."""


@dataclass(frozen=True)
class Trial:
    """A calibration and the graph that was planned with it."""

    limit: float
    calibration: Calibration
    graph: Graph


def choose(graph: Graph, calibration: Calibration, samples: Samples, context: Context) -> Trial:
    """Ranges whose quantized outputs are closest to the float model's on `samples`.

    No single rule serves all models. A sample with huge activations makes the extremes useless:
    on MobileNet-v2 the mean gains 5 dB. A classifier's last layer must not be clipped: on
    SqueezeNet the extremes gain 10 dB. What tells the two apart is how far the extremes of all
    samples exceed the mean of each sample's, but not where the border lies; so it is tried. Weights
    of fewer than 8 bits have 8 in these trials, as their errors hide those of the activations: by
    4 bits SqueezeNet's last layers were clipped.

    Args:
        graph: the model in float.
        calibration: by "mean-max".
        samples: few; each trial runs them.
        context: target and exclusions; not changed.
    """
    target = finer_weights(context.target)
    context = dataclasses.replace(context, target=target)
    first, *others = (attempt(graph, calibration, limit, context) for limit in LIMITS)
    verdicts = contest((first.graph, ()), [(trial.graph, ()) for trial in others], samples, target)
    gains = [0.0, *(sum(verdict.gains) for verdict in verdicts)]
    return [first, *others][int(np.argmax(gains))]


def finer_weights(target: Target) -> Target:
    """The target with 8 bits for all weights that have fewer."""

    def finer(rule: GridRule) -> GridRule:
        return rule.widened(DType.INT8) if rule.dtype.bits < 8 else rule

    weights = target.weights and finer(target.weights)
    layers = tuple((pattern, finer(rule)) for pattern, rule in target.layers)
    return dataclasses.replace(target, weights=weights, layers=layers)


def attempt(graph: Graph, calibration: Calibration, limit: float, context: Context) -> Trial:
    """Plan a copy of `graph` with the ranges that `limit` leads to."""
    ranges = {name: bounded(known, limit) for name, known in calibration.ranges.items()}
    chosen = dataclasses.replace(calibration, ranges=ranges)
    return Trial(limit, chosen, planned(graph, chosen, context)[0])


def planned(graph: Graph, calibration: Calibration, context: Context) -> tuple[Graph, Mapping]:
    """A copy of `graph` that is planned with other ranges, and what became of each value."""
    copy, where = clone(graph)
    other = dataclasses.replace(context, calibration=calibration, report=Report(""), results={})
    Plan().run(copy, other)
    return copy, where


def bounded(known: Range, limit: float) -> Range:
    """Each end at the extreme, or at its mean where the extreme is further than `limit` times."""
    return dataclasses.replace(
        known,
        low=_end(known.low, known.seen_low, limit),
        high=_end(known.high, known.seen_high, limit),
    )


def _end(mean: Array, extreme: Array, limit: float) -> Array:
    far = np.abs(extreme) > limit * np.abs(mean) if np.isfinite(limit) else np.False_
    return np.where(far, mean, extreme)


def judges(samples: Samples) -> Samples:
    """Samples to choose by, evenly spread.

    With fewer the choice is a lottery where few samples calibrate: one or two that lack the
    outliers of the others call for clipping, and 2 to 11 dB are lost (crepe_tiny by 8 samples,
    SqueezeNet by 16, an untrained MobileNet-v1 on photos by 16).
    """
    return samples.spread(JUDGES)
