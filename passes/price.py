"""Puts measured losses into a placement problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir import Graph, Value
from ..ir.ranges import key
from .base import Loss
from .placement import Problem, Shared
from .units import Unit, data_inputs, makers_and_readers


def price(
    problem: Problem, units: Sequence[Unit], graph: Graph, losses: Mapping[str, Loss]
) -> None:
    """Put losses into a placement problem.

    What rounded weights lose is their operator's. What rounding a tensor loses is shared by its
    maker and all who read it, also behind data movers: any of them in integers causes it.
    """
    maker, reader = makers_and_readers(units)

    def readers(value: Value) -> set[int]:
        found: set[int] = set()
        for node, _ in value.uses:
            k = reader.get(node)
            if k is None or all(v is not value for _, v in data_inputs(units[k].node)):
                continue
            found.add(k)
            if not any(key(result) in losses for result in units[k].results):
                found.update(*(readers(result) for result in units[k].results))
        return found

    problem.shared.clear()
    for value in [*graph.inputs, *maker]:
        loss = losses.get(key(value))
        if loss is None:
            continue
        members = readers(value)
        if value in maker:
            members.add(maker[value])
            problem.loss[maker[value]] = loss.weights
        problem.shared.append(Shared(tuple(sorted(members)), loss.rounding))
