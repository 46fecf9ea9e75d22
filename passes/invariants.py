"""Checks that a pass which promises to keep the graph's function does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from ..ir import Graph
from ..ir.evaluate import Runner
from ..ir.reach import out_of_reach
from ..ir.samples import Feeds, random_samples
from ..ir.tensor import Array
from .base import Context, PassError, total_edits

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
        edits = total_edits(graph)
        if self._known is None or self._known[0] is not graph or self._known[1] != edits:
            self._known = graph, edits, self._run(graph, self._feeds(graph))
        return self._known[2]

    def compare(self, name: str, graph: Graph, expected: list[list[Array]]) -> None:
        """Run `graph` and compare; `PassError` names the output that differs and by how much.

        An output that rounding errors in the inputs would change as well, such as the order of
        equal scores, is noted instead.
        """
        found = self.outputs(graph)
        worst = _differences(expected, found)
        if max(worst, default=0.0) <= TOLERANCE:
            return
        noisy = _differences(found, self._run(graph, map(_disturbed, self._feeds(graph))))
        hidden = out_of_reach(graph)
        shown = zip(graph.output_names, graph.outputs, strict=True)
        names = [output for output, value in shown if value not in hidden]
        for output, much, noise in zip(names, worst, noisy, strict=True):
            if much <= TOLERANCE:
                continue
            if noise <= TOLERANCE:
                raise PassError(
                    f"pass '{name}' promises to keep the function, but output '{output}' "
                    f"differs by {much:.3g} of its largest magnitude"
                )
            self._context.report.note(
                f"output '{output}' cannot be checked: rounding alone changes it by {noise:.3g}"
            )

    def _feeds(self, graph: Graph) -> Iterator[Feeds]:
        samples = self._context.samples or random_samples(graph.inputs, SAMPLES, self._context.seed)
        return islice(iter(samples), SAMPLES)

    def _run(self, graph: Graph, feeds: Iterable[Feeds]) -> list[list[Array]]:
        hidden = out_of_reach(graph)
        runner = Runner(graph, [value for value in graph.outputs if value not in hidden])
        return [runner.run(sample) for sample in feeds]


def _differences(expected: list[list[Array]], found: list[list[Array]]) -> list[float]:
    """The largest `difference` of each output over the samples."""
    samples = [
        [difference(a, b) for a, b in zip(before, after, strict=True)]
        for before, after in zip(expected, found, strict=True)
    ]
    return [max(output) for output in zip(*samples, strict=True)]


def _disturbed(feeds: Feeds) -> Feeds:
    """Every real one rounding error larger or smaller."""
    random = np.random.default_rng(0)
    return {
        name: np.nextafter(a, a * random.choice(np.asarray([0, 2], a.dtype), a.shape))
        if a.dtype.kind == "f"
        else a
        for name, a in feeds.items()
    }


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
    a, b = a[finite], b[finite]
    largest = float(np.max(np.abs(a), initial=0.0))
    return float(np.max(np.abs(a - b), initial=0.0)) / max(largest, 1e-12)
