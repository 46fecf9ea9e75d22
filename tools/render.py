"""The end of a run: a table a person can act on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..ir.evaluate import MOST_DECIBEL
from .report import Conversions, Decision, Report

WORST = 5
"""How many of the layers that lose most precision are shown."""
MANY = 8
"""How many operators that are in float by choice are listed."""
BAR = 40
"""Columns of the longest bar."""
FEW = 4
"""Up to so many operators are named one by one."""
POOR_DB = 15.0
"""Outputs below this are worth a hint."""
EXCLUDED = 2
"""How many layers the hint excludes."""

Parts = Iterator[RenderableType]


def render(report: Report) -> RenderableType:
    """Show a report."""
    closing = (part for title, line in hints(report) for part in _section(title, _indented(line)))
    return Group(body(report), *closing)


def body(report: Report, layers: int = WORST) -> RenderableType:
    """Show a report but for its hints; `layers` of those that lose most precision."""
    return Group(
        *_head(report),
        *_operators(report),
        *_outputs(report),
        *_accuracy(report, layers),
        *_layers(report, layers),
        *_sensitivity(report, layers),
        *_front(report),
        *_passes(report),
    )


def hints(report: Report) -> Iterator[tuple[str, str]]:
    """Lines for the shell, each with its title; to be copied, so better not wrapped."""
    found = report.fidelity
    worst = [layer for layer in found.worst(WORST) if layer.noise > 0]
    if worst and any(o.sqnr_db is not None and o.sqnr_db < POOR_DB for o in found.outputs):
        names = [re.search(r"'(.+)'$", layer.node) for layer in worst[:EXCLUDED]]
        pattern = "|".join(f"^{re.escape(name[1])}$" for name in names if name)
        yield "To keep the worst in float, add", f"--exclude={shlex.quote(pattern)}"
    if report.command:
        yield "The same again", report.command


def _head(report: Report) -> Parts:
    before, after = (size / 1e6 for size in report.weight_bytes)
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("model", escape(f"{report.model} for {report.target}"))
    rows.add_row("weights", f"{before:.2f} MB -> {after:.2f} MB")
    rows.add_row("operators", f"{report.nodes[0]} -> {report.nodes[1]}")
    if report.data:
        rows.add_row("data", escape(f"{report.samples} samples of {report.data}"))
    rows.add_row("time", f"{report.seconds:.1f} s")
    yield rows
    for warning in report.warnings:
        yield Text(f"warning: {warning}", style="bold yellow")


def _operators(report: Report) -> Parts:
    if not report.decisions:
        return
    counts = report.counts()
    table = _table("operator", "integer", "float", right=2)
    for op, (integer, total) in counts.items():
        if integer:
            table.add_row(escape(op), str(integer), str(total - integer or ""))
    if table.row_count:
        yield from _section("Quantized", table)
    table = _table("operator", "", right=1)
    for op, count in report.stored().items():
        table.add_row(escape(op), str(count))
    if table.row_count:
        yield from _section("Computed in float, with weights stored as integers", table)
    table = _table("reason", "", "operators", right=1)
    for reason, group in report.not_quantized().items():
        table.add_row(escape(reason), str(len(group)), escape(_by_type(group)))
    if table.row_count:
        yield from _section("Not quantized", table)
    yield from _could_be_integer(report)
    c = report.conversions
    if c == Conversions():
        return
    text = f"{c.quantize} QuantizeLinear, {c.dequantize} DequantizeLinear"
    text += f", {c.requantize} from grid to grid" if c.requantize else ""
    yield from _section("Conversions left between float and integers", _indented(text))


def _could_be_integer(report: Report) -> Parts:
    """What integers would save and cost, for the operators that are in float by choice."""
    chosen = [d for d in report.decisions if d.why in ("hurts", "converts")]
    names = ("operator", "saves us", "conversions us", "loss", "times")
    table = _table(*names, right=3)
    for d in sorted(chosen, key=lambda d: -d.saves)[:MANY]:
        loss = f"{d.loss:.2e}" if d.loss else ""
        numbers = (f"{d.saves:.1f}", f"{d.converts:.1f}", loss)
        table.add_row(escape(f"{d.op} '{d.node}'"), *numbers, d.source)
    if len(chosen) > MANY:
        table.add_row(f"and {len(chosen) - MANY} more")
    if chosen:
        yield from _section("In float by choice: each alone in integers", table)


def _by_type(group: Sequence[Decision]) -> str:
    """Operators by type, with their names while these are few."""
    names: dict[str, list[str]] = {}
    for decision in group:
        names.setdefault(decision.op, []).append(f"'{decision.node}'")
    if len(group) <= FEW:
        return "; ".join(f"{op} {', '.join(of_op)}" for op, of_op in names.items())
    return ", ".join(f"{len(of_op)} {op}" for op, of_op in names.items())


def _outputs(report: Report) -> Parts:
    found = report.fidelity
    table = _table("output", "SQNR", right=1)
    for out in found.outputs:
        text = f"{100 * out.equal:.1f} % equal" if out.sqnr_db is None else _db(out.sqnr_db)
        table.add_row(escape(out.name), text)
    if table.row_count:
        seen = "that calibration did not see" if found.unseen else "of those that calibration saw"
        yield from _section(f"Fidelity to float on {found.samples} samples {seen}", table)
    if found.missing:
        yield from _section("Fidelity not measured", _indented(found.missing))


def _accuracy(report: Report, count: int) -> Parts:
    done = report.accuracy
    if not done:
        return
    yield from _section(f"Held: {done['goal']}", _indented("\n".join(held(done))))
    table = _table("back to float", "error in integers", "us it costs", right=2)
    for row in done.get("reverted", ())[:count]:
        table.add_row(escape(row["node"]), f"{row['loss']:.2e}", f"{row['microseconds']:.1f}")
    if table.row_count:
        yield table


def held(done: Mapping[str, Any]) -> list[str]:
    """What became of `Report.accuracy`: where it was at first, what was done and what it costs."""
    if not done:
        return []
    if "baseline" in done:
        lines = [
            f"{done['score']:.5g}, {done['baseline']:.5g} in float: it drops by {done['drop']:.3g}"
            f" ({done['drop_at_first']:.3g} at first), evaluated {done['evaluations']} times"
        ]
        if done["spread"]:
            lines.append(f"two scores of the float model differ by {done['spread']:.3g}: allowed")
    else:
        lines = [f"worst output from {done['worst_at_first']:.1f} to {done['worst']:.1f} dB"]
    for step in done.get("steps", ()):
        kept = "kept" if step["kept"] else "dropped"
        lines.append(f"{step['step']}: {step['worst']:.1f} dB, {kept}, {step['seconds']:.1f} s")
    if widened := done.get("widened", ()):
        size = sum(layer["size"] for layer in widened)
        lines.append(f"weights of {len(widened)} layers in 8 bits, {size / 1e3:,.0f} kB more")
    reverted = done.get("reverted", ())
    if reverted:
        lines.append(
            f"{len(reverted)} operators back to float, {done['trials']} placements tried; "
            f"predicted {_three(done['milliseconds'])}"
        )
        if done["timed"]:
            lines.append(f"timed {_three(done['timed'])}")
    return lines


def _three(times: dict[str, float]) -> str:
    return (
        f"{times['placed']:.3g} ms, {times['integers']:.3g} without that, {times['float']:.3g} in "
        "float"
    )


def _layers(report: Report, count: int) -> Parts:
    worst = [layer for layer in report.fidelity.worst(count) if layer.noise > 0]
    if not worst:
        return
    table = _table("layer", "SQNR before", "after", "noise added", "clipped", right=4)
    for layer in worst:
        noise = f"{100 * layer.noise:.3g} %"
        clipped = f"{100 * layer.clipped:.2g} %" if layer.clipped else ""
        dbs = _db(layer.before_db), _db(layer.sqnr_db)
        table.add_row(escape(layer.node), *dbs, noise, clipped)
    yield from _section("Where precision is lost most", table)


def _sensitivity(report: Report, count: int) -> Parts:
    found = report.sensitivity
    if not found:
        return
    together = sum(found["together"])
    table = _table("operator", "error", "of that of all", "gained in float", right=3)
    for row in found["operators"][:count]:
        error, gained = sum(row["alone"]), sum(row["gained"]) / together if together > 0 else 0.0
        table.add_row(escape(row["node"]), f"{error:.2e}", f"{row['share']:.1%}", f"{gained:.1%}")
    title = f"Error of each operator when it alone is quantized, {found['measure']}"
    yield from _section(title, table)


def _front(report: Report) -> Parts:
    """The Pareto front of `bits` as bars."""
    found = report.bits
    if not found:
        return
    points, chosen = found["points"], found["chosen"]
    best = max(point["sqnr_db"] for point in points if point["sqnr_db"] < MOST_DECIBEL)
    step = max(len(points) // MANY, 1)
    table = _table(found["paid_in"], "SQNR", "", right=1)
    for k, point in enumerate(points):
        if k % step and k not in (chosen, len(points) - 1):
            continue
        bar = "#" * max(round(BAR * min(point["sqnr_db"], best) / best), 0)
        mark = " chosen" if k == chosen else ""
        share = f"{point['amount'] / found['in_float']:.1%}"
        table.add_row(share, _db(point["sqnr_db"]), bar + mark)
    yield from _section(f"Least noise for the {found['paid_in']}, predicted", table)


def _passes(report: Report) -> Parts:
    told = {decision.reason for decision in report.decisions}
    table = _table("pass", "s", "rewritten", "notes, and what was left alone", right=2)
    for done in report.passes:
        remarks = [
            f"{reason}: {_first(labels)}"
            for reason, labels in done.skipped.items()
            if reason not in told
        ]
        name = done.spec + (" (added)" if done.provided else "")
        text = "\n".join([*done.notes, *remarks])
        table.add_row(escape(name), f"{done.seconds:.2f}", str(done.rewritten or ""), escape(text))
    yield from _section("Passes", table)


def _first(labels: Sequence[str]) -> str:
    """The first label and how many more there are; `statistics` has them all."""
    return labels[0] + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")


def times(report: Report) -> RenderableType:
    """Where the time went, longest first."""
    rest = report.seconds - sum(done.seconds for done in report.passes)
    rows = [(done.spec, done.seconds) for done in report.passes]
    rows.append(("load, float runs, comparison", rest))
    table = _table("pass", "s", "%", right=2)
    for name, seconds in sorted(rows, key=lambda row: -row[1]):
        table.add_row(escape(name), f"{seconds:.3f}", f"{100 * seconds / report.seconds:.1f}")
    return Group(*_section("Time", table))


def statistics(report: Report) -> RenderableType:
    """What each pass looked at and did, with every node it declined."""
    names = ("pass", "matched", "rewritten", "declined", "edits", "operators")
    table = _table(*names, right=5)
    for done in report.passes:
        declined = sum(len(labels) for labels in done.skipped.values())
        counts = (done.matched, done.rewritten, declined, done.edits)
        table.add_row(escape(done.spec), *map(str, counts), f"{done.nodes[0]} -> {done.nodes[1]}")
    declined_by = [
        _indented(f"{done.spec}: {reason}: {', '.join(labels)}")
        for done in report.passes
        for reason, labels in done.skipped.items()
    ]
    return Group(*_section("Statistics", table), *declined_by)


def _db(value: float) -> str:
    return "exact" if value >= MOST_DECIBEL else f"{value:.1f} dB"


def _section(title: str, content: RenderableType) -> Parts:
    yield Padding(Text(title, style="bold"), (1, 0, 0, 0))
    yield content


def _indented(text: str) -> RenderableType:
    return Padding(Text(text, overflow="fold"), (0, 2))


def _table(*columns: str, right: int) -> Table:
    """A table whose columns after the first are numbers, `right` of them."""
    table = Table(box=None, header_style="dim", padding=(0, 2))
    for k, column in enumerate(columns):
        justify: Any = "right" if 0 < k <= right else "left"
        table.add_column(column, justify=justify, overflow="fold")
    return table
