"""Measures what quantizing each operator alone does to the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ..ir import Graph, UsageError
from ..ir.ranges import key
from .base import Context, Loss, Pass
from .error_sources import Source
from .scored_errors import scored_errors
from .single_errors import Errors, single_errors


@dataclass(frozen=True)
class Sensitivity(Pass):
    """Measure the error that each operator adds to the outputs when it alone is quantized.

    Also what is gained when it alone is left in float, to first order, and whether the errors add
    up. Placement takes the errors as the price of integers.

    Attributes:
        measure: what counts as error: `sqnr` noise relative to the signal, `mse` squared error,
            `kl` divergence of the softmax, `cosine` 1 - cosine, `top1` share of changed maxima,
            `metric` what the caller's own metric drops by.
        samples: use at most so many.
    """

    name: ClassVar[str] = "sensitivity"
    requires: ClassVar[tuple[str, ...]] = ("plan", "filters", "accumulators")
    establishes: ClassVar[tuple[str, ...]] = ("losses",)
    preserves_function: ClassVar[bool] = True

    measure: Literal["sqnr", "mse", "kl", "cosine", "top1", "metric"] = "sqnr"
    samples: int = 8

    def __post_init__(self) -> None:
        """Check the options."""
        if self.samples < 1:
            raise ValueError("samples must be at least 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Fill `context.losses`."""
        report = context.report
        if not any(node.precision == "int8" for node in graph):
            report.note("no operator runs in integers: there is nothing to measure")
            context.losses = {}
            return
        found = self._measured(graph, context)
        report.matched = len(found.sources)
        context.losses = {key(source.value): loss_of(source) for source in found.sources}
        context.results["sensitivity"] = describe(found, self.measure)
        for line in checks(found):
            report.note(line)

    def _measured(self, graph: Graph, context: Context) -> Errors:
        if self.measure == "metric":
            if context.metric is None:
                raise UsageError("sensitivity{measure=metric} needs a metric: give --metric")
            return scored_errors(graph, context.target, context.metric)
        samples = context.need_samples(self.name).spread(self.samples)
        with context.progress("measuring errors one by one", None) as advance:
            return single_errors(graph, context.target, samples, self.measure, advance)


def loss_of(source: Source) -> Loss:
    """What placement pays for an operator: its part from rounded weights, and from its tensor."""
    total = max(float(source.alone.sum()), 0.0)
    return Loss(total * source.rounding, total * (1 - source.rounding))


def checks(found: Errors) -> Iterator[str]:
    """Whether errors add up, and what is predicted to be gained is."""
    together = float(found.together.sum())
    if together <= 0:
        yield "quantization makes no output worse"
        return
    total = sum(float(source.alone.sum()) for source in found.sources) / together
    yield f"{len(found.sources)} errors one by one sum to {total:.2f} times the error of all"
    if found.exact:
        predicted = sum(float(found.sources[k].gained.sum()) for k in found.exact) / together
        real = sum(float(gain.sum()) for gain in found.exact.values()) / together
        yield (
            f"of the error of all, the {len(found.exact)} operators that promise most, each left "
            f"alone in float, gain {predicted:.0%} as predicted and {real:.0%} as run"
        )


def describe(found: Errors, measure: str) -> dict[str, Any]:
    """Plain data for the report, worst operator first."""
    together = float(found.together.sum())
    order = np.argsort([-float(source.alone.sum()) for source in found.sources], kind="stable")
    return {
        "measure": measure,
        "outputs": found.outputs,
        "together": found.together.tolist(),
        "sum": np.sum([source.alone for source in found.sources], axis=0).tolist(),
        "operators": [_row(found, k, together) for k in order.tolist()],
    }


def _row(found: Errors, number: int, together: float) -> dict[str, Any]:
    source, exact = found.sources[number], found.exact.get(number)
    return {
        "node": source.label,
        "tensor": key(source.value),
        "alone": source.alone.tolist(),
        "gained": source.gained.tolist(),
        "gained_as_run": None if exact is None else exact.tolist(),
        "rounding": source.rounding,
        "share": float(source.alone.sum()) / together if together > 0 else 0.0,
    }
