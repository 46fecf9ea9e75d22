"""What `ptq-opt` prints at its end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from textwrap import indent

from rich.text import Text

from . import explain as explaining
from . import render
from .report import Report
from .terminal import screen


def show(report: Report, *, verbose: bool, times: bool, statistics: bool) -> None:
    """The report, with every layer when it is `verbose`."""
    console = screen()
    every = len(report.fidelity.layers)
    console.print(render.body(report, every if verbose else render.WORST))
    if times:
        console.print(render.times(report))
    if statistics:
        console.print(render.statistics(report))


def answer(report: Report, *, explain: Iterable[str], suggest: bool) -> None:
    """What was asked for: what costs the metric, why operators are as they are, what to try.

    Raises:
        UsageError: no operator has a name in `explain`.
    """
    if report.culprit is not None:
        _section("What costs the metric", str(report.culprit))
    for name in explain:
        screen().print(Text(f"\n{explaining.explain(report, name)}"), soft_wrap=True)
    if suggest:
        found = explaining.suggest(report) or [("no layer adds noise worth a cure", "")]
        _section("To try", "\n".join(f"{why}\n  {command}".rstrip() for why, command in found))


def close(report: Report, written: Iterable[Path]) -> None:
    """Hints, the command, and which files there are now."""
    for title, lines in (*render.hints(report), ("Written", "\n".join(map(str, written)))):
        _section(title, lines)


def _section(title: str, lines: str) -> None:
    screen().print(Text(f"\n{title}", style="bold"))
    screen().print(Text(indent(lines, "  ")), soft_wrap=True)
