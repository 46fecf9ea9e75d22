"""One trial of `tune`: a graph planned with given parameters, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..ir import DType, Graph, QuantInfo, grid
from ..ir.calibration import histograms
from ..ir.clone import clone
from ..ir.evaluate import MOST_DECIBEL, Runner, decibel
from ..ir.execution import Item, Result, Work, start
from ..ir.grid_rule import GridRule
from ..ir.histogram import Row
from ..ir.ranges import Calibration, key
from ..ir.reach import out_of_reach
from ..ir.samples import Samples
from .base import Context, Loss, Report, no_progress
from .bias import Bias
from .grids import weight_grid
from .judge import comparable
from .measures import MEASURES, Tally
from .plan import Plan
from .pnorm import least_power
from .quant import write_qdq
from .saturate import Saturate
from .search import Params, Real, Space
from .sensitivity import loss_of
from .single_errors import single_errors
from .units import integer_layers
from .zero_filter import ZeroFilter

RANGE, WEIGHTS, BITS = "range ", "weights ", "bits "
"""Begin the names of parameters that are about one tensor; its key follows."""
GRANULARITY, BIAS = "granularity", "bias"
MORE_BITS = DType.INT8
"""What layers are raised to that the bits of the target do not suffice for."""


def realized(graph: Graph, context: Context, params: Params, bits: float = 0.0) -> Graph:
    """A copy of `graph` on which `realize` was run."""
    copy, _ = clone(graph)
    realize(copy, context, params, bits)
    return copy


def realize(graph: Graph, context: Context, params: Params, bits: float = 0.0) -> None:
    """Plan `graph` with parameters, in place; what they do not name is as the context says.

    Args:
        graph: in float.
        context: its calibration stays as it is.
        params: by the names above.
        bits: mean number per weight that the layers raised to `MORE_BITS` must leave.
    """
    target, known = context.target, context.calibration
    if bits:
        target = replace(target, layers=())
    if params.get(GRANULARITY) == "tensor":
        target = target.per_tensor()
    calibration = known and scaled(known, params)
    inner = replace(context, target=target, calibration=calibration, report=Report(""))
    Plan().run(graph, inner)
    rule = target.weights
    layers = {weights: node for node, weights, _ in integer_layers(graph)}
    raised = chosen_layers({key(w): w.numpy().size for w in layers}, params, rule, bits)
    for weights, node in layers.items():
        if rule is not None and key(weights) in raised:
            weights.quant = weight_grid(weights.numpy(), node, rule.widened(MORE_BITS))
        assert weights.quant is not None
        factor = params.get(WEIGHTS + key(weights), 1.0)
        if factor != 1.0:
            weights.quant = weights.quant.with_scale(weights.quant.scale * np.float32(factor))
    ZeroFilter().run(graph, inner)
    Saturate().run(graph, inner)
    mode = params.get(BIAS, "none")
    if mode != "none":
        Bias(mode=mode).run(graph, inner)


def scaled(known: Calibration, params: Params) -> Calibration:
    """Ranges times the factors that `params` has for them."""
    ranges = dict(known.ranges)
    for name, factor in params.items():
        if name.startswith(RANGE):
            old = ranges[name[len(RANGE) :]]
            low, high = np.asarray(old.low * factor), np.asarray(old.high * factor)
            ranges[name[len(RANGE) :]] = replace(old, low=low, high=high)
    return replace(known, ranges=ranges)


def chosen_layers(
    sizes: dict[str, int], params: Params, rule: GridRule | None, bits: float
) -> set[str]:
    """The layers that get `MORE_BITS`: those of the highest numbers, as far as `bits` allow.

    Numbers as an order (random keys) make every trial one that keeps within the mean.

    Args:
        sizes: weights per layer.
        params: a number per layer under `BITS`.
        rule: how the others are stored.
        bits: mean number per weight.
    """
    if rule is None or not bits:
        return set()
    extra = MORE_BITS.bits - rule.dtype.bits
    left = (bits - rule.dtype.bits) * sum(sizes.values())
    found = set()
    for name in sorted(sizes, key=lambda name: -params.get(BITS + name, 0.0)):
        if extra * sizes[name] <= left:
            left -= extra * sizes[name]
            found.add(name)
    return found


# -- what it is worth ------------------------------------------------------------------------------


def scorer(graph: Graph, samples: Samples, context: Context) -> Callable[[Graph], float]:
    """Values planned graphs: by the caller's metric, else by the outputs' error; higher is better.

    The error is the mean over the outputs of the signal to noise ratio in dB; the float model is
    run once for all trials.
    """
    metric = context.metric

    def deployed(trial: Graph) -> Graph:
        copy, _ = clone(trial)
        write_qdq(copy, context.target)
        return copy

    if metric is not None:
        sign = -1.0 if metric.lower_is_better else 1.0
        return lambda trial: sign * metric.score(deployed(trial))
    hidden = out_of_reach(graph)
    shown = [k for k, value in enumerate(graph.outputs) if value not in hidden]
    runner = Runner(graph, [graph.outputs[k] for k in shown])
    real = [runner.run(feeds) for feeds in samples]
    floats = [n for n in range(len(shown)) if all(comparable(r[n], r[n]) for r in real)]

    def decibels(trial: Graph) -> float:
        copy = deployed(trial)
        runner = Runner(copy, [copy.outputs[shown[n]] for n in floats])
        tally = Tally(MEASURES["sqnr"], len(floats))
        for exact, feeds in zip(real, samples, strict=True):
            wanted, found = [exact[n] for n in floats], runner.run(feeds)
            if not all(map(comparable, wanted, found)):
                return -MOST_DECIBEL
            tally.add(wanted, found)
        return float(np.mean([decibel(1.0, float(loss)) for loss in tally.losses] or [0.0]))

    return decibels


@dataclass(frozen=True)
class Tries:
    """The job of trying parameters: an item is what `realize` takes, the result what it is worth.

    Attributes:
        graph: in float.
        samples: to judge by.
        context: for `realize`.
        bits: the same.
    """

    graph: Graph
    samples: Samples
    context: Context
    bits: float

    def open(self) -> Work:
        """Run the float model."""
        score = scorer(self.graph, self.samples, self.context)

        def work(item: Item) -> Result:
            return [np.array(score(realized(self.graph, self.context, item, self.bits)))]

        return work


class Objective:
    """What parameters are worth, each tried once; higher is better."""

    def __init__(self, tries: Tries) -> None:
        """Nothing tried yet."""
        plain = replace(tries.context, progress=no_progress, report=Report(""), results={})
        self._each = start(replace(tries, context=plain))
        self._found: dict[str, float] = {}

    def __call__(self, params: Params) -> float:
        """Try parameters."""
        self.prepare([params])
        return self._found[_text(params)]

    def prepare(self, many: Sequence[Params]) -> None:
        """Try parameters that may be asked for, at the same time."""
        fresh = [params for params in many if _text(params) not in self._found]
        for params, (value,) in zip(fresh, self._each(fresh), strict=True):
            self._found[_text(params)] = float(value)


def _text(params: Params) -> str:
    return json.dumps(params, sort_keys=True)


def single_losses(planned: Graph, samples: Samples, context: Context) -> Mapping[str, Loss]:
    """What each tensor alone does to the outputs, by `key`; measured where no pass did before."""
    if context.losses is not None:
        return context.losses
    found = single_errors(planned, context.target, samples, "sqnr")
    return {key(source.value): loss_of(source) for source in found.sources}


# -- where LAPQ starts -----------------------------------------------------------------------------


def least_norms(
    graph: Graph, planned: Graph, space: Space, samples: Samples, context: Context
) -> Callable[[float], Params]:
    """Gives the factors of ranges and weights whose rounding error has the least p-th power."""
    known, rule = context.calibration, context.target.activations
    named = {key(value): value for value in planned.values() if value.quant is not None}
    inside = [value for value in graph.values() if RANGE + key(value) in space]
    rows = histograms(graph, samples, inside) if inside else {}

    def factor(name: str, part: Real, power: float) -> float:
        bounds = part.low, part.high
        if name.startswith(WEIGHTS):
            weights = named[name[len(WEIGHTS) :]]
            info = weights.quant
            assert info is not None

            def clipped(f: float) -> QuantInfo:
                return info.with_scale(info.scale * np.float32(f))

            return least_power(weights.numpy(), None, clipped, bounds, power)[0]
        row: Row = rows[name[len(RANGE) :]]
        assert known is not None and rule is not None
        low, high = (float(end) for end in _ends(known, name))

        def covering(f: float) -> QuantInfo:
            return grid(low * f, high * f, rule.dtype, symmetric=rule.symmetric)

        return least_power(row.centers, row.counts, covering, bounds, power)[0]

    def start_of(power: float) -> Params:
        tuned = (RANGE, WEIGHTS)
        parts = {name: part for name, part in space.items() if name.startswith(tuned)}
        return {n: factor(n, part, power) for n, part in parts.items() if isinstance(part, Real)}

    return start_of


def _ends(known: Calibration, name: str) -> tuple[float, float]:
    found = known.ranges[name[len(RANGE) :]]
    return float(found.low), float(found.high)
