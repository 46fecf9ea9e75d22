"""Compares the quantized model with the float one: outputs, and layer by layer.

One sample is in memory at a time, and of its large inner tensors only every k-th element.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..ir import Graph, ModelError, Node, Value
from ..ir.clone import clone
from ..ir.evaluate import MOST_DECIBEL, Runner, decibel
from ..ir.reach import out_of_reach
from ..ir.samples import Samples
from ..ir.tensor import Array
from ..passes.measures import squared
from ..passes.units import DATA_INPUTS
from .distribution import Distribution
from .report import Fidelity, LayerFidelity, OutputFidelity

LAYER_SAMPLES = 4
"""Samples that inner tensors are compared on; outputs are compared on all."""
ELEMENTS = 1 << 14
"""Elements of an inner tensor that are compared; larger ones are sampled."""
OUTPUT_BYTES = 64 << 20
"""Outputs of the float model that are kept; no further sample is judged by when this is full."""
ARRANGE = ("TopK", "NonMaxSuppression", "NonZero", "Unique", "ArgMax", "ArgMin")
"""Operators whose result jumps when two scores change places."""
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass
class Noise:
    """Energy of a signal and of the error against it, summed over samples.

    It does not fit when shapes depend on the data (a number of boxes) and differ.
    """

    signal: float = 0.0
    error: float = 0.0
    fits: bool = True

    def add(self, original: Array, found: Array) -> None:
        """Take in one tensor; elements that are not finite in `original` do not count."""
        self.fits &= original.shape == found.shape
        if not self.fits:
            return
        signal, error = squared(original), squared(original - found)
        if not math.isfinite(signal):
            finite = np.isfinite(original)
            kept = original[finite].astype(np.float64)
            signal, error = squared(kept), squared(kept - found[finite])
        self.signal += signal
        self.error += error

    @property
    def db(self) -> float:
        """Signal to quantization noise ratio, dB."""
        return decibel(self.signal, self.error)


@dataclass
class Tally(Noise):
    """The same with equal elements counted, for a tensor of any element type."""

    equal: int = 0
    size: int = 0
    is_float: bool = False

    @property
    def sqnr_db(self) -> float | None:
        """As in `OutputFidelity`."""
        return self.db if self.is_float and self.fits else None

    def add(self, original: Array, found: Array) -> None:
        """Take in one tensor."""
        self.size += original.size
        self.is_float = original.dtype.kind == "f"
        if original.shape == found.shape:
            self.equal += int(np.sum(original == found))
        if self.is_float:
            super().add(original, found)


class Reference:
    """What the float model does with a few samples, to compare the result with."""

    def __init__(self, graph: Graph, judge: Samples, unseen: bool) -> None:
        """Run `judge` through the source model before passes change it.

        `unseen` says that calibration does not use these samples.
        """
        self.unseen = unseen
        hidden = out_of_reach(graph)
        outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
        self._names = [name for name, value in outputs.items() if value not in hidden]
        self._missing = "; ".join(
            f"output '{name}' depends on {hidden[value].label}, which ONNX Runtime does not have"
            for name, value in outputs.items()
            if value in hidden
        )
        arranged = behind(graph, ARRANGE)
        self._arranged = {name for name, value in outputs.items() if value in arranged}
        runner = Runner(graph, self._shown(graph))
        self._outputs: list[list[Array]] = []
        held = 0
        for feeds in judge:
            self._outputs.append(runner.run(feeds))
            held += sum(getattr(output, "nbytes", 0) for output in self._outputs[-1])
            if held > OUTPUT_BYTES:
                break
        self.judge = judge.head(len(self._outputs))
        self._inner: Graph | None = None

    def remember(self, graph: Graph) -> None:
        """Take `graph`, whose ranges were just learned, as what inner tensors should be.

        Passes before that may have rescaled inner tensors without changing the outputs.
        """
        self._inner = clone(graph)[0]

    def compare(self, graph: Graph) -> Fidelity:
        """How near `graph` is to the float model; what fails is told in `missing`."""
        outputs: list[OutputFidelity] = []
        layers: list[LayerFidelity] = []
        missing = [self._missing] if self._missing else []
        try:
            outputs = self._compare_outputs(graph)
            if any(node.op.startswith("QLinear") for node in graph):
                missing.append("layers of integer operators (quant{format=qdq} shows them)")
            elif self._inner is not None:
                layers = list(self._compare_layers(graph, self._inner))
        except ModelError as error:
            missing.append(str(error))
        if not (outputs or missing):
            missing.append("no output is a tensor with elements")
        return Fidelity(len(self._outputs), self.unseen, outputs, layers, "; ".join(missing))

    def short_of(self, least: float, graph: Graph) -> float:
        """How many dB the worst output of `graph` is short of `least`; less than 0 when it is not.

        The signal is what differs from sample to sample: an output that no longer depends on the
        input has 0 dB at best, however large its mean. Outputs whose order or number follows from
        a comparison of scores do not count: one exchange of near equals changes them wholly.
        """
        ratios = [
            decibel(signal, tally.error)
            for name, tally, signal in zip(
                self._names, self._tallies(graph), self._varying, strict=True
            )
            if tally.is_float and tally.fits and signal > 0 and name not in self._arranged
        ]
        return max((least - ratio for ratio in ratios), default=0.0)

    @cached_property
    def _varying(self) -> list[float]:
        """Energy of what differs between samples, per output; of all where there is one sample."""
        return [variation(arrays) for arrays in zip(*self._outputs, strict=True)]

    def _shown(self, graph: Graph) -> list[Value]:
        """The outputs that can be computed."""
        by_name = dict(zip(graph.output_names, graph.outputs, strict=True))
        return [by_name[name] for name in self._names]

    def _compare_outputs(self, graph: Graph) -> list[OutputFidelity]:
        return [
            OutputFidelity(name, tally.sqnr_db, tally.equal / tally.size)
            for name, tally in zip(self._names, self._tallies(graph), strict=True)
            if tally.size
        ]

    def _tallies(self, graph: Graph) -> list[Tally]:
        """The comparison of each output, over all samples."""
        tallies = [Tally() for _ in self._names]
        runner = Runner(graph, self._shown(graph))
        for feeds, expected in zip(self.judge, self._outputs, strict=True):
            for tally, original, found in zip(tallies, expected, runner.run(feeds), strict=True):
                if isinstance(original, np.ndarray):  # and no sequence or map
                    tally.add(original, found)
        return tallies

    def _compare_layers(self, graph: Graph, inner: Graph) -> Iterator[LayerFidelity]:
        pairs = stored_as_integers(inner, graph)
        judge = self.judge.head(LAYER_SAMPLES)
        runner = sampling(inner, list(pairs))
        expected = [runner.run(feeds) for feeds in judge]
        runner = sampling(graph, list(pairs.values()))  # and the memory of the first is free
        noises = {value: Noise() for value in pairs}
        for originals, feeds in zip(expected, judge, strict=True):
            for noise, a, b in zip(noises.values(), originals, runner.run(feeds), strict=True):
                noise.add(a, b)
        noises = {value: noise for value, noise in noises.items() if noise.fits}
        for k, value in enumerate(pairs):
            if value not in noises:
                continue
            before = [noises[v].db for v in _measured_before(value, noises)]
            db, before_db = noises[value].db, min(before, default=MOST_DECIBEL)
            added = 10 ** (-db / 10) - 10 ** (-before_db / 10)
            tensor = value.origin or value.name
            dequantize = pairs[value].producer
            assert dequantize is not None
            values = Distribution.of([arrays[k] for arrays in expected], dequantize)
            label = layer_of(value, noises).label
            yield LayerFidelity(label, tensor, db, before_db, max(added, 0.0), values)


def variation(arrays: Sequence[Array]) -> float:
    """Energy of the deviations from the mean array; of the arrays where they cannot be compared."""
    first = arrays[0]
    if not isinstance(first, np.ndarray) or first.dtype.kind != "f":
        return 0.0
    if len(arrays) < 2 or any(array.shape != first.shape for array in arrays):
        return sum(squared(array) for array in arrays)
    mean = np.mean(arrays, axis=0, dtype=np.float64)
    deviations = sum(squared(array - mean) for array in arrays)
    return deviations * len(arrays) / (len(arrays) - 1)


def behind(graph: Graph, ops: Sequence[str]) -> set[Value]:
    """Values that depend on the result of one of the operators `ops`."""
    found: set[Value] = set()
    for node in graph:
        if node.is_op(*ops) or any(value in found for _, value in node.operands()):
            found.update(node.outputs)
    return found


def sampling(graph: Graph, values: Sequence[Value]) -> Runner:
    """Runs `graph` and fetches some elements of each of `values`, [n] each.

    These are all elements of a small tensor and about ELEMENTS of a large one: every k-th with
    odd k, so that all channels take part.
    """
    copy, where = clone(graph)

    def integers(*numbers: int) -> Value:
        return copy.constant(np.array(numbers, np.int64))

    def some(value: Value) -> Value:
        flat = copy.add("Reshape", [value, integers(-1)]).output
        size = copy.add("Size", [value]).output
        pairs = copy.add("Div", [size, integers(2 * ELEMENTS)]).output
        even = copy.add("Mul", [pairs, integers(2)]).output
        step = copy.add("Add", [even, integers(1)]).output
        everything = integers(0), integers(np.iinfo(np.int64).max), integers(0)
        return copy.add("Slice", [flat, *everything, step]).output

    return Runner(copy, [some(where[value]) for value in values])


def stored_as_integers(inner: Graph, graph: Graph) -> dict[Value, Value]:
    """Tensors of float graph `inner` -> what stands for them in `graph`, after its grid.

    In the order of `inner`; only tensors that an operator computes.
    """
    dequantized: dict[str | None, Value] = {}
    for node in graph:
        if node.is_op("DequantizeLinear") and node.inputs[0] and node.inputs[0].const is None:
            dequantized.setdefault(node.output.origin, node.output)
    return {
        value: dequantized[value.origin]
        for node in inner
        for value in node.outputs
        if value.origin is not None and value.origin in dequantized
    }


def layer_of(value: Value, measured: Container[Value] = ()) -> Node:
    """The Conv, Gemm or MatMul that a tensor comes from, else its producer.

    The way back goes through operators with one activation, up to other `measured` tensors.
    """
    assert value.producer is not None
    node = value.producer
    while node.op not in LAYERS and node.op not in DATA_INPUTS:
        source = node.input(0)
        if source is None or source.producer is None or source in measured:
            return value.producer
        node = source.producer
    return node if node.op in LAYERS else value.producer


def _measured_before(value: Value, measured: Mapping[Value, Noise]) -> list[Value]:
    """The nearest tensors that `value` depends on and that are measured."""
    found: list[Value] = []
    seen: set[Value] = {value}
    stack = [value]
    while stack:
        producer = stack.pop().producer
        for _, operand in producer.operands() if producer else ():
            if operand not in seen:
                seen.add(operand)
                (found if operand in measured else stack).append(operand)
    return found
