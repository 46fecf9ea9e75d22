"""What a run did, as data: what the end table shows and `--json` writes."""

from __future__ import annotations

import dataclasses
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from ..ir import Graph, Node, Tensor
from ..passes import Report as PassReport
from .bisect import Culprit
from .distribution import Distribution
from .graph_view import GraphView
from .timing import Timing

CLOSE_DB = 20.0
"""Signal to noise ratio of an output that is near enough to go without a warning."""
WIDTH = 100
"""Columns of a report that is printed where there is no terminal."""


@dataclass(frozen=True)
class Decision:
    """What became of one operator.

    Attributes:
        node: its name.
        op: its type.
        precision: "float", or the integers it computes in.
        reason: why it was left in float.
        weights: how its weights are stored: an integer type, "float", or "" where it has none.
        why: `must` stay in float, in integers `hurts`, going there `converts` too much; "" where
            it is not in float.
        saves: microseconds that it alone would be faster in integers.
        converts: microseconds of conversions that this would add.
        loss: what it would add to the loss, in the unit of `sensitivity`.
        source: where the times come from: `measured` for this very operator, `scaled` from one of
            its class, or `estimated` from the target's rough costs.
    """

    node: str
    op: str
    precision: str
    reason: str = ""
    weights: str = ""
    why: str = ""
    saves: float = 0.0
    converts: float = 0.0
    loss: float = 0.0
    source: str = ""

    @property
    def quantized(self) -> bool:
        """True when it computes in integers, or in float with weights stored as integers."""
        return self.precision != "float" or self.weights not in ("", "float")


@dataclass(frozen=True)
class OutputFidelity:
    """How near an output of the quantized model is to that of the source model.

    Attributes:
        name: the output.
        sqnr_db: signal to quantization noise ratio over all samples in dB, within +-120 (120:
            equal to the last bit); None for outputs that are not floating point or differ
            in shape.
        equal: share of the elements that are equal.
    """

    name: str
    sqnr_db: float | None
    equal: float

    @property
    def is_close(self) -> bool:
        """False where a tenth of it is error: less than 20 dB, or a tenth of the elements."""
        return self.equal >= 0.9 if self.sqnr_db is None else self.sqnr_db >= CLOSE_DB


@dataclass(frozen=True)
class LayerFidelity:
    """How near an inner tensor is to its float original.

    Attributes:
        node: the operator that makes it, with what the engine fuses into it.
        tensor: its name in the source model.
        sqnr_db: as in `OutputFidelity`; errors of all layers before it count.
        before_db: the worst of the tensors it is computed from; 120 when they are exact.
        noise: noise this layer adds, relative to its signal: the difference of the two.
        values: how the tensor lies against its grid; None where that has several scales.
    """

    node: str
    tensor: str
    sqnr_db: float
    before_db: float
    noise: float
    values: Distribution | None = None

    @property
    def clipped(self) -> float:
        """Share of the float tensor's elements that its grid does not reach."""
        return self.values.clipped if self.values else 0.0


@dataclass(frozen=True)
class Fidelity:
    """The comparison with the source model.

    Attributes:
        samples: how many samples it ran.
        unseen: True when calibration did not see them.
        outputs: one per output of the model.
        layers: inner tensors that are stored as integers, in topological order.
        missing: why something could not be measured, "" when everything was.
    """

    samples: int = 0
    unseen: bool = False
    outputs: Sequence[OutputFidelity] = ()
    layers: Sequence[LayerFidelity] = ()
    missing: str = ""

    def worst(self, n: int) -> list[LayerFidelity]:
        """The `n` layers that lose most precision, worst first."""
        return sorted(self.layers, key=lambda layer: -layer.noise)[:n]


@dataclass(frozen=True)
class Conversions:
    """QuantizeLinear and DequantizeLinear operators on the way between float and integers.

    Pairs around operators that compute in integers are not counted: engines fuse them.

    Attributes:
        quantize: from float.
        dequantize: to float.
        requantize: from one grid to another.
    """

    quantize: int = 0
    dequantize: int = 0
    requantize: int = 0


@dataclass(repr=False)
class Report:
    """What `quantize` did; prints as a table.

    Attributes:
        model: what was quantized.
        target: name of the target.
        pipeline: every pass that ran, with its options; parses back.
        command: the command line that does the same again.
        samples: how many samples calibration saw.
        data: where they came from.
        seed: of every random choice.
        warnings: what the user should know before trusting the result.
        decisions: operator by operator.
        fidelity: how near the result is to the source model.
        accuracy: what was asked of the accuracy, where it was, and what was done to hold it.
        culprit: which pass and layer cost the metric, where that was asked for.
        sensitivity: errors of single operators, where the pass of this name ran.
        islands: predicted and measured times, where the pass of this name ran.
        bits: the Pareto front, where the pass of this name ran.
        predicted_us: time of one inference by the costs of the placement, microseconds.
        timing: what the engine really takes, where that was asked for.
        graph: the result, for the eye.
        conversions: what is left between float and integers.
        weight_bytes: size of all constants before and after.
        nodes: operators before and after.
        passes: one report per pass.
        seconds: wall time.
    """

    model: str = ""
    target: str = ""
    pipeline: str = ""
    command: str = ""
    samples: int = 0
    data: str = ""
    seed: int = 0
    warnings: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    fidelity: Fidelity = field(default_factory=Fidelity)
    accuracy: dict[str, Any] = field(default_factory=dict)
    culprit: Culprit | None = None
    sensitivity: dict[str, Any] = field(default_factory=dict)
    islands: dict[str, Any] = field(default_factory=dict)
    bits: dict[str, Any] = field(default_factory=dict)
    predicted_us: dict[str, float] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    graph: GraphView = field(default_factory=GraphView)
    conversions: Conversions = field(default_factory=Conversions)
    weight_bytes: tuple[int, int] = (0, 0)
    nodes: tuple[int, int] = (0, 0)
    passes: list[PassReport] = field(default_factory=list)
    seconds: float = 0.0

    def counts(self) -> dict[str, tuple[int, int]]:
        """Operator type -> how many compute in integers, and how many there are."""
        total = Counter(d.op for d in self.decisions)
        integer = Counter(d.op for d in self.decisions if d.precision != "float")
        return {op: (integer[op], n) for op, n in total.most_common()}

    def stored(self) -> dict[str, int]:
        """Operator type -> how many compute in float with weights stored as integers."""
        found = Counter(d.op for d in self.decisions if d.quantized and d.precision == "float")
        return dict(found.most_common())

    def not_quantized(self) -> dict[str, list[Decision]]:
        """Reason -> the operators that are not quantized for it, most frequent reason first.

        That a target has no kernel "for X" is one reason for all X.
        """
        found: dict[str, list[Decision]] = {}
        for decision in self.decisions:
            if not decision.quantized:
                reason = decision.reason.removesuffix(f" for {decision.op}")
                found.setdefault(reason, []).append(decision)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page (.html), a text for a pull request (.md), or plain data (.json).

        Raises `UsageError` for any other suffix, and where no file can be made.
        """
        from .pages import save

        save(self, Path(path))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def __rich__(self) -> RenderableType:
        """The end table."""
        from .render import render

        return render(self)

    def __str__(self) -> str:
        """The end table as plain text."""
        console = Console(width=WIDTH, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def __repr__(self) -> str:
        """One line: what, for whom, how much in integers, how near."""
        counts = self.counts().values()
        told = [f"{sum(n for n, _ in counts)} of {sum(n for _, n in counts)} operators in integers"]
        told.append("{:.2f} -> {:.2f} MB".format(*(size / 1e6 for size in self.weight_bytes)))
        worst = [o.sqnr_db for o in self.fidelity.outputs if o.sqnr_db is not None]
        told += [f"{min(worst):.1f} dB"] if worst else []
        return f"<Report of {self.model} for {self.target}: {', '.join(told)}>"

    def _repr_html_(self) -> str:
        """The end table in a notebook, in its own colours."""
        console = Console(width=WIDTH, record=True, file=io.StringIO(), force_jupyter=False)
        console.print(self)
        page = '<pre style="line-height:normal; overflow-x:auto">{code}</pre>'
        return console.export_html(inline_styles=True, code_format=page)


def weight_bytes(graph: Graph) -> int:
    """Bytes of all constants of a graph and its bodies, those in attributes included."""
    tensors: dict[int, Tensor] = {}
    for inner in graph.graphs():
        constants = [value.const for value in inner.values()]
        constants += [a for n in inner for a in n.attrs.values() if isinstance(a, Tensor)]
        tensors.update((id(tensor), tensor) for tensor in constants if tensor is not None)
    return sum(tensor.nbytes for tensor in tensors.values())


def conversions(graph: Graph) -> Conversions:
    """Count what converts between float and integers in a quantized graph."""
    enter = leave = between = 0
    for node in graph:
        value = node.input(0)
        if value is None or value.const is not None:
            continue
        if node.is_op("QuantizeLinear"):
            enter += value.producer is None or _is_float(value.producer)
            between += value.producer is not None and value.producer.is_op("DequantizeLinear")
        elif node.is_op("DequantizeLinear"):
            leave += any(_is_float(reader) for reader in node.output.consumers)
    return Conversions(enter, leave, between)


def _is_float(node: Node) -> bool:
    """True for the graph's outputs and operators that compute in float."""
    return node.precision in (None, "float") and not node.is_op(
        "QuantizeLinear", "DequantizeLinear"
    )
