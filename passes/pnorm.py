"""How far to clip a tensor for the least p-th power of its rounding error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir import QuantInfo
from ..ir.tensor import Array

COARSE = 60
"""Factors tried before the best of them is refined: the error has many local minima."""


def least_power(
    values: Array,
    weights: Array | None,
    grid_of: Callable[[float], QuantInfo],
    bounds: tuple[float, float],
    power: float,
) -> tuple[float, float]:
    """The factor f for which sum w |x - Q_f(x)|^p is least, and that sum over the sum of w.

    Args:
        values: float32, any shape.
        weights: how often each is there, shape of `values`; None for once each.
        grid_of: the grid for a factor.
        bounds: of the factor.
        power: p.
    """
    from scipy.optimize import minimize_scalar

    data = np.asarray(values, np.float32)
    counts = np.ones(data.shape) if weights is None else weights

    def error(factor: float) -> float:
        away = np.abs(data - grid_of(factor).fake(data)).astype(np.float64)
        return float((counts * away**power).sum() / max(counts.sum(), 1.0))

    tries = np.linspace(*bounds, COARSE)
    errors = [error(float(f)) for f in tries]
    best = int(np.argmin(errors))
    around = float(tries[max(best - 1, 0)]), float(tries[min(best + 1, COARSE - 1)])
    refined = minimize_scalar(error, bounds=around, method="bounded")
    if refined.fun < errors[best]:
        return float(refined.x), float(refined.fun)
    return float(tries[best]), errors[best]
