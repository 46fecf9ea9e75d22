"""The report as one page: no network, works from a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..advice import advise, node_name
from ..graph_view import Operator
from ..render import held
from ..report import Decision, Report
from . import summary

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("plots.js", "layout.js", "paper.js", "graph.js", "page.js")
WORST = 6
"""Layers that get a picture and advice on the page; all others are in the table."""
UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
"""What may not stand in a script element, as JSON writes it otherwise."""


def html(report: Report) -> str:
    """A page that needs nothing else."""
    worst = [layer for layer in report.fidelity.worst(WORST) if layer.noise > 0]
    index = {layer.tensor: k for k, layer in enumerate(report.fidelity.layers)}
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            times=summary.times(report),
            held=held(report.accuracy),
            worst=[(index[layer.tensor], layer, advise(layer, report)) for layer in worst],
            command=summary.reproduction(report),
            data=embedded(page_data(report)),
            style=_asset("report.css"),
            scripts=[_asset(name) for name in SCRIPTS],
            d3=_asset("vendor/d3.min.js"),
            dagre=_asset("vendor/dagre.min.js"),
            notice=_asset("vendor/NOTICE"),
        )
    )


def page_data(report: Report) -> dict[str, Any]:
    """What the scripts of the page draw."""
    layers = report.fidelity.layers
    layer_of = {layer.tensor: k for k, layer in enumerate(layers)}
    layer_of |= {layer.node: k for k, layer in enumerate(layers)}
    decisions = {(d.op, d.node): d for d in report.decisions}
    return {
        "operators": [
            _entry(each, layer_of, decisions.get((each.op, each.name)))
            for each in report.graph.operators
        ],
        "edges": [dataclasses.asdict(edge) for edge in report.graph.edges],
        "layers": [dataclasses.asdict(layer) for layer in layers],
        "front": _front(report.bits),
    }


def _entry(
    operator: Operator, layer_of: Mapping[str, int], decision: Decision | None
) -> dict[str, Any]:
    """An operator without what is empty; `layer_of` knows tensors and labels."""
    known = (*operator.tensors, f"{operator.op} '{operator.name}'")
    found: dict[str, Any] = {
        "name": operator.name,
        "op": operator.op,
        "precision": operator.precision,
        "shape": operator.shape,
        "island": operator.island if operator.island >= 0 else None,
        "layer": next((layer_of[name] for name in known if name in layer_of), None),
    }
    if decision is not None:
        found["reason"] = decision.reason or None
        if decision.why in ("hurts", "converts"):
            found |= {"saves": decision.saves, "converts": decision.converts}
    return {key: value for key, value in found.items() if value is not None}


def _front(bits: dict[str, Any]) -> dict[str, Any] | None:
    """The Pareto front without the formats of every operator."""
    if not bits:
        return None
    points = [
        {"share": point["amount"] / bits["in_float"], "sqnr": point["sqnr_db"]}
        for point in bits["points"]
    ]
    return {"paid_in": bits["paid_in"], "chosen": bits["chosen"], "points": points}


def embedded(data: Any) -> Markup:
    """JSON for a script element: no text in it can end the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(text.translate(UNSAFE))


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "db": summary.decibels,
        "share": summary.share,
        "us": summary.microseconds,
        "size": summary.megabytes,
        "node_name": node_name,
    }
    return made


def _asset(name: str) -> Markup:
    """A file of ours, to be put into the page as it is."""
    return Markup((ASSETS / name).read_text(encoding="utf-8"))
