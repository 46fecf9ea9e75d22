"""The report as Markdown for a pull request: short, what is long folded away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..advice import Advice, advise
from ..render import held
from ..report import Report
from . import summary

WORST = 5
"""Layers that are shown with advice."""
NAMED = 6
"""Operators that are named for one reason."""
POINTS = 12
"""Of the Pareto front."""


def markdown(report: Report) -> str:
    """GitHub-flavoured Markdown."""
    parts = (_head, _worst, _operators, _front, _passes, _again)
    return "\n".join(line for part in parts for line in part(report)) + "\n"


def _head(report: Report) -> Iterator[str]:
    found = report.fidelity
    yield f"## {code(report.model)} for {code(report.target)}\n"
    for warning in report.warnings:
        yield f"> **Warning:** {plain(warning)}\n"
    before, after = report.weight_bytes
    integer = sum(d.precision != "float" for d in report.decisions)
    left, islands = report.conversions, report.graph.islands
    rows = [("Weights", f"{summary.megabytes(before)} → {summary.megabytes(after)}")]
    rows.append(
        ("Operators in integers", f"{integer} of {len(report.decisions)}, {islands} float islands")
    )
    rows.append(
        ("Conversions left", f"{left.quantize} Q, {left.dequantize} DQ, {left.requantize} between")
    )
    for times in summary.times(report):
        each = ", ".join(f"{what} {summary.microseconds(us)}" for what, us in times.rows.items())
        faster = f" ({times.speedup:.2f}x as fast)" if times.speedup else ""
        rows.append((f"Time, {times.by}", each + faster))
    if report.timing.where or report.timing.missing:
        rows.append(("", plain(report.timing.where or report.timing.missing)))
    for out in found.outputs:
        quality = (
            f"{100 * out.equal:.1f} % equal"
            if out.sqnr_db is None
            else summary.decibels(out.sqnr_db)
        )
        rows.append((f"Output {code(out.name)}", quality))
    if report.data:
        rows.append(("Data", f"{report.samples} samples of {code(report.data)}"))
    yield from table(("", ""), rows)
    if found.outputs:
        seen = "did not see" if found.unseen else "saw"
        yield f"Outputs against float on {found.samples} samples that calibration {seen}.\n"
    if found.missing:
        yield f"Not measured: {plain(found.missing)}\n"
    if report.accuracy:
        yield f"**Held: {plain(report.accuracy['goal'])}**\n"
        yield from (f"- {plain(line)}" for line in held(report.accuracy))
        yield ""


def _worst(report: Report) -> Iterator[str]:
    worst = [layer for layer in report.fidelity.worst(WORST) if layer.noise > 0]
    if not worst:
        return
    yield "### Where precision is lost most\n"
    rows: list[tuple[str, ...]] = []
    cures: dict[Advice, list[str]] = {}
    for layer in worst:
        grid = (
            f"{layer.values.dtype}, {summary.share(layer.values.clipped)} clipped"
            if layer.values
            else ""
        )
        before, after = summary.decibels(layer.before_db), summary.decibels(layer.sqnr_db)
        rows.append((code(layer.node), before, after, summary.share(layer.noise), grid))
        for item in advise(layer, report):
            cures.setdefault(item, []).append(code(layer.node))
    yield from table(("layer", "SQNR before", "after", "noise added", "grid"), rows)
    if cures:
        yield from folded("What to try", [_cure(*cure) for cure in cures.items()])


def _cure(item: Advice, layers: Sequence[str]) -> str:
    why = f" ({plain(item.why)})" if item.why else ""
    return f"- {', '.join(layers)}: {plain(item.what)}{why}: {code(item.option)}"


def _operators(report: Report) -> Iterator[str]:
    rows = []
    for reason, group in report.not_quantized().items():
        names = ", ".join(code(f"{d.op} {d.node}") for d in group[:NAMED])
        more = f" and {len(group) - NAMED} more" if len(group) > NAMED else ""
        rows.append((plain(reason), str(len(group)), names + more))
    if rows:
        yield from folded("Not quantized, and why", table(("reason", "", "operators"), rows))


def _front(report: Report) -> Iterator[str]:
    found = report.bits
    if not found:
        return
    points, chosen = found["points"], found["chosen"]
    step = max(len(points) // POINTS, 1)
    rows = [
        (
            f"{point['amount'] / found['in_float']:.1%}",
            summary.decibels(point["sqnr_db"]),
            "**chosen**" if k == chosen else "",
        )
        for k, point in enumerate(points)
        if k % step == 0 or k in (chosen, len(points) - 1)
    ]
    content = table((plain(found["paid_in"]), "SQNR, predicted", ""), rows)
    yield from folded("Pareto front", content)


def _passes(report: Report) -> Iterator[str]:
    rows = []
    for done in report.passes:
        skipped = (f"{plain(reason)} ({len(labels)})" for reason, labels in done.skipped.items())
        remarks = "<br>".join(
            [*map(plain, done.notes), *(f"left alone: {each}" for each in skipped)]
        )
        name = code(done.spec) + (" (added)" if done.provided else "")
        rows.append((name, f"{done.seconds:.2f}", str(done.rewritten or ""), remarks))
    if rows:
        yield from folded(
            "Passes", table(("pass", "s", "changed", "notes, and what was left alone"), rows)
        )


def _again(report: Report) -> Iterator[str]:
    command = summary.reproduction(report)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", command)), default=0))
    yield "The same again:\n"
    yield f"{fence}{'sh' if report.command else 'python'}\n{command}\n{fence}"


def code(text: str) -> str:
    """`text` as code, whatever is in it; safe in a cell of a table too."""
    flat = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    space = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{space}{flat}{space}{fence}" if flat else ""


def plain(text: str) -> str:
    """`text` without what Markdown, HTML or GitHub (mentions, issues) would make of it."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = re.sub(r"([\\`*_\[\]|~])", r"\\\1", flat)
    return re.sub(r"([@#])(?=\w)", "\\1\u200b", flat)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table; cells are Markdown already."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def folded(title: str, lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    """Lines behind a title to click on."""
    yield f"<details><summary>{title}</summary>\n"
    yield from lines
    yield "\n</details>\n"
