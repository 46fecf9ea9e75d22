"""Layers whose weights eight bits would serve better than fewer.

That takes bytes, but no time and no conversions: it comes before float.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.target import Target
from .select import rule_of
from .units import Unit, weight_slot

WIDE = 8


@dataclass(frozen=True)
class Narrow:
    """A layer in integers whose weights have fewer than eight bits.

    Attributes:
        node: its label.
        pattern: selects it, as in `Target.layers`.
        loss: what its rounded weights add to the loss, in the unit of `sensitivity`.
        stored: bytes of its weights.
        size: bytes that eight bits would add.
    """

    node: str
    pattern: str
    loss: float
    stored: float
    size: float


def narrow(
    units: Sequence[Unit], integer: Sequence[bool], losses: Sequence[float], target: Target
) -> list[Narrow]:
    """Such layers, those first that lose most for their size.

    Args:
        units: of the graph.
        integer: which of them run in integers.
        losses: that their rounded weights cause.
        target: how it stores their weights.
    """
    found = []
    for unit, chosen, loss in zip(units, integer, losses, strict=False):
        slot, rule = weight_slot(unit.node), rule_of(unit.node, target)
        weights = unit.node.input(slot) if slot is not None else None
        if not chosen or weights is None or rule is None or rule.dtype.bits >= WIDE:
            continue
        name = unit.node.name or unit.node.outputs[0].name
        count, bits = weights.numpy().size, rule.dtype.bits
        stored, size = count * bits / 8, count * (WIDE - bits) / 8
        found.append(Narrow(unit.node.label, f"^{re.escape(name)}$", loss, stored, size))
    return sorted(found, key=lambda layer: -layer.loss / max(layer.size, 1))


def widened(target: Target, layers: Sequence[Narrow]) -> Target:
    """The target with weights of eight bits for `layers`."""
    return target.storing(layers=[f"{layer.pattern}=int{WIDE}" for layer in layers])
