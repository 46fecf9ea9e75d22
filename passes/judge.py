"""Which quantized graph is closest to the float model, on samples it was not made with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Value
from ..ir.clone import clone
from ..ir.evaluate import Runner, decibel
from ..ir.execution import Item, Result, Work, start
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
    models = [_returning(original, visible)]
    models += [_returning(each, visible, target) for each in (original, *candidates)]
    usable = np.ones(len(names), bool)
    signal, noise = np.zeros(len(names)), np.zeros((len(models) - 1, len(names)))
    for fits, energy, errors in start(Comparison(models, samples))(range(len(samples))):
        usable &= fits
        signal += energy
        noise += errors
        advance(1)
    if usable[: len(visible)].any():
        usable[len(visible) :] = False
    before, *after = (
        {names[k]: decibel(signal[k], errors[k]) for k in np.flatnonzero(usable)}
        for errors in noise
    )
    return [Verdict(before, each) for each in after]


@dataclass(frozen=True)
class Comparison:
    """The job of comparing models by the energy of their errors; an item is a sample's number.

    The result is, per output, whether all of them can be compared, bool [n], the energy of the
    first's, float64 [n], and that of each other's error, float64 [models - 1, n].

    Attributes:
        models: with the same outputs; the first is right.
        samples: to run.
    """

    models: Sequence[Graph]
    samples: Samples

    def open(self) -> Work:
        """Open all models in ONNX Runtime."""
        reference, *others = [Runner(model) for model in self.models]

        def work(item: Item) -> Result:
            feeds = self.samples[item]
            real = reference.run(feeds)
            runs = [runner.run(feeds) for runner in others]
            columns = zip(real, *runs, strict=True)
            fits = [all(comparable(r, other) for other in found) for r, *found in columns]
            signal, noise = np.zeros(len(real)), np.zeros((len(runs), len(real)))
            for k in np.flatnonzero(fits):
                signal[k] = squared(real[k])
                noise[:, k] = [squared(real[k] - found[k]) for found in runs]
            return [np.array(fits, bool), signal, noise]

        return work


def _returning(candidate: Candidate, visible: Sequence[int], target: Target | None = None) -> Graph:
    """A copy that returns what is to be compared; as it is deployed where there is a target."""
    graph, inner = candidate
    copy, where = clone(graph)
    if target is not None:
        write_qdq(copy, target)
    values = [*(copy.outputs[k] for k in visible), *(where[value] for value in inner)]
    copy.set_outputs(values, [f"compared_{k}" for k in range(len(values))])
    return copy


def comparable(real: Array, found: Array) -> bool:
    """True for tensors of reals of the same shape."""
    both = isinstance(real, np.ndarray) and isinstance(found, np.ndarray)
    return both and real.dtype.kind == "f" and real.shape == found.shape
