"""Bias correction: what quantization shifts on average is taken back in the biases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from ..ir import Graph, QuantInfo, Value, grid
from ..ir.clone import clone
from ..ir.evaluate import Runner, reduce
from ..ir.samples import Samples
from ..ir.target import Target
from ..ir.tensor import Array
from .base import Context, Pass
from .judge import contest
from .layers import Layer, find_layers, last_layers
from .moments import propagate
from .quant import write_qdq
from .sums import bias_grid
from .walk import Stop, walk

HOLD_OUT = 4
"""Every fourth sample judges, the others estimate."""
FEWEST = 0.1
"""Part of a channel's elements that a clamp must pass on for its slope to be believed."""
Advance = Callable[[int], None]
Means = dict[tuple[Value, int], Array]
"""Means of a value's channels along an axis, [samples, channels], float64."""


@dataclass(frozen=True)
class Bias(Pass):
    """Correct biases for the mean error that quantization adds to every channel.

    Two estimates compete: `fast`, from the rounding of the weights and the mean inputs in float;
    and `sequential`, which compares what each layer hands on with what it hands on in float, given
    what the quantized and already corrected layers before it really deliver. The sequential one
    sees all errors, those of clipped outliers included, which are no shift of the others: usually
    it gains 0.5 to 2 dB more, but where a few huge activations are clipped deep inside
    (MobileNet-v2) it loses. So a third candidate, `halfway`, is sequential in the first half of the
    layers and fast in the second.

    The outputs' distance to the float model on samples that no estimate saw decides which of them
    stays, or none.

    `analytic` needs no samples: the mean inputs follow from BatchNormalization, see `moments`. It
    is the fast estimate with these means, and stays unjudged where there are no samples.

    Attributes:
        mode: try all of them, or only the fast one, which needs no run of the quantized model; or
            the analytic one.
        samples: use at most so many; a quarter of them judges.

    References: Nagel et al. 2019, Data-Free Quantization, section 4.2 and appendix D; Finkelstein
    et al. 2019, Fighting Quantization Bias With Bias.
    """

    name: ClassVar[str] = "bias"
    requires: ClassVar[tuple[str, ...]] = ("plan", "filters", "accumulators")

    mode: Literal["sequential", "fast", "analytic"] = "sequential"
    samples: int = 32

    def __post_init__(self) -> None:
        """Check the options."""
        if self.samples < 1:
            raise ValueError("samples must be at least 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Change the biases of `graph`, or leave all of them as they are."""
        report, target = context.report, context.target
        layers = find_layers(graph, report)
        report.matched = len(layers)
        stored = any(layer.weights.quant is not None for layer in layers)
        if not stored and not (layers and any(node.precision == "int8" for node in graph)):
            report.note("no layer is quantized: nothing to correct")
            return
        if "round" in context.results:
            report.note("round has taken the mean errors into the biases: nothing to correct")
            return
        if self.mode == "analytic" and context.samples is None:
            shifts = fast(layers, analytic_means(graph, layers, context))
            report.rewritten = add_to_biases(graph, layers, shifts, target)
            report.note("analytic correction kept: there are no samples to judge it by")
            return
        self._by_samples(graph, layers, context)

    def _by_samples(self, graph: Graph, layers: Sequence[Layer], context: Context) -> None:
        """Keep the best estimate, or none, as samples judge."""
        report, target = context.report, context.target
        samples = context.need_samples(self.name).head(self.samples)
        learn, held_back = samples.split(HOLD_OUT)
        steps = len(learn) * (1 + len(layers) * (self.mode == "sequential")) + len(held_back)
        with context.progress("correcting biases", steps) as advance:
            found = self._estimates(graph, layers, learn, context, advance)
            ends = [layer.output for layer in last_layers(graph, layers)]
            trials = [corrected(graph, layers, each, ends, target) for each in found.values()]
            verdicts = contest((graph, ends), trials, held_back, target, advance)
        judged = dict(zip(found, verdicts, strict=True))
        best = max(judged, key=lambda name: (judged[name].accepted, sum(judged[name].gains)))
        verdict = judged[best]
        if verdict.accepted:
            report.rewritten = add_to_biases(graph, layers, found[best], target)
        done = f"{best} correction {'kept' if verdict.accepted else 'dropped'}"
        report.note(f"{done}: {verdict} on {len(held_back)} samples held back")
        context.results["bias"] = {
            "kept": best if verdict.accepted else None,
            "before": verdict.before,
            "after": {name: each.after for name, each in judged.items()},
        }

    def _estimates(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        learn: Samples,
        context: Context,
        advance: Advance,
    ) -> dict[str, list[Array]]:
        """Shifts of every layer's channels, by the name of the estimate."""
        if self.mode == "analytic":
            return {"analytic": fast(layers, analytic_means(graph, layers, context))}
        means = float_means(graph, layers, learn, advance)
        found = {"fast": fast(layers, means)}
        if self.mode == "sequential":
            shifts = sequential(graph, layers, means, learn, context.target, advance)
            half = len(layers) // 2
            found["halfway"] = [*shifts[:half], *found["fast"][half:]]
            found["sequential"] = shifts
        return found


# -- estimates ------------------------------------------------------------------------------------


def float_means(graph: Graph, layers: Sequence[Layer], samples: Samples, advance: Advance) -> Means:
    """Means of what the layers read and hand on, in float, from one run per sample."""
    wanted = dict.fromkeys(
        (value, layer.axis) for layer in layers for value in (layer.data, handed_on(layer))
    )
    copy, where = clone(graph)
    fetch = [reduce(copy, where[value], "ReduceMean", axis) for value, axis in wanted]
    runner = Runner(copy, fetch)
    rows = []
    for feeds in samples:
        rows.append([np.asarray(mean, np.float64) for mean in runner.run(feeds)])
        advance(1)
    return {key: np.stack(found) for key, *found in zip(wanted, *rows, strict=True)}


def analytic_means(graph: Graph, layers: Sequence[Layer], context: Context) -> Means:
    """Means of what the layers read, as BatchNormalization tells; 0 where it does not."""
    moments = propagate(graph, context.statistics)
    means: Means = {}
    for layer in layers:
        known = moments.get(layer.data)
        given = known.channels(layer.axis, layer.inputs) if known is not None else None
        if given is None:
            context.report.skip("no statistics tell the mean of what it reads", layer.node)
        mean = np.zeros(layer.inputs) if given is None else given.mean
        means[layer.data, layer.axis] = mean[None]
    return means


def handed_on(layer: Layer) -> Value:
    """A layer's result behind its clamp: only there does an error reach the next layer."""
    return layer.clamp.result if layer.clamp else layer.output


def fast(layers: Sequence[Layer], means: Means) -> list[Array]:
    """The shift of each layer's channels that the rounding of its weights causes: (W - Wq) E[x]."""
    shifts = []
    for layer in layers:
        info, weights = layer.weights.quant, layer.weights.numpy()
        error = weights - (weights if info is None else info.kept(weights))
        shifts.append(significant(layer.response(error, means[layer.data, layer.axis])))
    return shifts


def sequential(
    graph: Graph,
    layers: Sequence[Layer],
    means: Means,
    samples: Samples,
    target: Target,
    advance: Advance,
) -> list[Array]:
    """The shift of each layer's channels, each estimated behind the corrected layers before it.

    Behind a clamp the means are to agree, not in front of it, where values matter that are
    clamped anyway; the part of them that passes is the slope by which a shift gets through
    (one step of Newton's method).
    """
    simulated, where = clone(graph)
    write_qdq(simulated, target)
    shifts: list[Array] = []

    def correct(number: int, found: Array, passed: Array) -> Array:
        layer = layers[number]
        error = significant(means[handed_on(layer), layer.axis] - found)
        shifts.append(error / np.maximum(np.nan_to_num(passed).mean(axis=0), FEWEST))
        return settle(layer, shifts[-1], target)[1]

    walk(simulated, list(_stops(layers, where)), samples, correct, advance=advance)
    return shifts


def _stops(layers: Sequence[Layer], where: dict[Value, Value]) -> Iterable[Stop]:
    for layer in layers:
        clamp = layer.clamp
        twin = clamp and replace(clamp, result=where[clamp.result])
        yield Stop(where[layer.output], layer.axis, twin)


def significant(shifts: Array) -> Array:
    """The mean shift per channel, shrunk by how uncertain it is.

    With mean m and standard error s over the samples, m^2 - s^2 is the unbiased estimate of the
    true shift squared, and (m^2 - s^2) / m^2 of m the multiple of m with the least expected error
    (Wiener; the positive part of James & Stein 1961). The samples, not the positions within one,
    count as independent. A sample without finite means is left out.

    Args:
        shifts: [samples, channels].

    Returns:
        [channels], float64.
    """
    finite = shifts[np.isfinite(shifts).all(axis=1)]
    if not len(finite):
        return np.zeros(shifts.shape[1])
    mean = finite.mean(axis=0)
    if len(finite) == 1:
        return np.asarray(mean)
    noise = finite.var(axis=0, ddof=1) / len(finite)
    kept = np.maximum(mean**2 - noise, 0.0)
    return np.asarray(np.divide(kept, mean, out=np.zeros_like(mean), where=mean != 0))


# -- new biases -----------------------------------------------------------------------------------


def corrected(
    graph: Graph,
    layers: Sequence[Layer],
    shifts: Sequence[Array],
    ends: Sequence[Value],
    target: Target,
) -> tuple[Graph, list[Value]]:
    """A copy of `graph` with corrected biases, and its counterparts of `ends`."""
    copy, where = clone(graph)
    add_to_biases(copy, [layer.in_clone(where) for layer in layers], shifts, target)
    return copy, [where[value] for value in ends]


def add_to_biases(
    graph: Graph, layers: Sequence[Layer], shifts: Sequence[Array], target: Target
) -> int:
    """Add shifts to the biases, a fresh constant for every layer; how many changed."""
    changed = 0
    for layer, shift in zip(layers, shifts, strict=True):
        new, moved = settle(layer, shift, target)
        if not moved.any():
            continue
        set_bias(graph, layer, new, target)
        changed += 1
    return changed


def set_bias(graph: Graph, layer: Layer, new: Array, target: Target) -> Array:
    """Give `layer` a bias of its own, one number per channel; returns what is deployed of it."""
    old = layer.bias
    shaped = new.astype(np.float32).reshape(-1 if old is None else old.numpy().shape)
    fresh = graph.constant(shaped, old.name if old else f"{layer.output.name}_bias")
    stored = accumulator(layer, target)
    if old is not None and old.quant is not None:
        rule = target.activations
        assert rule is not None
        fresh.quant = grid(new.min(), new.max(), rule.dtype, symmetric=rule.symmetric)
        stored = fresh.quant
    graph.set_input(layer.adder, layer.slot, fresh)
    return shaped if stored is None else stored.fake(shaped)


def accumulator(layer: Layer, target: Target) -> QuantInfo | None:
    """The grid that a layer's bias is stored on, None where it stays in float."""
    if layer.node.precision != "int8" or layer.adder is not layer.node:
        return None
    return bias_grid(layer.data.quant, layer.weights.quant, target.bias)


def settle(layer: Layer, shift: Array, target: Target) -> tuple[Array, Array]:
    """The float32 bias that moves a deployed layer by `shift`, and by how much it really does.

    Where the target stores the bias as integers, `shift` counts from the rounded bias, so that half
    a step is all that remains. A channel whose bias would no longer leave the accumulator one bit
    of its integers stays as it is.
    """
    bias = layer.bias
    old = np.zeros(layer.channels, np.float32) if bias is None else bias.numpy()
    info = accumulator(layer, target)
    if info is None:
        return (old + shift).astype(np.float32), shift
    low, high = info.range
    rounded = info.fake(old.reshape(-1))
    new = (rounded + shift).astype(np.float32)
    new = np.where((low / 2 <= new) & (new <= high / 2), new, rounded)
    return new, info.fake(new) - rounded
