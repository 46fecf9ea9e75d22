"""Checks that a pass which promises to keep the graph's function does."""

from __future__ import annotations

from itertools import islice

import numpy as np

from ..ir import Graph
from ..ir.evaluate import Runner
from ..ir.reach import out_of_reach
from ..ir.samples import random_samples
from ..ir.tensor import Array
from .base import Context, PassError

SAMPLES = 2
TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest magnitude of the output."""


class FunctionCheck:
    """Compares all graph outputs on a few samples before and after a pass."""

    def __init__(self, context: Context) -> None:
        """Take samples from the context, random ones when it has none."""
        self._context = context
        self._known: tuple[Graph, int, list[list[Array]]] | None = None

    def outputs(self, graph: Graph) -> list[list[Array]]:
        """Outputs per sample; remembered until the graph changes."""
        if self._known and self._known[0] is graph and self._known[1] == graph.version:
            return self._known[2]
        samples = self._context.samples or random_samples(graph.inputs, SAMPLES, self._context.seed)
        hidden = out_of_reach(graph)
        runner = Runner(graph, [value for value in graph.outputs if value not in hidden])
        found = [runner.run(feeds) for feeds in islice(iter(samples), SAMPLES)]
        self._known = (graph, graph.version, found)
        return found

    def compare(self, name: str, graph: Graph, expected: list[list[Array]]) -> None:
        """Run `graph` and compare; `PassError` names the output that differs and by how much."""
        hidden = out_of_reach(graph)
        outputs = zip(graph.output_names, graph.outputs, strict=True)
        names = [name for name, value in outputs if value not in hidden]
        for before, after in zip(expected, self.outputs(graph), strict=True):
            for output, a, b in zip(names, before, after, strict=True):
                worst = difference(a, b)
                if not worst <= TOLERANCE:
                    raise PassError(
                        f"pass '{name}' promises to keep the function, but output '{output}' "
                        f"differs by {worst:.3g} of its largest magnitude"
                    )


def difference(expected: Array, found: Array) -> float:
    """Largest difference relative to the largest magnitude expected; inf when shapes differ.

    Non-finite elements must agree exactly.
    """
    if expected.shape != found.shape or expected.dtype.kind in "OUS":
        return 0.0 if np.array_equal(expected, found) else np.inf
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    largest = float(np.max(np.abs(a[finite]), initial=0.0))
    return float(np.max(np.abs(a - b)[finite], initial=0.0)) / max(largest, 1e-12)
