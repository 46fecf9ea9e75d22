"""Learns the ranges of activations from samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..ir import Graph, Value, shapes
from ..ir.calibration import calibrate
from ..ir.finite import first_not_finite
from ..ir.observation import OBSERVED
from ..ir.ranges import key
from ..ir.reach import infinite, out_of_reach
from ..ir.samples import Samples
from .base import Context, Pass, examples
from .ranges import choose, judges
from .units import data_inputs, find_units

Method = Literal["auto", "mean-max", "min-max", "percentile", "mse", "entropy", "aciq"]


@dataclass(frozen=True)
class Calibrate(Pass):
    """Learn the range of every activation that may be quantized, by running the samples.

    Attributes:
        method: how a tensor's range follows from its values on all samples: `mean-max` is the mean
            over samples of each sample's extremes, `min-max` the extremes of all, `auto` whichever
            of them, or half way between, brings the outputs of the quantized model closest to the
            float model's.
        samples: use at most so many.
    """

    name: ClassVar[str] = "calibrate"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded")
    establishes: ClassVar[tuple[str, ...]] = ("ranges",)
    invalidates: ClassVar[tuple[str, ...]] = ("plan", "filters", "accumulators")
    preserves_function: ClassVar[bool] = True

    method: Method = "auto"
    samples: int = 300

    def run(self, graph: Graph, context: Context) -> None:
        """Fill `context.calibration`."""
        if context.target.activations is None:
            context.report.note("activations stay in float: they need no range")
            return
        shapes.infer(graph)
        samples = context.need_samples(self.name).head(self.samples)
        values = with_range(graph, observed(graph, context), context)
        with context.progress("calibrating", len(samples)) as advance:
            method = "mean-max" if self.method == "auto" else self.method
            known = calibrate(graph, samples, values, method=method, progress=advance)
        context.report.matched = len(values)
        context.report.note(f"{len(values)} tensors, {len(samples)} samples, {self.method}")
        if self.method == "auto" and values:
            trial = choose(graph, known, judges(samples), context)
            known = trial.calibration
            extremes = "extremes of all samples"
            if trial.limit < math.inf:
                extremes = f"extremes up to {trial.limit} times their mean, else the mean"
            context.report.note(extremes)
        context.calibration = known
        context.results["calibrate"] = {"not_finite": watch(graph, judges(samples))}


def watch(graph: Graph, samples: Samples) -> list[str]:
    """Where NaN or infinity begins among the activations that need no range.

    Those that need one have been looked at on all samples.
    """
    hidden, endless = out_of_reach(graph), infinite(graph)
    values = [
        value
        for node in graph.order()
        for value in node.outputs
        if value.dtype in OBSERVED and value not in hidden and value not in endless
    ]
    return [
        f"'{key(value)}', computed by {value.producer.label}, holds NaN or infinity (sample "
        f"{number}) of what is finite before it"
        for value, number in first_not_finite(graph, samples, values).items()
        if value.producer is not None
    ]


def with_range(graph: Graph, values: list[Value], context: Context) -> list[Value]:
    """Those of `values` that can be computed and are finite; notes tell about the others."""
    hidden, endless = out_of_reach(graph), infinite(graph)
    if hidden:
        culprits = examples(dict.fromkeys(node.label for node in hidden.values()))
        context.report.note(f"ONNX Runtime does not have {culprits}: what follows stays float")
    masked = [value.name for value in values if value in endless]
    if masked:
        context.report.note(f"infinite by a mask, stays float: {examples(masked)}")
    return [value for value in values if value not in hidden and value not in endless]


def observed(graph: Graph, context: Context) -> list[Value]:
    """The activations whose range a plan may need: operands and results of integer kernels.

    A data mover's result is not among them, it has its operand's range.
    """
    values: dict[Value, None] = {}
    for unit in find_units(graph, context.target):
        if unit.kind is not None and not unit.reason:
            values.update((v, None) for _, v in data_inputs(unit.node) if v.const is None)
            if unit.kind != "agnostic":
                values.update((v, None) for v in unit.results)
    return list(values)
