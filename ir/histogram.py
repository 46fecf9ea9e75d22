"""Histograms of fixed size over a stream of tensors, and clipping ranges chosen from them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dtypes import DType
from .quant import grid
from .tensor import Array

Floats = NDArray[np.float64]
BINS = 4096
"""Bins per row: at least eight per step of an 8-bit grid."""
CANDIDATES = 100
"""Places tried for one end of a range."""
ROUNDS = 2
"""How often each end is searched with the other one fixed."""
PARTS = 5
"""Arrays that make up a histogram."""
_FINEST = -126
"""Smallest exponent of a bin width: its inverse must be a float32."""
_CHUNK = 1 << 16
"""Elements binned at a time, so that intermediate arrays stay in the cache."""


class Histogram:
    """Counts of values in equal bins, one row per channel (a single one for a whole tensor).

    Bins reach over all values and 0, as the grid of a tensor does. Their widths are powers of two,
    their edges multiples of these. When a row's data outgrow its bins, pairs of bins are merged:
    no count is lost, and the result depends on the data only, not on their order or division.
    State: rows x bins counts, whatever the number of samples.

    Attributes:
        counts: int64 [rows, bins].
        exponent: int64 [rows]; bins of row r are 2**exponent[r] wide.
        start: int64 [rows]; the first bin of row r begins at start[r] * 2**exponent[r].
        low, high: float64 [rows], extremes seen; +inf and -inf before any.
    """

    def __init__(self, rows: int = 1, bins: int = BINS) -> None:
        """Make an empty histogram."""
        self.counts = np.zeros((rows, bins), np.int64)
        self.exponent = np.full(rows, _FINEST, np.int64)
        self.start = np.zeros(rows, np.int64)
        self.low = np.full(rows, np.inf)
        self.high = np.full(rows, -np.inf)

    def add(self, data: Array, low: Floats, high: Floats) -> None:
        """Count finite elements, float32 [rows, n] with n > 0.

        `low` and `high`, float64 [rows], are the extremes of each row of `data`.
        """
        self._cover(np.minimum(low, self.low), np.maximum(high, self.high))
        rows, bins = self.counts.shape
        # Scaling up is exact in float32; scaling down could turn a negative element into 0.
        exact = np.float32 if (self.exponent <= 0).all() else np.float64
        scale = np.ldexp(exact(1), -self.exponent).astype(exact)[:, None]
        origin = (np.arange(rows) * bins - self.start)[:, None]
        flat = self.counts.reshape(-1)
        step = max(_CHUNK, flat.size) // rows
        for k in range(0, data.shape[1], step):
            index = np.floor(data[:, k : k + step] * scale).astype(np.int64) + origin
            flat += np.bincount(index.reshape(-1), minlength=flat.size)

    @classmethod
    def of(cls, parts: Sequence[Array]) -> Histogram:
        """The inverse of `parts`."""
        made = cls(0, 0)
        made.counts, made.exponent, made.start, made.low, made.high = map(np.array, parts)
        return made

    @property
    def parts(self) -> list[Array]:
        """Its attributes in the order above, `PARTS` arrays."""
        return [self.counts, self.exponent, self.start, self.low, self.high]

    def merge(self, other: Histogram) -> None:
        """Add what `other`, of as many rows and bins, has counted; exact in any order."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        moved = Histogram.of(other.parts)
        for each in (self, moved):
            each._cover(low, high)
        self.counts += moved.counts

    def _cover(self, low: Floats, high: Floats) -> None:
        """Lay the bins out anew for the extremes `low` and `high`; counts go along."""
        exponent, start = _layout(np.minimum(low, 0.0), np.maximum(high, 0.0), self.counts.shape[1])
        moved = (exponent != self.exponent) | (start != self.start)
        for row in np.flatnonzero(moved & np.isfinite(self.low)):
            counts = self.counts[row]
            used = np.flatnonzero(counts)
            shift = exponent[row] - self.exponent[row]
            place = ((self.start[row] + used) >> shift) - start[row]
            self.counts[row] = np.bincount(place, counts[used], counts.size)
        self.exponent, self.start, self.low, self.high = exponent, start, low, high

    def row(self, index: int) -> Row:
        """Centers and counts of the bins of one row."""
        used = np.flatnonzero(self.counts[index])
        width = float(np.ldexp(1.0, int(self.exponent[index])))
        edges = (self.start[index] + np.arange(len(self.counts[index]))) * width
        last = int(used[-1]) + 1 if used.size else 1
        return Row(
            edges[:last],
            self.counts[index][:last].astype(np.float64),
            width,
            float(self.low[index]),
            float(self.high[index]),
        )


def _layout(low: Floats, high: Floats, bins: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Exponents of the smallest widths with which `bins` bins reach from `low` to `high`; starts.

    Both are int64 [rows]; start * 2**exponent is where the first bin begins.
    """
    span = (high - low) / bins
    exponent = np.where(span > 0, np.frexp(span)[1] - 1, _FINEST).astype(np.int64)
    exponent = np.maximum(exponent, _FINEST)
    while True:
        start, last = (np.floor(np.ldexp(end, -exponent)) for end in (low, high))
        wide = last - start >= bins
        if not wide.any():
            return exponent, start.astype(np.int64)
        exponent = exponent + wide


class Row(NamedTuple):
    """One row of a histogram: left edges and counts of equal bins, float64 [bins], and extremes."""

    edges: Floats
    counts: Floats
    width: float
    low: float
    high: float

    @property
    def centers(self) -> Floats:
        """Middles of the bins, kept within the extremes; 0 for the bin above it.

        Most of what is in that bin is exactly 0, as a Relu leaves it.
        """
        middles = np.where(self.edges == 0, 0.0, self.edges + self.width / 2)
        return np.clip(middles, self.low, self.high)


Chooser = Callable[[Row], tuple[float, float]]


def percentile(row: Row, percent: float) -> tuple[float, float]:
    """The range that leaves (100 - percent) % of the elements out at each end."""
    below = np.concatenate([[0.0], np.cumsum(row.counts)])
    edges = np.append(row.edges, row.edges[-1] + row.width)
    ends = np.interp(np.array([1 - percent / 100, percent / 100]) * below[-1], below, edges)
    low, high = np.clip(ends, row.low, row.high)
    return float(low), float(high)


def noise(row: Row, low: Floats, high: Floats, dtype: DType, symmetric: bool) -> Floats:
    """Mean squared error, float64 [k], of quantizing the row on the grids of k ranges."""
    info = grid(low, high, dtype, symmetric=symmetric, axis=0)
    centers = np.broadcast_to(row.centers.astype(np.float32), (len(low), len(row.counts)))
    error = centers.astype(np.float64) - info.fake(centers)
    return np.asarray((error * error) @ row.counts / max(row.counts.sum(), 1.0))


def chooser(method: str, percent: float, dtype: DType, symmetric: bool) -> Chooser:
    """The function that picks a range from a histogram."""
    if method == "percentile":
        return lambda row: percentile(row, percent)
    if method == "mse":
        return lambda row: least_noise(row, dtype, symmetric)
    if method == "entropy":
        return lambda row: least_divergence(row, dtype)
    return lambda row: aciq(row, dtype, symmetric)


def least_noise(row: Row, dtype: DType, symmetric: bool) -> tuple[float, float]:
    """The range whose grid has the least squared error: the ends searched in turn, or as one."""
    whole = np.array([min(row.low, 0.0), max(row.high, 0.0)])
    shares = np.arange(CANDIDATES, 0, -1) / CANDIDATES
    if symmetric:
        reach = np.abs(whole).max() * shares
        tries = np.clip([-reach, reach], whole[0], whole[1])
        best = tries[:, np.argmin(noise(row, tries[0], tries[1], dtype, symmetric))]
        return float(best[0]), float(best[1])
    best = whole
    for end in (0, 1) * ROUNDS:
        tries = np.repeat(best[:, None], CANDIDATES, axis=1)
        tries[end] = whole[end] * shares
        best = tries[:, np.argmin(noise(row, tries[0], tries[1], dtype, symmetric))]
    return float(best[0]), float(best[1])


def least_divergence(row: Row, dtype: DType) -> tuple[float, float]:
    """The range within +-t whose grid loses the least information.

    For thresholds t the distribution of |x| clipped at t is compared with the same in as few
    levels as the grid has on one side: least Kullback-Leibler divergence. Source: S. Migacz,
    8-bit inference with TensorRT, GTC 2017.
    """
    whole = _folded(row)
    levels = 1 << (dtype.bits if row.low >= 0 else dtype.bits - 1)
    best = len(whole)
    if best > levels:
        tries = np.unique(np.linspace(levels, best, CANDIDATES).astype(np.int64))[::-1]
        best = int(min(tries, key=lambda t: _divergence(whole, int(t), levels)))
    reach = best * row.width
    return max(-reach, row.low), min(reach, row.high)


def _folded(row: Row) -> Floats:
    """Counts of |x| in bins of the row's width from 0 on, without the peak of exact zeros.

    Every grid holds 0: that peak says nothing about the range, yet would outweigh all else.
    """
    index = np.rint(row.edges / row.width).astype(np.int64)
    counts = np.bincount(np.where(index < 0, -index - 1, index), row.counts, minlength=2)
    counts[0] = min(counts[0], counts[1])
    return np.asarray(counts, np.float64)


def _divergence(counts: Floats, size: int, levels: int) -> float:
    """Kullback-Leibler divergence of the first `size` bins, outliers in the last, from `levels`."""
    inside = counts[:size]
    clipped = inside.copy()
    clipped[-1] += counts[size:].sum()
    group = np.arange(size) * levels // size
    used = inside > 0
    share = np.bincount(group, inside) / np.maximum(np.bincount(group, used), 1.0)
    coarse = np.where(used, share[group], 0.0)
    p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1.0)
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))))


def aciq(row: Row, dtype: DType, symmetric: bool) -> tuple[float, float]:
    """The better of the analytic optima for Laplace and for Gauss distributed elements.

    mean +- reach, or 0 to reach where nothing is negative (half a distribution around 0, as a Relu
    leaves it: the reach of one more bit). Source: Banner et al., Post training 4-bit quantization
    of convolutional networks, arXiv:1810.05723.
    """
    if row.low >= 0:
        there = row.counts * (row.centers > 0)
        mean, bits = 0.0, dtype.bits + 1
    else:
        there = row.counts
        mean, bits = float(row.counts @ row.centers / max(row.counts.sum(), 1.0)), dtype.bits
    away = np.abs(row.centers - mean)
    total = max(there.sum(), 1.0)
    spread = np.array([there @ away / total, np.sqrt(there @ (away * away) / total)])
    reach = spread * [laplace_reach(bits), gauss_reach(bits)]
    low = np.maximum(mean - reach, row.low)
    high = np.minimum(mean + reach, row.high)
    best = int(np.argmin(noise(row, low, high, dtype, symmetric)))
    return float(low[best]), float(high[best])


@functools.cache
def laplace_reach(bits: int) -> float:
    """Half the range of least error for Laplace(0, 1) and 2**bits levels: W0(3 * 4**bits)."""
    from scipy.special import lambertw

    return float(lambertw(3.0 * 4.0**bits).real)


@functools.cache
def gauss_reach(bits: int) -> float:
    """Half the range a of least error for N(0, 1) and 2**bits levels.

    Minimizes (1 + a^2) (1 - erf(a / sqrt 2)) - sqrt(2 / pi) a exp(-a^2 / 2) + a^2 / (3 * 4**bits).
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import erfc

    def error(a: float) -> float:
        clipped = (1 + a * a) * erfc(a / np.sqrt(2)) - np.sqrt(2 / np.pi) * a * np.exp(-a * a / 2)
        return float(clipped + a * a / (3 * 4.0**bits))

    return float(
        minimize_scalar(error, bounds=(0.1, 12), method="bounded", options={"xatol": 1e-9}).x
    )
