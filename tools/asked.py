"""What is asked of the accuracy of a result, and holding it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..ir import Graph, UsageError
from ..ir.sources import named
from ..passes.hold import Attempt, Drop, Short, to_fidelity, to_metric
from ..passes.metric import Metric, Run
from ..passes.pipeline import Pipeline
from ..passes.registry import DEFAULT
from .fidelity import Reference

MAX_DROP = 0.01
MIN_SQNR = 10.0
"""dB; how it was chosen is told in docs/command-line.md."""


@dataclass(frozen=True)
class Asked:
    """What must hold.

    Attributes:
        metric: the user's, None without.
        max_drop: by how much it may drop, in its own unit.
        min_sqnr: dB that every output must have where there is no metric; 0 for no demand.
    """

    metric: Metric | None
    max_drop: float
    min_sqnr: float

    @staticmethod
    def of(
        metric: str | Callable[[Run], float] | None,
        max_drop: float | None,
        lower_is_better: bool,
        min_sqnr: float | None,
        pipeline: Pipeline,
    ) -> Asked:
        """Check the options; `UsageError` where they make no sense.

        Without a `min_sqnr`, pipelines that the user composed are left as they are.
        """
        if metric is None and (max_drop is not None or lower_is_better):
            raise UsageError("--max-drop and --lower-is-better need a --metric")
        if max_drop is not None and not (math.isfinite(max_drop) and max_drop >= 0):
            raise UsageError(f"--max-drop must be 0 or more, not {max_drop:g}")
        if min_sqnr is not None and not (math.isfinite(min_sqnr) and min_sqnr >= 0):
            raise UsageError(f"--min-sqnr must be 0 (no demand) or more dB, not {min_sqnr:g}")
        plans = bool(pipeline.tail("plan")[0])
        if metric is not None and not plans:
            raise UsageError("--metric needs a pipeline that quantizes")
        if min_sqnr is None:
            min_sqnr = MIN_SQNR if pipeline.spec == Pipeline(DEFAULT).spec else 0.0
        function = named(metric, "a metric") if isinstance(metric, str) else metric
        chosen = None if function is None else Metric(function, lower_is_better)
        return Asked(chosen, MAX_DROP if max_drop is None else max_drop, min_sqnr if plans else 0.0)

    def goal(self, graph: Graph) -> Drop | None:
        """Score the float model, where there is a metric."""
        return None if self.metric is None else Drop(self.metric, graph, self.max_drop)

    def hold(
        self,
        attempt: Attempt,
        goal: Drop | None,
        reference: Reference | None,
        again: Callable[[Pipeline], Attempt],
    ) -> tuple[Attempt, dict[str, Any]]:
        """An attempt that holds what is asked, and what was done for it; nothing where it does."""
        if goal is not None:
            return attempt, to_metric(attempt, goal)
        if reference is None or not self.min_sqnr:
            return attempt, {}
        if reference.short_of(self.min_sqnr, attempt.graph) <= 0:
            return attempt, {}

        enough = Short(partial(reference.short_of, self.min_sqnr))
        held, done = to_fidelity(attempt, again, enough, self.min_sqnr)
        if held.unplanned is not None:
            reference.remember(held.unplanned[0])
        return held, done
