"""Ranges of activations, learned from samples.

One sample's activations are in memory at a time. Minimum, maximum and mean are reduced inside the
ONNX Runtime graph, which costs little more than inference; the methods that need histograms fetch
the activations and keep a histogram of fixed size per tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from .dtypes import DType
from .errors import DataError, UsageError
from .execution import start
from .graph import Graph
from .histogram import PARTS, Chooser, Floats, Histogram, Row, chooser
from .observation import OBSERVED, Observation
from .observers import Observed, Seen
from .ranges import HISTOGRAM_METHODS, METHODS, Calibration, Range, distinguish, key
from .samples import Feeds, Samples
from .shapes import infer
from .value import Value

__all__ = ["METHODS", "Calibration", "Range", "calibrate"]

SHARD = 8
"""Samples whose statistics come together from a worker."""


def calibrate(
    graph: Graph,
    samples: Iterable[Feeds],
    values: Sequence[Value],
    *,
    method: str = "mean-max",
    channel_axis: int | Mapping[Value, int] | None = None,
    percent: float = 99.99,
    dtype: DType = DType.UINT8,
    symmetric: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Learn the ranges of `values` from `samples`.

    Args:
        graph: the model in floating point.
        samples: feeds, run one at a time.
        values: tensors of the graph to observe; constants, tensors that are not of real numbers
            and values inside bodies are left out.
        method: how the range comes from what is seen. "mean-max": mean over samples of the
            minimum and the maximum; "min-max": the extremes of all samples. With histograms:
            "percentile": `percent` % of all elements below the upper, above the lower end; "mse":
            least squared error of quantization to `dtype`; "entropy": least Kullback-Leibler
            divergence; "aciq": analytic optimum for Laplace or Gauss distributed elements.
        channel_axis: observe channels, too: the axis of all tensors that have it, or of each.
        percent: for "percentile".
        dtype: of the grid that "mse", "entropy" and "aciq" choose a range for.
        symmetric: the same; see `quant.grid`.
        progress: told how many samples were seen, after each shard of them.

    Raises:
        DataError: NaN or infinity in a tensor (names it, the node it first appears at and the
            sample), or no samples.
        UsageError: unknown method.
    """
    if method not in METHODS:
        raise UsageError(f"unknown calibration method '{method}': use {', '.join(METHODS)}")
    distinguish(graph)
    observed = _observed(graph, values, channel_axis)
    if not observed:
        return Calibration(method)
    counted = method in HISTOGRAM_METHODS
    totals, found = _run(graph, observed, samples, counted, progress)
    low, high = totals.means()[:2] if method == "mean-max" else (totals.low, totals.high)
    if counted:
        low, high = _chosen(found, chooser(method, percent, dtype, symmetric))
    return _collected(method, observed, totals, low, high)


def histograms(
    graph: Graph,
    samples: Iterable[Feeds],
    values: Sequence[Value],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Row]:
    """The distribution of each of `values`, by `key`; arguments and errors as of `calibrate`.

    Constants and what no sample has elements of are left out.
    """
    distinguish(graph)
    observed = _observed(graph, values, None)
    if not observed:
        return {}
    _, counted = _run(graph, observed, samples, True, progress)
    rows = [histogram.row(0) for histogram in counted[: len(observed)]]
    found = zip(observed, rows, strict=True)
    return {key(one.value): row for one, row in found if row.counts.any()}


def _run(
    graph: Graph,
    observed: Sequence[Observed],
    samples: Iterable[Feeds],
    counted: bool,
    progress: Callable[[int], None] | None,
) -> tuple[_Totals, list[Histogram]]:
    """Show all samples to an observer; the histograms are those of `Fetching`, where `counted`."""
    given = samples if isinstance(samples, Samples) else list(samples)
    totals, size = _Totals(sum(1 + one.channels for one in observed)), len(given)
    sought = tuple((key(one.value), one.axis, one.channels) for one in observed)
    each = start(Observation(graph, given, sought, counted))
    whole: list[Histogram] = []
    for low, high, mean, *parts in each([[k, min(k + SHARD, size)] for k in range(0, size, SHARD)]):
        for seen in map(Seen, low, high, mean):
            totals.add(seen)
        found = [Histogram.of(parts[k : k + PARTS]) for k in range(0, len(parts), PARTS)]
        for mine, theirs in zip(whole, found, strict=bool(whole)):
            mine.merge(theirs)
        whole = whole or found
        if progress is not None:
            progress(len(low))
    if not totals.samples:
        raise DataError("there are no calibration samples")
    return totals, whole


def _observed(
    graph: Graph, values: Sequence[Value], channel_axis: int | Mapping[Value, int] | None
) -> list[Observed]:
    """The tensors to observe, each once."""
    if any(value.dtype is None or value.shape is None for value in values):
        infer(graph)
    observed: dict[str, Observed] = {}
    for value in values:
        inside = value in graph.inputs if value.producer is None else value.producer in graph
        if value.dtype not in OBSERVED or not inside or key(value) in observed:
            continue
        axis = channel_axis.get(value) if isinstance(channel_axis, Mapping) else channel_axis
        shape = value.shape or ()
        channels = shape[axis] if axis is not None and -len(shape) <= axis < len(shape) else None
        if isinstance(channels, int) and axis is not None:
            observed[key(value)] = Observed(value, axis % len(shape), channels)
        else:
            observed[key(value)] = Observed(value)
    return list(observed.values())


class _Totals:
    """Sums and extremes over samples, a float64 per slot."""

    def __init__(self, slots: int) -> None:
        self.count = np.zeros(slots, np.int64)
        self.low, self.high = np.full(slots, np.inf), np.full(slots, -np.inf)
        self.sums = np.zeros((3, slots))
        self.samples = 0

    def add(self, seen: Seen) -> None:
        """Add one sample."""
        there = seen.there
        self.low, self.high = np.minimum(self.low, seen.low), np.maximum(self.high, seen.high)
        self.sums += np.where(there, np.stack(seen), 0.0)
        self.count += there
        self.samples += 1

    def means(self) -> Floats:
        """Mean over samples of low, high and mean, float64 [3, slots]."""
        return np.asarray(self.sums / np.maximum(self.count, 1))


def _chosen(counted: Sequence[Histogram], choose: Chooser) -> tuple[Floats, Floats]:
    """The ends that `choose` picks for every slot; 0 where nothing was seen."""
    rows = [histogram.row(k) for histogram in counted for k in range(len(histogram.counts))]
    ends = np.array([choose(row) if row.counts.any() else (0.0, 0.0) for row in rows])
    return ends[:, 0], ends[:, 1]


def _collected(
    method: str, observed: Sequence[Observed], totals: _Totals, low: Floats, high: Floats
) -> Calibration:
    """The ranges in the slots."""
    result = Calibration(method)
    rows = np.stack([low, high, totals.low, totals.high, totals.means()[2]])
    at = len(observed)
    for k, one in enumerate(observed):
        here, at = slice(at, at + one.channels), at + one.channels
        if not totals.count[k]:
            continue
        name, count = key(one.value), int(totals.count[k])
        result.ranges[name] = Range.of(rows[:, k], count)
        if one.axis is not None:
            result.channels[name] = Range.of(rows[:, here], count)
    return result
