"""Chooses for every tensor the range that costs the model's outputs the least."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import Graph, Value, grid, shapes
from ..ir.calibration import histograms
from ..ir.grid_rule import GridRule
from ..ir.histogram import Row, chooser
from ..ir.ranges import Calibration, Range, key
from ..ir.reach import out_of_reach
from ..ir.samples import Samples
from ..ir.tensor import Array
from .base import Context, Pass
from .behind import noise_of_grids
from .calibrate import observed, with_range
from .grids import Span
from .judge import contest
from .ranges import planned

HOLD_OUT = 4
"""Every fourth sample judges, from the others come the histograms."""
PERCENTS = (99.9, 99.99, 99.999)
ALIKE = 0.02
"""Ranges whose ends differ by less than this part of the width are one candidate."""
MARGINS = (0.05, 0.3, 0.6)
"""Parts of a tensor's error that another range must save to be chosen; which of them is tried.

What few samples show of a range that clips is too good: the outliers it costs are in others.
"""
KEPT = "kept"


@dataclass(frozen=True)
class Clip(Pass):
    """Choose the range of each activation among several methods, by what the outputs lose.

    No method serves all tensors: what a network does with outliers decides whether to clip them,
    not how rare they are. So each range that a method proposes is tried: only this tensor is
    rounded, and what comes after it is run to the outputs. Errors count relative to the error of
    all tensors together, so that outputs weigh alike in dB. The chosen ranges stay only if the
    deployed outputs gain on samples that nothing was chosen by.

    Attributes:
        samples: for the histograms, at most so many.
        judges: to try ranges on, at most so many; a sixteenth of all if that is less.

    Sources of the methods: Banner et al. 2018, arXiv:1810.05723 (aciq); S. Migacz, 8-bit inference
    with TensorRT, GTC 2017 (entropy).
    """

    name: ClassVar[str] = "clip"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded", "ranges")
    invalidates: ClassVar[tuple[str, ...]] = ("plan", "filters", "accumulators")
    preserves_function: ClassVar[bool] = True

    samples: int = 64
    judges: int = 4

    def __post_init__(self) -> None:
        """Check the options."""
        if self.samples < 1 or self.judges < 1:
            raise ValueError("samples and judges must be at least 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Replace `context.calibration` if other ranges do better."""
        report, known, rule = context.report, context.calibration, context.target.activations
        if known is None or rule is None:
            report.note("activations stay in float: they need no range")
            return
        shapes.infer(graph)
        learn, few, last = self.divided(context.need_samples(self.name))
        before, where = planned(graph, known, context)
        values = [v for v in tunable(graph, context) if where[v].quant is not None and v in known]
        outputs = [value for value in graph.outputs if value not in out_of_reach(graph)]
        report.matched = len(values)
        if not values or not outputs:
            report.note("no range can be chosen by what the outputs lose")
            return
        steps = len(learn) + len(values) + len(last)
        with context.progress("choosing ranges", steps) as advance:
            rows = histograms(graph, learn, values, advance)
            tried = {v: candidates(known[v], rows[key(v)], rule) for v in values}
            grids = {
                v: [grid(*span, rule.dtype, symmetric=rule.symmetric) for span in spans.values()]
                for v, spans in tried.items()
            }
            noises = noise_of_grids(graph, grids, outputs, few, advance)
            best = [choices(tried, noises, margin) for margin in MARGINS]
            chosen = [_with_choices(known, tried, each) for each in best]
            trials = [(planned(graph, each, context)[0], ()) for each in chosen]
            verdicts = contest((before, ()), trials, last, context.target, advance)
        winner = max(range(len(best)), key=lambda k: (verdicts[k].accepted, sum(verdicts[k].gains)))
        accepted = verdicts[winner].accepted
        if accepted:
            context.calibration = chosen[winner]
            report.rewritten = sum(name != KEPT for name in best[winner].values())
        counts = Counter(best[winner].values()).most_common()
        report.note(", ".join(f"{n} {name}" for name, n in counts))
        done = f"choice {'kept' if accepted else 'dropped'}"
        report.note(f"{done}: {verdicts[winner]} on {len(last)} samples held back")

    def divided(self, samples: Samples) -> tuple[Samples, Samples, Samples]:
        """Samples for the histograms, to try ranges on, and for the final verdict."""
        learn, held_back = samples.split(HOLD_OUT)
        few, last = held_back.split(2)
        tries = max(1, min(self.judges, len(samples) // 16))
        return learn.spread(self.samples), few.spread(tries), last.spread(8)


def tunable(graph: Graph, context: Context) -> list[Value]:
    """Results of operators whose range may matter; an input's grid keeps all that was seen."""
    found = {v.producer: v for v in with_range(graph, observed(graph, context), context)}
    return [found[node] for node in graph.order() if node in found]


def candidates(known: Range, row: Row, rule: GridRule) -> dict[str, Span]:
    """Method -> range, the present one first; ranges like one before them are left out."""

    def by(method: str, percent: float = 0.0) -> Span:
        return chooser(method, percent, rule.dtype, rule.symmetric)(row)

    proposed: dict[str, Span] = {
        KEPT: (float(known.low), float(known.high)),
        "min-max": (float(known.seen_low), float(known.seen_high)),
        **{f"{percent} %": by("percentile", percent) for percent in PERCENTS},
        **{method: by(method) for method in ("mse", "entropy", "aciq")},
    }
    found: dict[str, Span] = {}
    for name, (low, high) in proposed.items():
        near = ALIKE * (high - low)
        alike = any(abs(low - a) <= near and abs(high - b) <= near for a, b in found.values())
        if high > low and not alike:
            found[name] = low, high
    return found or {KEPT: proposed[KEPT]}


def choices(
    tried: dict[Value, dict[str, Span]], noises: dict[Value, Array], margin: float
) -> dict[Value, str]:
    """The method for each tensor whose error weighs the least over the outputs.

    Single errors add up, as they hardly know of each other. Saving a part of an output's whole
    error is worth the same dB on each output, whatever its size.

    Args:
        tried: method -> range, the present one first.
        noises: energies, [methods, outputs].
        margin: part of a tensor's error that another method must save.
    """
    whole = np.sum([noise[0] for noise in noises.values()], axis=0)
    usable = np.isfinite(whole) & (whole > 0)
    found = {}
    for value, noise in noises.items():
        costs = (noise[:, usable] / whole[usable]).sum(axis=1)
        best = int(np.argmin(costs))
        better = costs[best] < (1 - margin) * costs[0]
        found[value] = list(tried[value])[best if better else 0]
    return found


def _with_choices(
    known: Calibration, tried: dict[Value, dict[str, Span]], chosen: dict[Value, str]
) -> Calibration:
    ranges = dict(known.ranges)
    for value, name in chosen.items():
        low, high = (np.array(end) for end in tried[value][name])
        ranges[key(value)] = dataclasses.replace(known[value], low=low, high=high)
    return dataclasses.replace(known, ranges=ranges)
