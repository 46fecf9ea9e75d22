"""Ranges without samples, from the statistics of BatchNormalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir import Graph, shapes
from ..ir.calibration import Calibration, Range
from ..ir.ranges import distinguish, key
from .base import Context, Pass, examples
from .calibrate import observed
from .moments import Moments, propagate


@dataclass(frozen=True)
class Statistics(Pass):
    """Predict the range of every activation from BatchNormalization, without samples.

    A normalized channel is expected within its mean +- `deviations` standard deviations; what
    clamps, sums, pooling and further layers make of it is computed, see `moments`. What has no
    statistics, such as the model's inputs, gets no range, and its readers stay in float. Source:
    Nagel et al. 2019, arXiv:1906.04721, section 5.

    Attributes:
        deviations: how many on either side of the mean; fewer clip more and round finer.
    """

    name: ClassVar[str] = "statistics"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded")
    establishes: ClassVar[tuple[str, ...]] = ("ranges",)
    invalidates: ClassVar[tuple[str, ...]] = ("plan", "filters", "accumulators")
    preserves_function: ClassVar[bool] = True

    deviations: float = 6.0

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.deviations > 0:
            raise ValueError("deviations must be greater than 0")

    def run(self, graph: Graph, context: Context) -> None:
        """Fill `context.calibration`."""
        shapes.infer(graph)
        distinguish(graph)
        moments = propagate(graph, context.statistics, self.deviations)
        values = observed(graph, context)
        known = [value for value in values if value in moments]
        context.calibration = Calibration(
            "statistics", {key(value): _range(moments[value]) for value in known}
        )
        report = context.report
        report.matched, report.rewritten = len(values), len(known)
        report.note(f"{len(known)} of {len(values)} ranges follow from BatchNormalization")
        missing = [value.name for value in values if value not in moments]
        if missing:
            report.note(f"without statistics, stays float: {examples(missing)}")


def _range(moments: Moments) -> Range:
    """That of the whole tensor."""
    low, high = moments.low.min(), moments.high.max()
    return Range.of(np.array([low, high, low, high, moments.mean.mean()]), samples=0)
