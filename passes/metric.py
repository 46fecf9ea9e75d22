"""The user's own measure of a model: a function that runs it on data only the user has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..ir import DataError, Graph
from ..ir.evaluate import Runner
from ..ir.tensor import Array

Run = Callable[[Mapping[str, Array]], list[Any]]
"""One sample's feeds, by input name -> the model's outputs in order."""


@dataclass(frozen=True)
class Metric:
    """Scores graphs.

    Attributes:
        function: gets a way to run the model, returns a number.
        lower_is_better: the number is an error.
    """

    function: Callable[[Run], float]
    lower_is_better: bool = False

    def score(self, graph: Graph) -> float:
        """The number that the function returns for `graph`.

        Raises:
            DataError: it raised, or what it returned is no finite number.
        """
        try:
            found = self.function(Runner(graph).run)
        except Exception as error:
            raise DataError(f"the metric failed: {type(error).__name__}: {error}") from error
        try:
            score = float(found)
        except (TypeError, ValueError):
            raise DataError(
                f"the metric returned {type(found).__name__} {found!r}, not a number"
            ) from None
        if not math.isfinite(score):
            raise DataError(f"the metric returned {score}: it must be a finite number")
        return score

    def drop(self, baseline: float, score: float) -> float:
        """How much worse `score` is than `baseline`, in the metric's own unit."""
        return score - baseline if self.lower_is_better else baseline - score

    def dropped(self, baseline: float, drop: float) -> float:
        """The score that is worse than `baseline` by `drop`."""
        return baseline + drop if self.lower_is_better else baseline - drop
