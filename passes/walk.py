"""Runs a graph over many samples layer by layer, so that each layer can be corrected on the way.

The graph is cut at the layers' outputs. Each part is run once for all samples, from values that
earlier parts left behind, so that a walk costs one forward pass per sample however many layers
there are. Only what later parts read is kept: integers where a DequantizeLinear follows, in memory
up to a budget and in temporary files beyond it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..ir import DType, Graph, Node, QuantInfo, Value
from ..ir.clone import Mapping, extract
from ..ir.evaluate import Runner, reduce
from ..ir.memory import LIMIT
from ..ir.temporary import keeping
from ..ir.tensor import Array
from .layers import Clamp

BUDGET = 64 << 20
"""Bytes of activations held in memory."""
PLAIN = "biuf"
"""Kinds of arrays that numpy's files keep; small types of other packages stay in memory."""


@dataclass(frozen=True)
class Stop:
    """A value to look at: its channel axis (its rank must be known), and what clamps it."""

    value: Value
    axis: int
    clamp: Clamp | None = None


@dataclass
class Segment:
    """What must run before one stop is known.

    Attributes:
        reads: values that earlier segments kept, or inputs of the graph.
        keeps: results that later segments read.
        frees: values that no later segment reads.
    """

    reads: list[Value]
    keeps: list[Value]
    frees: list[Value]


def walk(
    graph: Graph,
    stops: Sequence[Stop],
    samples: Iterable[dict[str, Array]],
    correct: Callable[[int, Array, Array], Array],
    *,
    budget: int = BUDGET,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Run `graph` from stop to stop, changing the means of the stops on the way.

    Args:
        graph: stays as it is.
        stops: in topological order.
        samples: read once.
        correct: called for each stop with its number, the means of its channels, and which part
            of them its clamp passes on, both [samples, channels]; what it returns, [channels], is
            added to the stop before anything reads it. The means are those behind the clamp.
        budget: bytes of activations held in memory, the rest is in temporary files.
        advance: told how many samples went through a segment.
    """
    ends = [stop.clamp.result if stop.clamp else stop.value for stop in stops]
    with Walker(graph, [stop.value for stop in stops], samples, budget) as walker:
        for number, (stop, measured) in enumerate(zip(stops, ends, strict=True)):
            found = walker.visit(number, partial(_means, stop=stop), measured)
            means = np.stack([np.asarray(row, np.float64) for row in found], axis=1)
            passed = means[1] if stop.clamp else np.ones_like(means[0])
            shift = correct(number, means[0], passed)
            shape = np.ones(stop.value.rank or 1, np.int64)
            shape[stop.axis] = -1
            walker.store.shifts[stop.value] = shift.astype(np.float32).reshape(shape)
            advance(walker.count)


def _means(part: Graph, seen: Value, stop: Stop) -> list[Value]:
    """The means of a stop's channels and, with a clamp, of what it passes on."""
    seen.dtype, seen.shape = stop.value.dtype, stop.value.shape
    fetch = [reduce(part, seen, "ReduceMean", stop.axis)]
    if stop.clamp:
        fetch.append(reduce(part, _passed(part, seen, stop.clamp), "ReduceMean", stop.axis))
    return fetch


class Walker:
    """A graph that is run part by part, for all samples up to one value, then up to the next.

    What is not run yet may be edited: the parts are copied when they run.

    Attributes:
        store: what later parts read.
        count: how many samples there are.
    """

    def __init__(
        self,
        graph: Graph,
        stops: Sequence[Value],
        samples: Iterable[dict[str, Array]],
        budget: int = BUDGET,
    ) -> None:
        """Cut `graph` in front of `stops`, which are in topological order, and read the samples."""
        self.graph = graph
        self.segments, inputs = cut(graph, stops)
        self._stops = stops
        self._folder = tempfile.TemporaryDirectory(prefix="ptq_opt_walk_")
        self.store = Store(budget, Path(self._folder.name))
        self.count = 0
        for feeds in samples:
            for value in inputs:
                given = feeds.get(value.name)
                self.store.put(value, self.count, value.numpy() if given is None else given)
            self.count += 1

    def __enter__(self) -> Walker:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def visit(
        self,
        number: int,
        measure: Callable[[Graph, Value], list[Value]] = lambda _, seen: [seen],
        measured: Value | None = None,
    ) -> Iterator[list[Array]]:
        """Run the part in front of stop `number`; yields what is measured, sample by sample.

        Args:
            number: of the stop; each is visited once, in order.
            measure: given a copy of the part and in it the stop, returns what to fetch.
            measured: another value of the part to give to `measure`.
        """
        segment = self.segments[number]
        seen = measured or self._stops[number]
        part, where = opened(self.graph, segment.reads, [seen, *segment.keeps], self.store)
        fold_weights(part)
        fetch = measure(part, where[seen])
        runner = Runner(part, [*fetch, *(where[value] for value in segment.keeps)])
        for sample in range(self.count):
            feeds = {where[value].name: self.store.get(value, sample) for value in segment.reads}
            found = runner.run(feeds)
            for value, array in zip(segment.keeps, found[len(fetch) :], strict=True):
                self.store.put(value, sample, array)
            yield found[: len(fetch)]
        for value in segment.frees:
            self.store.drop(value, self.count)


def cut(graph: Graph, stops: Sequence[Value]) -> tuple[list[Segment], list[Value]]:
    """One segment per stop, and the inputs of the graph that any of them reads.

    What dequantizes is never kept: it is run anew in every segment that needs it, so that the
    integers it reads are kept instead.
    """
    home: dict[Node, int] = {}
    segments = [Segment(reads, [], []) for reads in _reads(stops, home)]
    last = {value: k for k, segment in enumerate(segments) for value in segment.reads}
    inputs = []
    for value, k in last.items():
        segments[k].frees.append(value)
        if value.producer is None:
            inputs.append(value)
        else:
            segments[home[value.producer]].keeps.append(value)
    return segments, inputs


def _reads(stops: Sequence[Value], home: dict[Node, int]) -> Iterable[list[Value]]:
    """For each stop the values it needs from before; `home` learns which segment runs a node."""
    for k, stop in enumerate(stops):
        seen: set[Value] = set()
        reads: dict[Value, None] = {}
        stack = [stop]
        while stack:
            value = stack.pop()
            if value in seen or value.is_constant:
                continue
            seen.add(value)
            producer = value.producer
            if producer is None or home.get(producer, k) != k:
                reads[value] = None
                continue
            if not producer.is_op("DequantizeLinear"):
                home[producer] = k
            stack.extend(v for _, v in producer.operands())
        yield list(reads)


def opened(
    graph: Graph, reads: Sequence[Value], outputs: Sequence[Value], store: Store
) -> tuple[Graph, Mapping]:
    """The part of `graph` from `reads` to `outputs`, ready to be fed what `store` holds of them."""
    part, where = extract(graph, reads, outputs)
    for number, value in enumerate(reads):
        fed = where[value]
        fed.name = f"input_{number}"
        example = store.get(value, 0) if value in store else None
        if isinstance(example, np.ndarray):
            fed.dtype, fed.shape, fed.info = DType.of(example), (None,) * example.ndim, None
    return part, where


def _passed(graph: Graph, result: Value, clamp: Clamp) -> Value:
    """1.0 where `result` lies between the bounds of its clamp, 0.0 where it was clamped."""
    inside = [
        graph.add(op, [result, graph.constant(np.float32(bound))]).output
        for op, bound in (("Greater", clamp.low), ("Less", clamp.high))
        if np.isfinite(bound)
    ]
    both = inside[0] if len(inside) == 1 else graph.add("And", inside).output
    passed = graph.add("Cast", [both], {"to": int(DType.FLOAT)}).output
    passed.dtype, passed.shape = DType.FLOAT, result.shape
    return passed


def fold_weights(graph: Graph) -> None:
    """Replace dequantized constants by what they stand for, so that no run repeats it."""
    for node in graph.order():
        parts = [value for _, value in node.operands()]
        if not node.is_op("DequantizeLinear") or not all(v.is_constant for v in parts):
            continue
        stored, scale = parts[0], parts[1].numpy()
        zero = parts[2].numpy() if len(parts) > 2 else np.zeros_like(scale)
        assert stored.dtype is not None
        axis = node.attrs.get("axis", 1) if scale.ndim else None
        info = QuantInfo(stored.dtype, scale, zero, axis, node.attrs.get("block_size", 0))
        graph.replace(node.output, graph.constant(info.dequantize(stored.numpy())))
        graph.erase(node)


class Store:
    """Arrays by value and sample, in memory up to a budget and in files beyond it.

    Attributes:
        shifts: what is added to a value whenever it is read; broadcasts against it.
    """

    def __init__(self, budget: int, folder: Path) -> None:
        """Keep up to `budget` bytes in memory, and an eighth of its limit; files go to `folder`."""
        limit = LIMIT.get()
        self.left = budget if limit is None else min(budget, limit // 8)
        self.folder = folder
        self.shifts: dict[Value, Array] = {}
        self._held: dict[tuple[Value, int], Any] = {}
        self._serial = 0

    def __contains__(self, value: Value) -> bool:
        """True when something of `value` is kept."""
        return (value, 0) in self._held

    def values(self) -> list[Value]:
        """What is kept."""
        return [value for value, sample in self._held if sample == 0]

    def fill(self, inputs: Sequence[Value], samples: Iterable[dict[str, Array]]) -> int:
        """Keep the inputs of all samples, a default where one is left out; how many there are."""
        count = 0
        for feeds in samples:
            for value in inputs:
                given = feeds.get(value.name)
                self.put(value, count, value.numpy() if given is None else given)
            count += 1
        return count

    def put(self, value: Value, sample: int, data: Any) -> None:
        """Keep `data`: an array, or whatever ONNX Runtime returns for other types."""
        plain = isinstance(data, np.ndarray) and data.dtype.kind in PLAIN
        if plain and _size(data) > self.left:
            path = self.folder / f"{self._serial}.npy"
            self._serial += 1
            with keeping("activations"):
                np.save(path, data, allow_pickle=False)
                if path.stat().st_size < data.nbytes:  # numpy does not see what closing loses
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._held[value, sample] = path
            return
        self.left -= _size(data)
        self._held[value, sample] = data

    def get(self, value: Value, sample: int) -> Any:
        """What was kept, shifted."""
        data = self._held[value, sample]
        if isinstance(data, Path):
            data = np.load(data, allow_pickle=False)
        shift = self.shifts.get(value)
        return data if shift is None else data + shift

    def drop(self, value: Value, count: int) -> None:
        """Forget a value for `count` samples."""
        for sample in range(count):
            data = self._held.pop((value, sample))
            if isinstance(data, Path):
                data.unlink()
            self.left += _size(data)


def _size(data: Any) -> int:
    """Bytes held in memory."""
    return data.nbytes if isinstance(data, np.ndarray) else 0
