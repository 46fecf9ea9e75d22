"""An annotated graph as it will be deployed."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Graph, Value
from ..ir.clone import clone
from ..ir.target import Target
from .base import Context
from .cleanup import Cleanup
from .grids import Span
from .plan import annotate, clear
from .quant import Quantize
from .units import Unit
from .zero_filter import ZeroFilter


def deployed(graph: Graph, target: Target, *, just_planned: bool = False) -> Graph:
    """A copy with its annotations written out, as the end of the pipeline does.

    Args:
        graph: annotated.
        target: what for.
        just_planned: no pass looked at the scales of its weights yet; without that, sums may not
            fit 32 bits.
    """
    copy, _ = clone(graph)
    context = Context(target)
    if just_planned:
        ZeroFilter().run(copy, context)
    Quantize().run(copy, context)
    Cleanup().run(copy, context)
    return copy


def deployed_choice(
    graph: Graph,
    units: list[Unit],
    integer: Sequence[bool],
    spans: dict[Value, Span],
    target: Target,
) -> Graph:
    """`graph` as deployed with some of its units in integers; it keeps their annotations.

    Args:
        graph: in float; what it was annotated with is cleared.
        units: of `graph`, all of them.
        integer: for each unit whether it runs in integers; a placement's entry for what is outside
            may follow.
        spans: ranges of the tensors around the units in integers.
        target: what for.
    """
    clear(graph)
    for unit, chosen in zip(units, integer[: len(units)], strict=True):
        unit.integer = chosen
    annotate(units, spans, target)
    return deployed(graph, target, just_planned=True)
