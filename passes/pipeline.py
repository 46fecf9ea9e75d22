"""Runs passes in order, adds those that later ones need, and checks each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..ir import Graph, GraphError, PtqError
from ..ir.garbage import seldom_gc
from ..ir.memory import told
from ..ir.verify import verify
from . import spec as specification
from .base import Context, Pass, PassError, Report, total_edits
from .invariants import FunctionCheck
from .registry import DEFAULT, provider

Verify = Literal["none", "structure", "numerics"]
Hook = Callable[[Pass, Graph], None]


@dataclass(frozen=True)
class Step:
    """A pass of a resolved pipeline; `provided` when the runner inserted it."""

    run: Pass
    provided: bool = False


@dataclass
class Instruments:
    """What happens around every pass.

    Attributes:
        verify: check the graph's structure, or also that passes that say so keep its function.
        before: called with the pass and the graph before it runs.
        after: called with the pass and the graph after it ran.
        reproducer: called with the specification up to and including a pass that failed; returns
            what to tell the user (which command fails the same way).
    """

    verify: Verify = "structure"
    before: Sequence[Hook] = ()
    after: Sequence[Hook] = ()
    reproducer: Callable[[str], str] | None = None


@dataclass
class Pipeline:
    """A sequence of passes, from a specification string, from `Pass` objects, or from both.

    `given` are facts that hold already, so that nothing is added to establish them.
    """

    passes: str | Sequence[Pass | str] = DEFAULT
    given: tuple[str, ...] = ()
    items: list[Pass] = field(init=False)

    def __post_init__(self) -> None:
        """Parse the specification."""
        parts = [self.passes] if isinstance(self.passes, str) else self.passes
        self.items = [
            item for p in parts for item in (specification.parse(p) if isinstance(p, str) else [p])
        ]

    def resolve(self) -> list[Step]:
        """The passes that will run: those asked for and the missing providers of their facts."""
        steps: list[Step] = []
        facts = set(self.given)

        def append(item: Pass, provided: bool, waiting: tuple[str, ...]) -> None:
            for fact in item.requires:
                if fact in facts:
                    continue
                if fact in waiting:
                    raise PassError(f"passes need each other's result: {' -> '.join(waiting)}")
                append(provider(fact)(), True, (*waiting, fact))
            steps.append(Step(item, provided))
            facts.difference_update(item.invalidates)
            facts.update(item.establishes)

        for item in self.items:
            append(item, False, ())
        if "quantized" in facts and "clean" not in facts:
            append(provider("clean")(), True, ())
        return steps

    def tail(self, fact: str) -> tuple[list[Pass], tuple[str, ...]]:
        """The passes from the first that establishes `fact`, and the facts that hold before it."""
        passes = [step.run for step in self.resolve()]
        facts = set(self.given)
        for number, item in enumerate(passes):
            if fact in item.establishes:
                return passes[number:], tuple(sorted(facts))
            facts.difference_update(item.invalidates)
            facts.update(item.establishes)
        return [], tuple(sorted(facts))

    @property
    def spec(self) -> str:
        """The resolved pipeline as text."""
        return ",".join(step.run.spec for step in self.resolve())

    def run(
        self, graph: Graph, context: Context, instruments: Instruments | None = None
    ) -> list[Report]:
        """Run on `graph` in place; one report per pass.

        Raises:
            PassError: a pass failed or broke the graph; the message names pass and place.
        """
        tools = instruments or Instruments()
        check = FunctionCheck(context) if tools.verify == "numerics" else None
        if tools.verify != "none":
            verify(graph)
        reports: list[Report] = []
        with seldom_gc(len(graph)):
            for step in self.resolve():
                try:
                    reports.append(_run_step(step, graph, context, tools, check))
                except PassError as error:
                    if tools.reproducer is None:
                        raise
                    failing = ",".join([*(r.spec for r in reports), step.run.spec])
                    raise PassError(f"{error}\n{tools.reproducer(failing)}") from error
        return reports


def _run_step(
    step: Step, graph: Graph, context: Context, tools: Instruments, check: FunctionCheck | None
) -> Report:
    item = step.run
    report = context.report = Report(item.spec, provided=step.provided)
    for hook in tools.before:
        hook(item, graph)
    expected = check.outputs(graph) if check and item.preserves_function else None
    start, edits, nodes = time.perf_counter(), total_edits(graph), len(graph)
    try:
        with context.progress(item.name, None), told(f"pass '{item.name}'"):
            item.run(graph, context)
    except PtqError:
        raise
    except Exception as error:
        raise PassError(f"pass '{item.name}' failed: {type(error).__name__}: {error}") from error
    report.seconds = time.perf_counter() - start
    report.edits, report.nodes = total_edits(graph) - edits, (nodes, len(graph))
    if tools.verify != "none":
        try:
            verify(graph)
        except GraphError as error:
            raise PassError(f"pass '{item.name}' left a broken graph: {error}") from error
    if check and expected is not None:
        check.compare(item.name, graph, expected)
    for hook in tools.after:
        hook(item, graph)
    return report
