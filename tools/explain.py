"""Why an operator is as it is, and which command does better: `--explain` and `--suggest`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..ir import UsageError
from ..ir.evaluate import MOST_DECIBEL
from ..ir.spelling import nearest
from .advice import advise, node_name
from .graph_view import Edge
from .report import Decision, LayerFidelity, Report

DECIDES = {
    "precision": ("plan", "islands", "bits"),
    "ranges": ("calibrate", "statistics", "clip", "tune"),
    "weights": ("plan", "split-outliers", "tune", "round", "bits", "saturate", "zero-filter"),
    "bias": ("absorb-bias", "bias", "variance", "round"),
}
"""What there is to decide -> the passes that do; of those that ran the last has the last word."""
WORST = 3
"""Layers that suggestions are made for."""


def explain(report: Report, name: str) -> str:
    """What is known of operator `name`: precision, grids, ranges, error, and who decided.

    Raises `UsageError` for a name that the model does not have, with the nearest that it has.
    """
    decision = next((each for each in report.decisions if each.node == name), None)
    places = [k for k, each in enumerate(report.graph.operators) if each.name == name]
    if decision is None and not places:
        raise UsageError(f"there is no operator '{name}'{nearest(name, names(report))}")
    op = decision.op if decision else report.graph.operators[places[0]].op
    rows = [*_decided(decision), *_tensors(report, places), *_measured(report, name)]
    rows += _deciders(report, decision)
    return "\n".join([f"{op} '{name}'", *(f"  {title:<11} {text}" for title, text in rows)])


def names(report: Report) -> list[str]:
    """The operators that can be explained."""
    inner = (each.name for each in report.graph.operators if each.op not in ("input", "output"))
    return list(dict.fromkeys([*(each.node for each in report.decisions), *inner]))


def suggest(report: Report) -> list[tuple[str, str]]:
    """For each of the layers that lose most, the first thing to try: why, and a whole command.

    Empty where no layer adds noise worth a cure.
    """
    found: dict[str, str] = {}
    for layer in report.fidelity.worst(WORST):
        for advice in advise(layer, report):
            if advice.option:
                why = f"{layer.node}: {advice.why or advice.what}"
                found.setdefault(f"{report.command or 'ptq-opt MODEL'} {advice.option}", why)
                break
    return [(why, command) for command, why in found.items()]


Rows = Iterator[tuple[str, str]]


def _decided(decision: Decision | None) -> Rows:
    if decision is None:
        yield "precision", "none of its own: it only moves, converts or was added by a pass"
        return
    if decision.precision != "float":
        yield "precision", f"integers ({decision.precision})"
    elif decision.quantized:
        yield "precision", "float, with weights stored as integers"
    else:
        yield "precision", f"float: {decision.reason}"
    if decision.weights:
        yield "weights", decision.weights
    if decision.saves or decision.converts:
        told = f"saves {decision.saves:.1f} us alone, conversions take {decision.converts:.1f} us"
        yield "in integers", f"{told} ({decision.source})"
    if decision.loss:
        yield "loss", f"{decision.loss:.2e} if in integers"


def _tensors(report: Report, places: Sequence[int]) -> Rows:
    for title, edges in (
        ("reads", [edge for edge in report.graph.edges if edge.target in places]),
        ("makes", [edge for edge in report.graph.edges if edge.source in places]),
    ):
        for text in dict.fromkeys(_edge(edge) for edge in edges):
            yield title, text


def _edge(edge: Edge) -> str:
    converts = f" ({', '.join(edge.converts)})" if edge.converts else ""
    return f"'{edge.tensor}' as {edge.grid or 'float'}{converts}"


def _measured(report: Report, name: str) -> Rows:
    for layer in report.fidelity.layers:
        if node_name(layer.node) == name:
            yield from _layer(layer)


def _layer(layer: LayerFidelity) -> Rows:
    values = layer.values
    if values is not None:
        yield "values", f"{values.seen_low:.4g} to {values.seen_high:.4g} in float"
        clipped = f", {values.clipped:.2%} of the values clipped" if values.clipped else ""
        yield "grid", f"{values.dtype} from {values.low:.4g} to {values.high:.4g}{clipped}"
    before = "exact" if layer.before_db >= MOST_DECIBEL else f"{layer.before_db:.1f} dB"
    yield "error", f"inputs {before}, result {layer.sqnr_db:.1f} dB; adds {layer.noise:.1e}"


def _deciders(report: Report, decision: Decision | None) -> Rows:
    ran = [each.spec for each in report.passes]
    for topic, deciders in DECIDES.items():
        found = [spec for spec in ran if spec.partition("{")[0] in deciders]
        if found and (decision is not None or topic == "ranges"):
            yield "decided by", f"{topic}: {', '.join(found)}"
