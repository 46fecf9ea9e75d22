"""An annotated graph as it will be deployed."""

from __future__ import annotations

from ..ir import Graph
from ..ir.clone import clone
from ..ir.target import Target
from .base import Context
from .cleanup import Cleanup
from .quant import Quantize


def deployed(graph: Graph, target: Target) -> Graph:
    """A copy with its annotations written out, as the end of the pipeline does."""
    copy, _ = clone(graph)
    context = Context(target)
    Quantize().run(copy, context)
    Cleanup().run(copy, context)
    return copy
