"""What samples show of the channels of activations: extremes of each sample, and some elements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from ..ir import Graph, Value
from ..ir.clone import clone
from ..ir.evaluate import Runner, reduce
from ..ir.tensor import Array

POSITIONS = 32
"""Elements kept per sample and channel."""
SLICE_HAS_STEPS = 10
"""Opset from which Slice takes steps; in earlier ones tensors are fetched whole."""


@dataclass(eq=False)
class ChannelData:
    """One tensor.

    Attributes:
        low, high: extremes of each sample, float64 [samples, channels].
        elements: some elements of each channel, evenly spread, float32 [samples, channels,
            positions].
    """

    low: Array
    high: Array
    elements: Array

    def moved(self, amounts: Array) -> ChannelData:
        """The tensor without `amounts` [channels]."""
        return ChannelData(
            self.low - amounts,
            self.high - amounts,
            self.elements - amounts[:, None].astype(np.float32),
        )

    def grouped(self, count: int) -> ChannelData | None:
        """The tensor as `count` channels: as they are, all as one, or None when neither fits."""
        if count == self.low.shape[1]:
            return self
        if count != 1:
            return None
        elements = self.elements.reshape(len(self.low), 1, -1)
        low, high = self.low.min(axis=1, keepdims=True), self.high.max(axis=1, keepdims=True)
        return ChannelData(low, high, elements)

    @property
    def is_finite(self) -> bool:
        """True when it holds neither NaN nor infinity."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def half(self, odd: bool) -> ChannelData:
        """Every other sample; all of them when there is only one."""
        pick = slice(int(odd), None, 2) if len(self.low) > 1 else slice(None)
        return ChannelData(self.low[pick], self.high[pick], self.elements[pick])

    def mean(self) -> Array:
        """Mean of each channel."""
        found: Array = self.elements.mean(axis=(0, 2), dtype=np.float64)
        return found

    def middle(self) -> Array:
        """Middle of each channel's usual range."""
        found: Array = (self.low.mean(axis=0) + self.high.mean(axis=0)) / 2
        return found

    @property
    def reach(self) -> Array:
        """Largest magnitude of each channel."""
        found: Array = np.maximum(np.abs(self.low), np.abs(self.high)).max(axis=0)
        return found

    @property
    def power(self) -> Array:
        """Mean square of each channel."""
        found: Array = np.square(self.elements, dtype=np.float64).mean(axis=(0, 2))
        return found


def collect(
    graph: Graph,
    axes: Mapping[Value, int | None],
    samples: Iterable[Mapping[str, Array]],
    advance: Callable[[int], None],
) -> dict[Value, ChannelData]:
    """Run `samples` and keep what `ChannelData` tells of the tensors in `axes`.

    Extremes are reduced, and elements picked, inside the ONNX Runtime graph.

    Args:
        graph: in float, with shapes.
        axes: tensor -> axis of its channels, None to treat it as one channel.
        samples: feeds, run one at a time.
        advance: called with 1 after each sample.

    Returns:
        Nothing of tensors that are empty or not finite in some sample.
    """
    copy, where = clone(graph)
    fetch: list[Value] = []
    for value, axis in axes.items():
        inner = where[value]
        fetch += [reduce(copy, inner, op, axis) for op in ("ReduceMin", "ReduceMax")]
        fetch.append(_thinned(copy, inner, axis))
    runner = Runner(copy, fetch)
    found: dict[Value, list[tuple[Array, Array, Array]]] = {value: [] for value in axes}
    for feeds in samples:
        results = iter(runner.run(feeds))
        for value, axis in axes.items():
            low, high, picked = next(results), next(results), next(results)
            found[value].append((low.ravel(), high.ravel(), _rows(picked, axis)))
        advance(1)
    data = {value: _stacked(rows) for value, rows in found.items()}
    return {value: d for value, d in data.items() if d.elements.size and d.is_finite}


def _thinned(graph: Graph, value: Value, axis: int | None) -> Value:
    """Every n-th element along each axis but the channels', not many more than needed."""
    sizes = {
        k: d for k, d in enumerate(value.shape or ()) if k != axis and isinstance(d, int) and d > 1
    }
    surplus = prod(sizes.values()) / POSITIONS
    if surplus <= 1 or graph.info.opset < SLICE_HAS_STEPS:
        return value
    step = max(1, int(surplus ** (1 / len(sizes))))
    starts = [min(step, d) // 2 for d in sizes.values()]
    rows = [starts, list(sizes.values()), list(sizes), [step] * len(sizes)]
    constants = [graph.constant(np.array(row, np.int64)) for row in rows]
    return graph.add("Slice", [value, *constants]).output


def _rows(array: Array, axis: int | None) -> Array:
    """[channels, positions], evenly thinned to `POSITIONS`."""
    rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0)
    rows = rows.reshape(len(rows), -1)
    return rows[:, :: max(1, ceil(rows.shape[1] / POSITIONS))].astype(np.float32)


def _stacked(rows: list[tuple[Array, Array, Array]]) -> ChannelData:
    low, high, elements = zip(*rows, strict=True)
    fewest = min(e.shape[1] for e in elements)  # samples may differ in size
    return ChannelData(
        np.array(low, np.float64),
        np.array(high, np.float64),
        np.array([e[:, :fewest] for e in elements]),
    )
