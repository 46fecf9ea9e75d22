"""Finds the operators that make NaN or infinity of finite numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .clone import clone
from .dtypes import DType
from .evaluate import Runner, reduce
from .graph import Graph
from .samples import Feeds
from .tensor import Array
from .value import Value


def first_not_finite(
    graph: Graph, samples: Iterable[Feeds], values: Sequence[Value]
) -> dict[Value, int]:
    """Of `values`, those that are not finite although what they are computed from is.

    Each with the number of the first sample that shows it. One sum per tensor tells, which costs
    little more than the run; only a sample with a sum that is not finite is looked at closely.
    Whether an operand is finite is known where it is one of `values`.
    """
    copy, where = clone(graph)
    runner = Runner(copy, [_sum(copy, where[value]) for value in values])
    found: dict[Value, int] = {}
    for number, feeds in enumerate(samples):
        sums = zip(values, runner.run(feeds), strict=True)
        suspects = [value for value, total in sums if not np.isfinite(total)]
        if not suspects:
            continue
        arrays = Runner(graph, suspects).run(feeds)
        bad = {v for v, a in zip(suspects, arrays, strict=True) if not _is_finite(a)}
        for value in suspects:
            operands = value.producer.operands() if value.producer is not None else ()
            if value in bad and not any(operand in bad for _, operand in operands):
                found.setdefault(value, number)
    return found


def _sum(graph: Graph, value: Value) -> Value:
    """NaN, or infinite, when an element of `value` is."""
    if value.dtype is not DType.FLOAT:
        value = graph.add("Cast", [value], {"to": int(DType.FLOAT)}).output
    return reduce(graph, value, "ReduceSum")


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array.astype(np.float32)).all())
