"""The job of calibration: what each sample shows of many tensors, shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .dtypes import DType
from .errors import DataError
from .evaluate import Runner
from .execution import Item, Result, Work
from .graph import Graph
from .observers import Fetching, Observed, Reducing
from .ranges import key
from .samples import Feeds, Samples

OBSERVED = (DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16)


@dataclass(frozen=True)
class Observation:
    """Shows samples to an observer; an item [first, end] is a range of them.

    The result is low, high and mean as in `Seen`, float64 [samples, slots] each, and with
    histograms the five arrays of each: those of all tensors, then those of channels.

    Attributes:
        graph: in float; every value has a `key` of its own.
        samples: can be read by number.
        sought: key, channel axis and channels of every tensor to observe.
        counted: keep histograms.
    """

    graph: Graph
    samples: Samples | list[Feeds]
    sought: tuple[tuple[str, int | None, int], ...]
    counted: bool

    def open(self) -> Work:
        """Open the graph in ONNX Runtime."""
        values = {key(value): value for value in self.graph.values()}
        observed = [Observed(values[name], axis, count) for name, axis, count in self.sought]
        fetching = Fetching(self.graph, observed) if self.counted else None
        observer = fetching or Reducing(self.graph, observed)

        def work(item: Item) -> Result:
            seen = []
            for number in range(*item):
                feeds = self.samples[number]
                seen.append(observer.observe(feeds))
                if not seen[-1].is_finite:
                    raise _non_finite(self.graph, observed, feeds, number)
            counts = fetching.take() if fetching is not None else []
            rows = (np.stack(parts) for parts in zip(*seen, strict=True))
            return [*rows, *(part for histogram in counts for part in histogram.parts)]

        return work


def _non_finite(graph: Graph, observed: Sequence[Observed], feeds: Feeds, number: int) -> DataError:
    """The error that names the first NaN or infinity of a sample."""
    floats = [v for node in graph.order() for v in node.outputs if v.dtype in OBSERVED and v.uses]
    asked = [one.value for one in observed]
    every = list(dict.fromkeys([*graph.inputs, *floats, *asked]))
    for value, array in zip(every, Runner(graph, every).run(feeds), strict=True):
        if value.dtype in OBSERVED and not np.isfinite(array.astype(np.float32)).all():
            by = f"computed by {value.producer.label}" if value.producer else "an input"
            return DataError(
                f"sample {number} gives NaN or infinity in tensor '{key(value)}', {by}: leave the "
                "sample out, or repair the model (canonicalize clips masks of -inf)"
            )
    return DataError(f"sample {number} gives values whose sum is beyond float32")
