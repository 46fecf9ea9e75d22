"""Which quantized graph is closest to the float model, on samples it was not made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Value
from ..ir.clone import clone
from ..ir.evaluate import Runner, decibel
from ..ir.reach import out_of_reach
from ..ir.samples import Samples
from ..ir.target import Target
from ..ir.tensor import Array
from .measures import squared
from .quant import write_qdq

TOLERATED = 0.1
"""Decibels that a single output may lose where the outputs gain on average."""


@dataclass(frozen=True)
class Verdict:
    """Signal to noise ratios in dB by name of the value, before a change and after it."""

    before: dict[str, float]
    after: dict[str, float]

    @property
    def gains(self) -> list[float]:
        """Decibels won, per value."""
        return [self.after[name] - self.before[name] for name in self.before]

    @property
    def accepted(self) -> bool:
        """True when the values gain on average and none of them loses much."""
        gains = self.gains
        return bool(gains) and sum(gains) > 0 and min(gains) >= -TOLERATED

    def __str__(self) -> str:
        """For people."""
        if not self.before:
            return "no output can be compared with the float model's"
        worst = f"{min(self.before.values()):.2f} to {min(self.after.values()):.2f} dB"
        return (
            f"{np.mean(self.gains):+.2f} dB on average, {min(self.gains):+.2f} at least, "
            f"worst output from {worst}"
        )


Candidate = tuple[Graph, Sequence[Value]]
"""An annotated graph, and inner values to compare where no output can be compared."""


def contest(
    original: Candidate,
    candidates: Sequence[Candidate],
    samples: Samples,
    target: Target,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Verdict]:
    """Run annotated graphs as they will be deployed, and compare each with `original` in float.

    Outputs that are no floats, or whose shape depends on rounding (a number of boxes), are left
    out. One sample's outputs are in memory at a time.

    Args:
        original: before any change; what it computes in float is the reference.
        candidates: after different changes: the same outputs, the same inner values.
        samples: to run.
        target: what all are deployed on.
        advance: told of every sample.
    """
    graph, inner = original
    hidden = out_of_reach(graph)
    visible = [k for k, value in enumerate(graph.outputs) if value not in hidden]
    names = [*(graph.output_names[k] for k in visible), *(value.name for value in inner)]
    reference = Runner(graph, [*(graph.outputs[k] for k in visible), *inner])
    runners = [_deployed(each, visible, target) for each in (original, *candidates)]
    usable = np.ones(len(names), bool)
    signal, noise = np.zeros(len(names)), np.zeros((len(runners), len(names)))
    for feeds in samples:
        runs = zip(*(runner.run(feeds) for runner in runners), strict=True)
        for k, (real, found) in enumerate(zip(reference.run(feeds), runs, strict=True)):
            usable[k] &= all(comparable(real, other) for other in found)
            if usable[k]:
                signal[k] += squared(real)
                noise[:, k] += [squared(real - other) for other in found]
        advance(1)
    if usable[: len(visible)].any():
        usable[len(visible) :] = False
    before, *after = (
        {names[k]: decibel(signal[k], errors[k]) for k in np.flatnonzero(usable)}
        for errors in noise
    )
    return [Verdict(before, each) for each in after]


def _deployed(candidate: Candidate, visible: Sequence[int], target: Target) -> Runner:
    graph, inner = candidate
    copy, where = clone(graph)
    write_qdq(copy, target)
    return Runner(copy, [*(copy.outputs[k] for k in visible), *(where[value] for value in inner)])


def comparable(real: Array, found: Array) -> bool:
    """True for tensors of reals of the same shape."""
    both = isinstance(real, np.ndarray) and isinstance(found, np.ndarray)
    return both and real.dtype.kind == "f" and real.shape == found.shape
