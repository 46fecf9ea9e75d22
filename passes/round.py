"""Chooses the integers of weights by what layers hand on, not by what is nearest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from ..ir import Graph, Node, Value
from ..ir.clone import clone
from ..ir.execution import keeper
from ..ir.samples import Samples
from ..ir.target import Target
from ..ir.tensor import Array
from . import patches
from .base import Context, Pass, Report, single_reader
from .bias import Bias, set_bias
from .judge import contest
from .layers import Clamp, Layer, clamp_behind, find_layers, last_layers
from .mixes import with_mixes
from .quant import write_qdq
from .reconstruct import FEW_BITS, Data, Rounded, damping_for, reconstruct, settled
from .rounding import Steps
from .saturate import filters, multiplies_pairs, overflows
from .units import weight_axis
from .walk import Walker, fold_weights

HOLD_OUT = 4
"""Every fourth sample judges, the others teach."""
ELEMENTS = 1 << 25
"""Of one layer's inputs that are held in memory."""


@dataclass(frozen=True)
class Round(Pass):
    """Round weights so that every layer hands on what it does in float, errors before it included.

    Layer after layer in the order they run. What a layer reads comes from the quantized layers
    before it, already rounded; what it is to hand on, behind the Add of a shortcut and behind its
    Relu or Clip, from the float model. Integers start from GPTQ and change one or two at a time
    while the squared error falls; the bias takes the mean error; for 4 bits and fewer every row's
    scale is chosen likewise. Samples and mixes of two of them teach. A layer that does not gain on
    samples held back gets the nearest integers, and the outputs of the whole model decide whether
    the result stays: where corrected biases alone do as well, biases are corrected.

    Attributes:
        samples: use at most so many; a quarter of them judges.
        places: positions of a layer's output to learn from, over all samples.
        by_order: let GPTQ begin with the columns of the largest inputs (Gemm and MatMul).

    References: Nagel et al. 2020, Up or Down (2004.10568); Frantar et al. 2022, GPTQ (2210.17323).
    """

    name: ClassVar[str] = "round"
    requires: ClassVar[tuple[str, ...]] = ("plan", "filters", "accumulators")

    samples: int = 300
    places: int = 32768
    by_order: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        if self.samples < 1 or self.places < 1:
            raise ValueError("samples and places must be at least 1")

    def run(self, graph: Graph, context: Context) -> None:
        """Set integers, scales and biases of `graph`, or leave all as they are."""
        report, target = context.report, context.target
        every = find_layers(graph, Report(""))
        layers = [layer for layer in every if _takes(layer, report)]
        report.matched = len(layers)
        if not layers:
            report.note("no layer has weights to round")
            return
        samples = context.need_samples(self.name).head(self.samples)
        copy, where = clone(graph)
        twins = [layer.in_clone(where) for layer in layers]
        with context.progress("rounding", len(layers)) as advance:
            kept = self._layers(graph, layers, copy, twins, samples, context, advance)
        unrounded, place = clone(graph)
        Bias().run(unrounded, dataclasses.replace(context, report=Report(""), results={}))
        ends = [layer.output for layer in last_layers(graph, every)]
        trials = [(g, [to[end] for end in ends]) for g, to in ((copy, where), (unrounded, place))]
        held_back = samples.split(HOLD_OUT)[1]
        verdict, other = contest((graph, ends), trials, held_back, target)
        wins = verdict.accepted and sum(verdict.gains) >= sum(other.gains)
        done = f"{kept} of {len(layers)} layers, {'kept' if wins else 'dropped'}"
        report.note(f"{done}: {verdict} on {len(held_back)} samples held back")
        if wins:
            report.rewritten = kept
            for layer, twin in zip(layers, twins, strict=True):
                layer.weights.quant = twin.weights.quant
                assert twin.bias is not None
                set_bias(graph, layer, twin.bias.numpy(), target)
        else:
            report.note(f"the nearest integers with corrected biases are as good: {other}")
            Bias().run(graph, context)
        context.results["round"] = {"kept": wins, "before": verdict.before, "after": verdict.after}

    def _layers(
        self,
        graph: Graph,
        layers: list[Layer],
        copy: Graph,
        twins: list[Layer],
        samples: Samples,
        context: Context,
        advance: Callable[[int], None],
    ) -> int:
        """Round the layers of `copy`, called `twins`; how many differ from the nearest."""
        simulated, deployed, reads = _deployed(copy, layers, twins, context.target)
        adds = [shortcut(layer, layers[k:]) for k, layer in enumerate(layers)]
        ends = [(add or layer.adder).output for add, layer in zip(adds, layers, strict=True)]
        rng, kept, stop = np.random.default_rng(context.seed), 0, 0
        keep = keeper((self, graph, samples, context.target, context.seed))
        judging = np.arange(len(samples)) % HOLD_OUT == HOLD_OUT - 1
        feeds = partial(with_mixes, samples, np.flatnonzero(~judging).tolist(), context.seed)
        with (
            Walker(graph, ends, feeds()) as plain,
            Walker(simulated, [value for group in reads for value in group], feeds()) as walker,
        ):
            judging = np.pad(judging, (0, walker.count - len(samples)))
            for k, (twin, inner) in enumerate(zip(twins, deployed, strict=True)):
                visits = [walker.visit(stop + n) for n in range(len(reads[k]))]
                stop += len(visits)
                runs = zip(plain.visit(k), *visits, strict=True)
                data, held = self._collect(twin, clamp_behind(ends[k]), runs, judging, rng)
                solve = partial(self._solve, twin, data, held, walker.count, context.target)
                *parts, changed = keep(k, solve)
                found = Rounded(*parts)
                kept += bool(changed)
                if not changed:
                    context.report.skip("the nearest integers do as well", layers[k].node)
                store(copy, twin, found, simulated, inner, context.target)
                advance(1)
        return kept

    def _collect(
        self,
        layer: Layer,
        clamp: Clamp | None,
        runs: Iterable[tuple[list[Array], ...]],
        judging: Array,
        rng: np.random.Generator,
    ) -> tuple[Data, Array]:
        """Samples of a layer at places picked at random, and which of them are held back.

        `judging` tells it of the samples, bool [samples].
        """
        width = layer.weights.numpy().size // layer.channels
        size = width * int(layer.node.attrs.get("group", 1))
        most = max(1, min(self.places, ELEMENTS // size) // len(judging))
        inputs, beside, targets, held = [], [], [], []
        for judges, ((wanted,), *others, (data,)) in zip(judging, runs, strict=True):
            places = patches.places(layer.node, wanted)
            picked = rng.choice(places, min(places, most), replace=False)
            inputs.append(patches.inputs(layer.node, data, wanted.shape, picked))
            targets.append(patches.outputs(layer.node, wanted, picked))
            shown = others[0][0] if others else np.broadcast_to(np.float32(0), wanted.shape)
            beside.append(patches.outputs(layer.node, shown, picked))
            held.append(np.full(len(picked), judges))
        low, high = (clamp.low, clamp.high) if clamp else (-np.inf, np.inf)
        rows = np.ascontiguousarray(np.concatenate(inputs).swapaxes(0, 1))
        wish = np.clip(np.concatenate(targets), low, high)
        return Data(rows, np.concatenate(beside), wish, low, high), np.concatenate(held)

    def _solve(
        self, layer: Layer, data: Data, held: Array, samples: int, target: Target
    ) -> list[Array]:
        """The parts of a layer's `Rounded`, and whether they are others than the nearest."""
        info, old = layer.weights.quant, layer.bias
        assert info is not None
        mixed = bool(held.any() and not held.all())
        learn, judge = (data.part(held == flag) if mixed else data for flag in (False, True))
        weights, steps = patches.as_rows(layer.node, layer.weights.numpy()), grid_of(layer)
        bias = np.zeros(layer.channels, np.float32) if old is None else old.numpy().reshape(-1)
        integers = patches.as_rows(layer.node, info.stored(layer.weights.numpy()))
        ones = np.ones((*weights.shape[:2], 1), np.float32)
        usual = settled(learn, steps, integers.astype(np.float32), ones, bias)
        found = reconstruct(
            learn,
            weights,
            bias,
            steps,
            usual,
            damping=damping_for(weights.shape[-1], samples),
            one_scale=info.axis is None,
            by_order=self.by_order and layer.node.op != "Conv",
        )
        pairs = target.saturating_pairs and layer.data.quant is not None
        if pairs and multiplies_pairs(layer.node, info):
            found = without_overflow(layer, found, usual)
        before, after = (
            judge.error(judge.outputs(one.reals(steps)) + one.bias).sum() for one in (usual, found)
        )
        best = found if after < before else usual
        return [best.integers, best.factors, best.bias, best.error, np.array(after < before)]


def _takes(layer: Layer, report: Report) -> bool:
    """True for a layer that can be rounded; where it only might be, the report has the reason."""
    reason = ""
    if layer.weights.quant is None or layer.weights.quant.dtype.is_float:
        return False
    if layer.node.op == "ConvTranspose":
        reason = "the nearest integers serve ConvTranspose"
    elif len(layer.weights.uses) > 1:
        reason = "its weights are shared"
    elif layer.node.attrs.get("auto_pad", "NOTSET") not in (b"NOTSET", "NOTSET"):
        reason = "its padding is not explicit"
    if reason:
        report.skip(reason, layer.node)
    return not reason


def _deployed(
    graph: Graph, layers: list[Layer], twins: list[Layer], target: Target
) -> tuple[Graph, list[Layer], list[list[Value]]]:
    """A copy of `graph` with its grids written out, in it `twins`, and what each is found from.

    That is what it reads, and before it what is added to its result where `layers`, its
    counterparts in the float model, have a shortcut.
    """
    simulated, where = clone(graph)
    deployed = [twin.in_clone(where) for twin in twins]
    adds = [
        shortcut(inner, deployed[k:]) if shortcut(layers[k], layers[k:]) else None
        for k, inner in enumerate(deployed)
    ]
    write_qdq(simulated, target)
    fold_weights(simulated)
    reads = [
        [inner.data] if add is None else [_beside(add, inner), inner.data]
        for add, inner in zip(adds, deployed, strict=True)
    ]
    return simulated, deployed, reads


def shortcut(layer: Layer, later: Iterable[Layer]) -> Node | None:
    """The Add of `layer` with what is known before it; None when there is none.

    `later` are the layers that are not rounded yet, itself included.
    """
    add = single_reader(layer.output)
    if add is None or not add.is_op("Add") or layer.output.shape is None:
        return None
    other = add.inputs[1] if add.inputs[0] is layer.output else add.inputs[0]
    if other is None or other.is_constant or other.shape != layer.output.shape:
        return None
    return None if _depends(other, {one.node for one in later}) else add


def _depends(value: Value, nodes: Collection[Node]) -> bool:
    """True when one of `nodes` is needed for `value`."""
    seen: set[Node] = set()
    stack = [value.producer]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if node in nodes:
            return True
        seen.add(node)
        stack.extend(operand.producer for _, operand in node.operands())
    return False


def _beside(add: Node, layer: Layer) -> Value:
    """The operand of `add` that is not made by `layer`, in a graph with its grids written out."""
    for value in add.inputs:
        source = value
        while source is not None and source is not layer.output and source.producer is not None:
            if not source.producer.is_op("QuantizeLinear", "DequantizeLinear"):
                break
            source = source.producer.inputs[0]
        if source is not layer.output and value is not None:
            return value
    raise AssertionError(f"{add.label} adds {layer.output.name} to itself")


def grid_of(layer: Layer) -> Steps:
    """The grid of a layer's weights in rows; few bits use the lowest integer, too."""
    info, weights = layer.weights.quant, layer.weights.numpy()
    assert info is not None
    low, high = info.dtype.integer_range if info.dtype.bits <= FEW_BITS else info.limits
    scale, zero = (
        patches.as_rows(
            layer.node,
            np.broadcast_to(info.spread(each.astype(np.float32), weights.shape), weights.shape),
        )
        for each in (info.scale, info.zero_point)
    )
    columns = slice(None) if info.block else slice(1)
    return Steps(scale[..., columns], zero[..., columns], low, high)


def without_overflow(layer: Layer, found: Rounded, usual: Rounded) -> Rounded:
    """The usual rows where those found overflow sums of pairs: `saturate` made the usual safe."""
    weights = patches.as_weights(layer.node, found.integers, layer.weights.numpy().shape)
    unsafe = overflows(filters(weights, layer.node))
    return found.replaced(unsafe, usual)


def store(
    graph: Graph, layer: Layer, found: Rounded, simulated: Graph, inner: Layer, target: Target
) -> None:
    """Annotate `layer` of `graph`, and give its counterpart `inner` what is deployed of it."""
    info, weights = layer.weights.quant, layer.weights.numpy()
    assert info is not None
    factors = found.factors.reshape(-1)
    if info.axis is None:
        factors = factors[0]
    elif info.block:
        shape = [1] * weights.ndim
        shape[weight_axis(layer.node)] = -1
        factors = factors.reshape(shape)
    integers = patches.as_weights(layer.node, found.integers, weights.shape).astype(np.int32)
    fits = bool(integers.min() >= info.limits[0])
    layer.weights.quant = dataclasses.replace(
        info.with_scale(info.scale * factors), integers=integers, narrow=info.narrow and fits
    )
    bias = set_bias(graph, layer, found.bias, target)
    kept = simulated.constant(layer.weights.quant.kept(weights))
    simulated.set_input(inner.node, 1, kept)
    simulated.set_input(inner.adder, inner.slot, simulated.constant(bias))
