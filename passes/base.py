"""What a pass is, what it is given and what it leaves behind."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..ir import Graph, Node, PtqError, Value

if TYPE_CHECKING:
    from ..ir.calibration import Calibration
    from ..ir.samples import Samples
    from ..ir.target import Target
    from ..ir.timings import Timings
    from .metric import Metric
    from .moments import Statistic

NEEDS_QUOTES = re.compile(r'[,{}\[\]"\\]|^\s|\s$')
"""What a text in a specification string may not hold bare."""

EXAMPLES = 5
"""How many nodes or tensors a report names for one reason."""


class Skip(Exception):
    """Raised by a rewrite that declines; the reason is counted and shown."""


class PassError(PtqError):
    """A pass that failed, or broke the graph or its function."""


@dataclass
class Report:
    """What one run of a pass did.

    Attributes:
        spec: the pass with its options, as on the command line.
        matched: places the pass looked at closely.
        rewritten: places it changed.
        skipped: reason -> labels of the nodes or tensors that were left alone for it.
        notes: findings a user should read, in order.
        edits: changes of the graph, counted by the graph.
        nodes: operators before and after.
        seconds: wall time.
        provided: True when the runner inserted the pass because a later one needs its result.
    """

    spec: str
    matched: int = 0
    rewritten: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    edits: int = 0
    nodes: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    provided: bool = False

    def skip(self, reason: str, what: Node | Value | str) -> None:
        """Count one place left alone; `what` is the node or tensor."""
        label = what.label if isinstance(what, Node) else getattr(what, "name", what)
        self.skipped.setdefault(reason, []).append(str(label))

    def note(self, text: str) -> None:
        """Record a finding."""
        self.notes.append(text)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)


Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""progress(title, total) -> context manager that gives advance(steps)."""


def no_progress(_title: str, _total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing."""
    return nullcontext(lambda _steps: None)


@dataclass(frozen=True)
class Loss:
    """Error of the outputs that storing a tensor as integers causes, in any unit.

    Attributes:
        rounding: by the tensor's own grid, whoever makes or reads it in integers.
        weights: by the rounded weights of the operator that makes it.
    """

    rounding: float
    weights: float


@dataclass
class Context:
    """What passes share during one run of a pipeline.

    Attributes:
        target: the engine or chip the model is made for.
        samples: calibration data, None when there is none.
        calibration: what `calibrate` learned, by `Value.origin`.
        metric: the caller's own measure of a model, None when there is none.
        losses: what `sensitivity` measured, by `Value.origin`; None when it did not.
        statistics: what BatchNormalization told of tensors before it was folded, likewise.
        timings: what `measure` measured, None when it did not.
        seed: of every random choice.
        progress: shows the advance of long steps.
        report: of the pass that is running.
        results: findings by topic that a pass leaves for the end report (JSON-ready).
        placement: whether each unit runs in integers, where a search decided; else `plan` does.
        exclude: nodes to leave in float, see `select.selects`.
    """

    target: Target
    samples: Samples | None = None
    calibration: Calibration | None = None
    metric: Metric | None = None
    losses: Mapping[str, Loss] | None = None
    statistics: dict[str, Statistic] = field(default_factory=dict)
    timings: Timings | None = None
    seed: int = 0
    progress: Progress = no_progress
    report: Report = field(default_factory=lambda: Report(""))
    results: dict[str, Any] = field(default_factory=dict)
    placement: Sequence[bool] | None = None
    exclude: tuple[str, ...] = ()

    def need_samples(self, who: str) -> Samples:
        """The calibration data; `PassError` with the cure when there is none."""
        if self.samples is None:
            raise PassError(f"pass '{who}' needs calibration data: give --data (or data=...)")
        return self.samples


@dataclass(frozen=True)
class Pass(ABC):
    """A graph rewrite with a contract; subclasses are frozen dataclasses, their fields the options.

    Class attributes:
        name: as on the command line.
        requires: facts that must hold before; the runner adds passes that establish them.
        establishes: facts that hold afterwards.
        invalidates: facts that no longer hold afterwards.
        preserves_function: every graph output stays what it was in FP32; the runner can check it.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    establishes: ClassVar[tuple[str, ...]] = ()
    invalidates: ClassVar[tuple[str, ...]] = ()
    preserves_function: ClassVar[bool] = False

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> None:
        """Rewrite `graph` in place; findings go to `context.report`."""

    @property
    def spec(self) -> str:
        """The pass as text, options that differ from their defaults in braces; parses back."""
        changed = [
            (f.name.replace("_", "-"), getattr(self, f.name))
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        inside = ",".join(f"{key}={format_option(value)}" for key, value in changed)
        return self.name + (f"{{{inside}}}" if inside else "")

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or "").strip().split("\n")[0]


def format_option(value: Any) -> str:
    """An option's value as in a specification string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ",".join(map(format_option, value)) + "]"
    if isinstance(value, str) and (value in ("", "none") or NEEDS_QUOTES.search(value)):
        return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    return str(value)


def total_edits(graph: Graph) -> int:
    """How often the graph and the bodies inside it were edited; grows with every change."""
    return sum(inner.version for inner in graph.graphs())


def examples(labels: Iterable[str]) -> str:
    """The first few labels, and how many more there are."""
    names = list(labels)
    more = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def single_reader(value: Value) -> Node | None:
    """The only node that reads `value`, once; None when others do or the graph returns it."""
    if len(value.uses) != 1:
        return None
    ((node, slot),) = value.uses
    return node if slot >= 0 and node.outputs else None


def all_nodes(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    """Every operator of the graph and of the bodies inside it."""
    for inner in graph.graphs():
        for node in inner.order():
            yield inner, node
