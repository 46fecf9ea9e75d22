"""What to do about a layer that loses precision, from what was measured of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..passes import Pass, Pipeline
from ..passes.calibrate import Calibrate
from ..passes.equalize import Equalize
from ..passes.registry import BUILTIN
from ..passes.round import Round
from .report import LayerFidelity, Report

MAIN = 0.3
"""A cause of at least this share of a layer's noise is worth a cure."""
LITTLE = 1e-3
"""Noise 30 dB below a layer's signal needs no cure."""
FEW_STEPS = 64.0
"""Where most values lie within fewer steps than this, outliers have set the range."""

Change = Callable[[Sequence[Pass]], list[Pass]]


@dataclass(frozen=True)
class Advice:
    """Something to try.

    Attributes:
        why: what was measured.
        what: the cure.
        option: to add to the command (a repeated `--passes` replaces the one before).
    """

    why: str
    what: str
    option: str = ""


def advise(layer: LayerFidelity, report: Report) -> list[Advice]:
    """What to try for a layer, cheapest for the deployed model first; to leave it in float last.

    Nothing for a layer that adds little noise.
    """
    if layer.noise < LITTLE:
        return []
    return [*_cures(layer, report), *_in_float(layer, report)]


def _cures(layer: LayerFidelity, report: Report) -> Iterator[Advice]:
    found = layer.values
    if found is None:
        return
    if found.clipping > found.rounding and found.clipping >= MAIN * layer.noise:
        why = f"{found.clipped:.2%} of the values are beyond the grid and clipped"
        yield from _passes(report, why, "take the range of the extremes", _ranges("min-max"))
    elif found.rounding >= MAIN * layer.noise:
        if found.steps < FEW_STEPS:
            why = f"99 % of the values share {found.steps:.0f} steps of the grid: outliers set it"
            yield from _passes(report, why, "take the range of least error", _ranges("mse"))
            yield from _passes(report, why, "equalize channels of different ranges", _equalized)
        else:
            why = f"rounding to {found.dtype} alone makes most of this noise"
            yield Advice(
                why,
                "store activations in 16 bits, slower where the engine has no kernels for it",
                "--activations=int16",
            )
    else:
        why = "the grid of this tensor makes little of it; rounded weights are left as the cause"
        yield from _passes(report, why, "round weights by what the output loses", _rounded)


def _in_float(layer: LayerFidelity, report: Report) -> Iterator[Advice]:
    name = node_name(layer.node)
    if not name:
        return
    alone = {row["node"]: row["share"] for row in report.sensitivity.get("operators", ())}
    why = f"alone it makes {alone[layer.node]:.0%} of the error" if layer.node in alone else ""
    pattern = shlex.quote(f"^{re.escape(name)}$")
    yield Advice(why, "keep it in float", f"--exclude={pattern}")


def node_name(label: str) -> str:
    """The name in a node's label, "" for a node without one."""
    found = re.search(r"'(.+)'$", label, re.S)
    return found[1] if found else ""


def _passes(report: Report, why: str, what: str, change: Change) -> Iterator[Advice]:
    """The pipeline of the report with a change, unless that is none."""
    if not report.pipeline:
        return
    passes = [step.run for step in Pipeline(report.pipeline).resolve()]
    changed = change(passes)
    if changed != passes:
        yield Advice(why, what, f"--passes={shlex.quote(Pipeline(changed).spec)}")


def _ranges(method: str) -> Change:
    def change(passes: Sequence[Pass]) -> list[Pass]:
        return [
            replace(each, method=method) if isinstance(each, Calibrate) else each  # type: ignore[arg-type]
            for each in passes
        ]

    return change


def _equalized(passes: Sequence[Pass]) -> list[Pass]:
    return _inserted(passes, Equalize())


def _rounded(passes: Sequence[Pass]) -> list[Pass]:
    return _inserted(passes, Round())


def _inserted(passes: Sequence[Pass], new: Pass) -> list[Pass]:
    """With `new` before the first pass that is behind it in the usual order; once only."""
    names = [each.name for each in passes]
    if new.name in names:
        return list(passes)
    order = list(BUILTIN)
    behind = order[order.index(new.name) + 1 :]
    place = next((k for k, name in enumerate(names) if name in behind), len(names))
    return [*passes[:place], new, *passes[place:]]
