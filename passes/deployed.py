"""An annotated graph as it will be deployed."""

from __future__ import annotations

from ..ir import Graph
from ..ir.clone import clone
from ..ir.target import Target
from .base import Context
from .cleanup import Cleanup
from .quant import Quantize
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
