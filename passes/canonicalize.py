"""One way to write each thing, so that every later pass has to know only that one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from ..ir import Graph
from ..ir.shapes import correct, infer
from ..ir.value import Shape
from .base import Context, Pass
from .canonical import arithmetic, clips, constants, defaults, gates, inline, linear, noops, relu
from .canonical.masks import clip_masks
from .driver import apply
from .opset import NEWEST, lower_opset, raise_opset

RULES = (
    *noops.RULES,  # first: a constant behind a no-op is shared, not copied
    *constants.RULES,
    *inline.RULES,
    *defaults.RULES,
    *clips.RULES,
    *gates.RULES,
    *relu.RULES,
    *linear.RULES,
    *arithmetic.RULES,
)


ROUNDS = 8
"""Most times that shapes may become known by what the rules did, and let more rules apply."""


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Write every operation one way: constants folded, no-ops gone, composites recognized.

    Options:
        min_opset: operator set the model is raised to (13 is the first with per-channel grids).
    """

    name: ClassVar[str] = "canonicalize"
    establishes: ClassVar[tuple[str, ...]] = ("canonical",)
    preserves_function: ClassVar[bool] = True

    min_opset: int = 13

    def __post_init__(self) -> None:
        """Check the option."""
        newest = onnx.defs.onnx_opset_version()
        if not 13 <= self.min_opset <= newest:
            raise ValueError(f"min-opset is from 13 to {newest}, not {self.min_opset}")

    def run(self, graph: Graph, context: Context) -> None:
        """Apply the rules of `passes/canonical` until nothing changes."""
        for value, declared in correct(graph).items():
            context.report.note(
                f"'{value.name}' is declared {_text(declared)}, but is {_text(value.shape)}"
            )
        infer(graph)
        lower_opset(graph, max(self.min_opset, NEWEST))
        raise_opset(graph, self.min_opset)
        if inline.inline_functions(graph, context.report):
            infer(graph)
        unknown = -1
        for _ in range(ROUNDS):
            apply(graph, RULES, context.report)
            before, unknown = unknown, unknown_shapes(graph)
            if unknown in (0, before):
                break
            infer(graph)
        graph.sweep()
        clip_masks(graph, context.report)


def _text(shape: Shape | None) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in shape or ())}]"


def unknown_shapes(graph: Graph) -> int:
    """How many values have an unknown rank or size."""
    return sum(v.shape is None or None in v.shape for v in graph.values())
