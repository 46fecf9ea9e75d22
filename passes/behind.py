"""What the outputs lose when one tensor is rounded, by each of several grids, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import networkx as nx
import numpy as np

from ..ir import DType, Graph, QuantInfo, Value
from ..ir.evaluate import Runner
from ..ir.samples import Samples
from ..ir.tensor import Array
from .judge import comparable
from .measures import squared
from .opset import raise_opset
from .quant import needed_opset
from .walk import BUDGET, Segment, Store, cut, opened


def noise_of_grids(
    graph: Graph,
    grids: Mapping[Value, Sequence[QuantInfo]],
    outputs: Sequence[Value],
    samples: Samples,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[Value, Array]:
    """Energy of the errors that each value on each of its grids makes in `outputs`.

    The float model is walked once; at every value only what comes after it is run, once per grid.

    Args:
        graph: in float; stays as it is.
        grids: of each value at least one, all per tensor and of one integer type; the values are
            results of operators in topological order.
        outputs: values of `graph` that ONNX Runtime can compute.
        samples: to run, few.
        advance: told of every value.

    Returns:
        float64 [grids, outputs] per value, summed over samples and elements; 0 for an output that
        does not depend on the value, infinite for one that cannot be compared (no floats, or
        another shape).
    """
    runner = Runner(graph, outputs)
    real = [runner.run(feeds) for feeds in samples]
    found = {}
    with tempfile.TemporaryDirectory(prefix="ptq_opt_grids_") as folder:
        store = Store(BUDGET, Path(folder))
        segments, inputs = cut(graph, [*grids, *outputs])
        count = store.fill(inputs, samples)
        for (value, tried), segment in zip(grids.items(), segments, strict=False):
            _step(graph, value, segment, store, count)
            for other in segment.frees:
                store.drop(other, count)
            found[value] = np.zeros((len(tried), len(outputs)))
            rest = _Rest(graph, value, outputs, store, tried[0])
            for sample, exact in enumerate(real):
                for k, info in enumerate(tried):
                    for n, array in rest.run(sample, info).items():
                        fits = comparable(exact[n], array)
                        found[value][k, n] += squared(exact[n] - array) if fits else np.inf
            if value not in segment.keeps:
                store.drop(value, count)
            advance(1)
    return found


def _step(graph: Graph, value: Value, segment: Segment, store: Store, count: int) -> None:
    """Run a segment for all samples; its results and `value` are stored."""
    wanted = list(dict.fromkeys([value, *segment.keeps]))
    part, where = opened(graph, segment.reads, wanted, store)
    runner = Runner(part)
    for sample in range(count):
        feeds = {where[v].name: store.get(v, sample) for v in segment.reads}
        for v, array in zip(wanted, runner.run(feeds), strict=True):
            store.put(v, sample, array)


class _Rest:
    """What comes after a value, which is rounded to a grid that every run names."""

    def __init__(
        self, graph: Graph, value: Value, outputs: Sequence[Value], store: Store, like: QuantInfo
    ) -> None:
        """Open it for what `store` holds; grids are of the type of `like`."""
        assert value.producer is not None
        after = nx.descendants(graph.nx, value.producer) | {value.producer}
        self._ends = [n for n, output in enumerate(outputs) if output.producer in after]
        self._store, self._value = store, value
        others = [v for v in store.values() if v is not value]
        ends = [outputs[n] for n in self._ends]
        part, where = opened(graph, [value, *others], ends, store)
        rounded, uses = where[value], list(where[value].uses)
        rounded.quant = like
        raise_opset(part, needed_opset(part))
        scale, zero = part.input("scale", DType.FLOAT, ()), part.input("zero", like.dtype, ())
        integers = part.add("QuantizeLinear", [rounded, scale, zero]).output
        again = part.add("DequantizeLinear", [integers, scale, zero]).output
        for reader, slot in uses:
            part.set_input(reader, slot, again)
        self._names = {v: where[v].name for v in (value, *others) if where[v].uses}
        self._runner = Runner(part)

    def run(self, sample: int, info: QuantInfo) -> dict[int, Array]:
        """The outputs that depend on the value, by number."""
        feeds = {name: self._store.get(v, sample) for v, name in self._names.items()}
        feeds["scale"] = np.asarray(info.scale)
        feeds["zero"] = np.asarray(info.zero_point, info.dtype.numpy)
        return dict(zip(self._ends, self._runner.run(feeds), strict=True))
