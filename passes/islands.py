"""Places float islands: the plan with pins and losses, timed as a whole before it is kept."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..ir import Graph, UsageError, Value, shapes
from ..ir.engines import installed, machine, rounds, version
from ..ir.samples import random_samples
from .base import Context, Pass
from .deployed import deployed_choice
from .grids import Span
from .place import Places, places, settle
from .placement import solve
from .plan import annotate, candidates, clear, tell
from .price import price
from .select import selects
from .units import Unit

PLACED, INTEGER, FLOAT = "placed", "all in integers", "all in float"
SLOWER = "the whole model was timed, and is faster in float"
CLEARLY = 0.99
"""What takes less than this share of the placed one's time is faster, if not by chance."""
CHANCE = 0.05
"""Largest probability that one of two equally fast models wins so many rounds."""


@dataclass(frozen=True)
class Islands(Pass):
    """Decide precisions and grids like `plan`, with pins, and time the result as a whole.

    What must stay in float is given by name, regular expression or type; what follows it into
    float, so that conversions do not cost more than integers save, is a minimum cut. Then the
    placement, all in integers and all in float are timed in the target's engine, and the fastest is
    kept. Where an accuracy is to be held, what that decides is kept untimed.

    Attributes:
        pin_float: nodes to keep in float, like `--exclude`: regular expressions, or `op:TYPE`.
        pin_integer: nodes to keep in integers, in the same way.
        time: time whole models where the target's engine is installed.
        seconds: how long.
        threads: of each session; 0 for one per core.
    """

    name: ClassVar[str] = "islands"
    requires: ClassVar[tuple[str, ...]] = ("canonical", "folded", "ranges")
    establishes: ClassVar[tuple[str, ...]] = ("plan",)
    invalidates: ClassVar[tuple[str, ...]] = ("filters", "accumulators")
    preserves_function: ClassVar[bool] = True

    pin_float: tuple[str, ...] = ()
    pin_integer: tuple[str, ...] = ()
    time: bool = True
    seconds: float = 5.0
    threads: int = 1

    def run(self, graph: Graph, context: Context) -> None:
        """Annotate the graph."""
        if context.target.activations is None:
            raise UsageError("islands places activations in integers: give them a type, not none")
        found, spans = self.places(graph, context)
        decided = context.placement is not None
        choices: dict[str, Sequence[bool]] = {PLACED: context.placement or solve(found.problem)}
        if not decided:
            choices |= {INTEGER: found.most, FLOAT: found.least}
        predicted = {name: found.problem.cost(choice) for name, choice in choices.items()}
        # Capacities are rounded: a cut may lose to one of these by that, and by no more.
        choices[PLACED] = choices[min(predicted, key=lambda name: predicted[name])]
        predicted[PLACED] = min(predicted.values())
        taken: dict[str, list[float]] = {}
        if self.time and installed(context.target.engine) and not decided:
            with context.progress("timing placements", None):
                taken = self._timed(graph, found, spans, choices, context)
        kept = fastest(taken)
        clear(graph)
        settle(found, choices[kept], SLOWER if kept == FLOAT else "")
        annotate(found.units, spans, context.target)
        tell(found.units, graph, context)
        if decided:
            context.report.note("placed for accuracy: what is faster may not hold it")
        else:
            timed = {name: statistics.median(times) for name, times in taken.items()}
            self._tell(predicted, timed, kept, context)

    def places(self, graph: Graph, context: Context) -> tuple[Places, dict[Value, Span]]:
        """The problem of placing `graph`, with the pins; known ranges. Clears an earlier plan."""
        shapes.infer(graph)
        clear(graph)
        units, spans = candidates(graph, context)
        pin_float(units, self.pin_float)
        found = places(units, graph, context.target)
        if context.losses is not None:
            price(found.problem, units, graph, context.losses)
        pin_integer(found, self.pin_integer)
        return found, spans

    def _timed(
        self,
        graph: Graph,
        found: Places,
        spans: dict[Value, Span],
        choices: Mapping[str, Sequence[bool]],
        context: Context,
    ) -> dict[str, list[float]]:
        """Nanoseconds of the whole model by each choice, in rounds; equal ones are timed once."""
        graphs: dict[tuple[bool, ...], Graph] = {}
        for choice in choices.values():
            if tuple(choice) in graphs:
                continue
            graphs[tuple(choice)] = deployed_choice(
                graph, found.units, choice, spans, context.target
            )
        names = {str(k): each for k, each in enumerate(graphs.values())}
        samples = context.samples or random_samples(graph.inputs, 1, context.seed)
        taken = rounds(
            context.target.engine,
            names,
            next(iter(samples)),
            threads=self.threads,
            seconds=self.seconds,
        )
        by_choice = dict(zip(graphs, taken.values(), strict=True))
        return {name: by_choice[tuple(choice)] for name, choice in choices.items()}

    def _tell(
        self,
        predicted: Mapping[str, float],
        timed: Mapping[str, float],
        kept: str,
        context: Context,
    ) -> None:
        engine = context.target.engine
        report = context.report
        report.note(f"predicted: {_times(predicted)}")
        if timed:
            where = f"{version(engine)}, {machine()}"
            report.note(f"timed: {_times(timed)}; kept: {kept} ({where})")
        elif self.time:
            what = f"{engine} is not installed" if engine else "no engine runs its files"
            report.note(f"not timed: {what} here")
        context.results["islands"] = {
            "predicted_us": {name: ns / 1e3 for name, ns in predicted.items()},
            "timed_us": {name: ns / 1e3 for name, ns in timed.items()},
            "kept": kept,
        }


def pin_float(units: Sequence[Unit], patterns: Sequence[str]) -> None:
    """Give the units that a pattern selects the reason to stay in float."""
    for pattern in patterns:
        chosen = [unit for unit in units if _selected(pattern, unit)]
        if not chosen:
            raise UsageError(f"islands: no node matches pin-float '{pattern}'")
        for unit in chosen:
            unit.reason = unit.reason or f"pinned by '{pattern}'"


def pin_integer(found: Places, patterns: Sequence[str]) -> None:
    """Leave the units that a pattern selects no float; those that must be float say why."""
    for pattern in patterns:
        chosen = [k for k, unit in enumerate(found.units) if _selected(pattern, unit)]
        if not chosen:
            raise UsageError(f"islands: no node matches pin-integer '{pattern}'")
        for k in chosen:
            unit = found.units[k]
            if unit.reason:
                raise UsageError(
                    f"islands: {unit.node.label} cannot be pinned to integers: {unit.reason}"
                )
            found.problem.pin(k, integer=True)


def _selected(pattern: str, unit: Unit) -> bool:
    return any(selects(pattern, node) for node in (unit.node, unit.after) if node is not None)


def fastest(taken: Mapping[str, Sequence[float]]) -> str:
    """The choice to keep: the placed one unless another is clearly faster, and not by chance.

    Times of one round are compared with each other, as what slows one of them slows the others,
    too; who wins more rounds than a fair coin would, by a sign test, is faster.
    """
    shares = {
        name: [a / b for a, b in zip(times, taken[PLACED], strict=True)]
        for name, times in taken.items()
    }
    surely = {
        name: median
        for name, each in shares.items()
        if (median := statistics.median(each)) < CLEARLY
        and by_chance(sum(share < 1 for share in each), len(each)) <= CHANCE
    }
    return min(surely, key=lambda name: surely[name], default=PLACED)


def by_chance(wins: int, count: int) -> float:
    """The probability of at least so many wins of `count`, each as likely as not."""
    return math.fsum(math.comb(count, k) for k in range(wins, count + 1)) / 2.0**count


def _times(times: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {ns / 1e3:.0f} us" for name, ns in times.items())
