"""Two models side by side: what is in only one of them, and where their tensors part.

A tensor of one model stands for the tensor of the same name in the other; where either is stored as
integers, for what is read back from them. Passes that rescale channels (`align`, `smooth`) keep
names, so where it fits much better tensors are compared up to a factor per channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir import DType, Graph, Node, Tensor, Value
from ..ir.evaluate import Runner, decibel
from ..ir.samples import Samples
from ..ir.shapes import infer
from ..ir.tensor import Array
from ..passes.measures import squared
from .fidelity import Tally

FLOATS = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.DOUBLE)
TOGETHER = 32
"""Tensors that are fetched in one run: not all of a model are in memory at once."""
RESCALED_DB = 10.0
"""What a factor per channel must gain to be taken for a rescaling: nine tenths of the noise."""
ENOUGH = 64
"""Elements of a channel over which a factor of its own explains nothing by chance."""


@dataclass(frozen=True)
class TensorDifference:
    """An inner tensor of both models.

    Attributes:
        tensor: its name.
        node: the operator of the first model that makes it.
        sqnr_db: energy of the first model's over that of the difference in dB, over all samples;
            up to a factor per channel where `rescaled`.
        rescaled: True when the second model has it times a factor per channel.
    """

    tensor: str
    node: str
    sqnr_db: float
    rescaled: bool


@dataclass(frozen=True)
class OutputDifference:
    """An output of both models.

    Attributes:
        output: its name.
        sqnr_db: as of tensors; None where it is not floating point, or shapes differ.
        equal: share of the elements that are equal.
    """

    output: str
    sqnr_db: float | None
    equal: float


@dataclass
class Comparison:
    """What is different, and by how much.

    Attributes:
        interface: inputs and outputs that differ, for people.
        operators: operator type -> how many in the first and the second model, where that differs.
        removed, added: nodes of only one of the models, by their labels.
        changed: nodes of both, by name, whose operator type or attributes differ.
        constants: of both, by name -> largest difference; None when types or shapes differ.
        outputs: of both models.
        tensors: of both models, in the order of the first.
        unmatched: how many inner float tensors of the first the second does not have.
        missing: why numbers were not compared, "" when they were.
    """

    interface: list[str]
    operators: dict[str, tuple[int, int]]
    removed: list[str]
    added: list[str]
    changed: list[str]
    constants: dict[str, float | None]
    outputs: list[OutputDifference] = field(default_factory=list)
    tensors: list[TensorDifference] = field(default_factory=list)
    unmatched: int = 0
    missing: str = ""

    @property
    def same_graph(self) -> bool:
        """True when the graphs do not differ, whatever their numbers do."""
        lists = (self.interface, self.removed, self.added, self.changed)
        return not any((*lists, self.operators, self.constants))

    def first_below(self, db: float) -> TensorDifference | None:
        """The first tensor that is further off than this: where the models part."""
        return next((found for found in self.tensors if found.sqnr_db < db), None)


def compare(first: Graph, second: Graph, samples: Samples) -> Comparison:
    """Compare `second` with `first` on `samples`, which are of the inputs that both must have."""
    for graph in (first, second):
        infer(graph)
    found = structure(first, second)
    lone = sorted({v.name for v in first.inputs} ^ {v.name for v in second.inputs})
    if lone:
        found.missing = f"only one of the models has the input '{lone[0]}'"
        return found
    found.outputs = _outputs(first, second, samples)
    pairs = _pairs(first, second)
    found.unmatched = sum(1 for _ in _inner(first)) - len(pairs)
    found.tensors = list(_tensors(first, second, pairs, samples))
    return found


# -- structure ------------------------------------------------------------------------------------


def structure(first: Graph, second: Graph) -> Comparison:
    """Compare the graphs and run nothing."""
    here, there = _by_name(first), _by_name(second)
    both = [name for name in here if name in there]
    counts = [Counter(node.op for node in graph) for graph in (first, second)]
    types = [op for op in sorted(counts[0] | counts[1]) if counts[0][op] != counts[1][op]]
    return Comparison(
        interface=[*_interface("input", _inputs(first), _inputs(second)),
                   *_interface("output", _results(first), _results(second))],
        operators={op: (counts[0][op], counts[1][op]) for op in types},
        removed=[node.label for name, node in here.items() if name not in there],
        added=[node.label for name, node in there.items() if name not in here],
        changed=[name for name in both if _changed(here[name], there[name])],
        constants=_constants(first, second),
    )  # fmt: skip


def _by_name(graph: Graph) -> dict[str, Node]:
    """Nodes by name; those without one by their first result's."""
    return {node.name or node.output.name: node for node in graph}


def _inputs(graph: Graph) -> dict[str, Value]:
    return {value.name: value for value in graph.inputs}


def _results(graph: Graph) -> dict[str, Value]:
    return dict(zip(graph.output_names, graph.outputs, strict=True))


def _interface(kind: str, here: Mapping[str, Value], there: Mapping[str, Value]) -> Iterator[str]:
    for name in dict.fromkeys((*here, *there)):
        if name not in here or name not in there:
            yield f"{kind} '{name}' only in the {'first' if name in here else 'second'} model"
            continue
        a, b = here[name], there[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            yield f"{kind} '{name}': {_type(a)} and {_type(b)}"


def _type(value: Value) -> str:
    return repr(value).partition(": ")[2].rstrip(")")


def _changed(a: Node, b: Node) -> bool:
    kind = (a.op, a.domain) != (b.op, b.domain)
    return kind or _plain(a.attrs) != _plain(b.attrs)


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that can be compared; bodies are not among them."""
    return {
        name: (given.dtype, given.shape, given.numpy().tobytes())
        if isinstance(given, Tensor)
        else given
        for name, given in attrs.items()
        if not isinstance(given, Graph)
    }


def _constants(first: Graph, second: Graph) -> dict[str, float | None]:
    """Constants of both, by name, that differ."""
    there = {value.name: value for value in second.values() if value.const is not None}
    found: dict[str, float | None] = {}
    for value in first.values():
        other = there.get(value.name)
        if value.const is None or other is None:
            continue
        a, b = value.numpy(), other.numpy()
        if (value.dtype, a.shape) != (other.dtype, b.shape):
            found[value.name] = None
        elif a.tobytes() != b.tobytes():
            both = (a.astype(np.float64), b.astype(np.float64))
            found[value.name] = float(np.abs(both[0] - both[1]).max())
    return found


# -- numbers --------------------------------------------------------------------------------------


def _outputs(first: Graph, second: Graph, samples: Samples) -> list[OutputDifference]:
    here, there = _results(first), _results(second)
    names = [name for name in here if name in there]
    runners = [Runner(g, [r[name] for name in names]) for g, r in ((first, here), (second, there))]
    tallies = [Tally() for _ in names]
    for feeds in samples:
        for tally, a, b in zip(tallies, *(runner.run(feeds) for runner in runners), strict=True):
            if isinstance(a, np.ndarray):  # and no sequence or map
                tally.add(a, b)
    return [
        OutputDifference(name, tally.sqnr_db, tally.equal / max(tally.size, 1))
        for name, tally in zip(names, tallies, strict=True)
    ]


def _inner(graph: Graph) -> Iterator[Value]:
    """Float tensors that operators compute, but for those read back from integers."""
    for node in graph:
        if not node.is_op("DequantizeLinear"):
            yield from (v for v in node.outputs if v.name and v.dtype in FLOATS)


def _pairs(first: Graph, second: Graph) -> list[tuple[Value, Value]]:
    there = {value.name: value for value in _inner(second)}
    return [(_read_back(v), _read_back(there[v.name])) for v in _inner(first) if v.name in there]


def _read_back(value: Value) -> Value:
    """What is read of `value` where all that reads it are integers; else itself."""
    for quantize in value.consumers:
        if quantize.is_op("QuantizeLinear"):
            for reader in quantize.output.consumers:
                if reader.is_op("DequantizeLinear"):
                    return reader.output
    return value


def _tensors(
    first: Graph, second: Graph, pairs: Sequence[tuple[Value, Value]], samples: Samples
) -> Iterator[TensorDifference]:
    for at in range(0, len(pairs), TOGETHER):
        part = pairs[at : at + TOGETHER]
        runners = [Runner(g, [pair[k] for pair in part]) for k, g in ((0, first), (1, second))]
        sums = [Products() for _ in part]
        for feeds in samples:
            for each, a, b in zip(sums, *(runner.run(feeds) for runner in runners), strict=True):
                each.add(a, b)
        for (value, _), each in zip(part, sums, strict=True):
            if each.fits:
                assert value.producer is not None
                yield TensorDifference(value.name, value.producer.label, *each.verdict())


@dataclass
class Products:
    """Per channel (axis 1) sums of a*a, a*b and b*b over the samples of two tensors."""

    sums: Array | None = None
    noise: float = 0.0
    elements: int = 0
    fits: bool = True

    def add(self, a: Array, b: Array) -> None:
        """Take in one sample; tensors whose shapes differ in any do not fit."""
        self.fits &= a.shape == b.shape
        if not self.fits:
            return
        self.noise += squared(a - b)
        self.elements += a.size
        rows = [x.astype(np.float64) for x in (a, b)]
        rows = [
            np.moveaxis(x, 1, 0).reshape(x.shape[1], -1) if x.ndim > 1 else x[None] for x in rows
        ]
        found = np.stack([(p * q).sum(-1) for p, q in ((rows[0],) * 2, rows, (rows[1],) * 2)])
        self.sums = found if self.sums is None else self.sums + found

    def verdict(self) -> tuple[float, bool]:
        """Signal to noise ratio in dB, and whether that is up to a factor per channel."""
        assert self.sums is not None
        aa, ab, bb = self.sums
        plain = decibel(float(aa.sum()), self.noise)
        # the factor f with the least (a - f b)^2 is ab / bb, and leaves aa - ab^2 / bb
        taken = np.divide(ab**2, bb, out=np.zeros_like(ab), where=bb > 0)
        scaled = decibel(float(aa.sum()), float(np.maximum(aa - taken, 0).sum()))
        enough = self.elements >= ENOUGH * aa.size
        return (scaled, True) if enough and scaled > plain + RESCALED_DB else (plain, False)
